// A fully connected layer in plain float32, as in ../cpu/linear.py: the three matrix products.
//     y[n, o] = sum over i of x[n, i] * w[o, i]      dx[n, i] = sum over o of dy[n, o] * w[o, i]
//     dw[o, i] = sum over n of dy[n, o] * x[n, i]
// All of y, dx and dw is overwritten, every element by the one thread that computes it. Nothing else is written.
#include "tiled_product.cuh"

extern "C" __global__ void linear_forward(const float* __restrict__ x,  // (N, in)
                                          const float* __restrict__ w,  // (out, in)
                                          float* __restrict__ y,        // (N, out)
                                          int N, int in, int out) {
    tiled_product<ALONG_SUM, ALONG_SUM>(
        N, out, in, [=](int n, int i) { return x[(long long)n * in + i]; },
        [=](int o, int i) { return w[(long long)o * in + i]; },
        [=](int n, int o, float sum) { y[(long long)n * out + o] = sum; });
}

extern "C" __global__ void linear_backward_input(const float* __restrict__ dy, const float* __restrict__ w,
                                                 float* __restrict__ dx, int N, int in, int out) {
    tiled_product<ALONG_SUM, ALONG_RESULT>(
        N, in, out, [=](int n, int o) { return dy[(long long)n * out + o]; },
        [=](int i, int o) { return w[(long long)o * in + i]; },
        [=](int n, int i, float sum) { dx[(long long)n * in + i] = sum; });
}

extern "C" __global__ void linear_backward_weights(const float* __restrict__ dy, const float* __restrict__ x,
                                                   float* __restrict__ dw, int N, int in, int out) {
    tiled_product<ALONG_RESULT, ALONG_RESULT>(
        out, in, N, [=](int o, int n) { return dy[(long long)n * out + o]; },
        [=](int i, int n) { return x[(long long)n * in + i]; },
        [=](int o, int i, float sum) { dw[(long long)o * in + i] = sum; });
}
