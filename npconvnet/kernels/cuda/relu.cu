// ReLU and its three backward rules in plain float32, as in ../cpu/relu.py; the rules stand in relu.cuh.
//     y = max(x, 0)            dx = dy where the rule lets it pass, 0 elsewhere
// All of y and dx is overwritten, every element by the one thread that computes it. Nothing else is written.
#include "elementwise.cuh"
#include "relu.cuh"

extern "C" __global__ void relu_forward(const float* __restrict__ x, float* __restrict__ y, long long count) {
    const long long i = element();
    if (i < count) y[i] = relu(x[i]);
}

extern "C" __global__ void relu_backward(const float* __restrict__ dy, const float* __restrict__ y,
                                         float* __restrict__ dx, int rule, long long count) {
    const long long i = element();
    if (i < count) dx[i] = relu_backward(dy[i], y[i], rule);
}
