// A bias and the ReLU behind it in one pass through memory, in plain float32, as in ../cpu/bias_relu.py.
//     y[m, k] = max(x[m, k] + b[k], 0)
// Writes over x, every element by the one thread that computes it.
#include "elementwise.cuh"
#include "relu.cuh"

extern "C" __global__ void bias_relu_forward(float* __restrict__ x,        // (rows, channels)
                                             const float* __restrict__ b,  // (channels,)
                                             int channels, long long count) {
    const long long i = element();
    if (i < count) x[i] = relu(x[i] + b[i % channels]);
}
