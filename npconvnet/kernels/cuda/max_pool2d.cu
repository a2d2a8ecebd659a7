// Max pooling in plain float32, as in ../cpu/max_pool2d.py.
//     y[n, p, q, c]  = max over r, s of x~[n, p*stride - top + r, q*stride - left + s, c]        switch = r*S + s there
//     dx[n, h, w, c] = sum over the windows (p, q) whose switch points to (h, w) of dy[n, p, q, c]
// x~ is x with minus infinity around it. The first of several maxima counts, and NaN is more than any number.
// All of y, switches and dx is overwritten, every element by the one thread that gathers it. Nothing else is written.
#include "elementwise.cuh"
#include "max_pool2d.cuh"

#ifndef SWITCH_BYTES  // as many as the offsets of a window need
#define SWITCH_BYTES 1
#endif
#if SWITCH_BYTES == 1
using Switch = unsigned char;
#elif SWITCH_BYTES == 2
using Switch = unsigned short;
#else
using Switch = unsigned;
#endif

// Of the window that makes the number i of y.
__device__ Maximum maximum(const float* x, const MaxPooling& pool, long long i) {
    const int c = i % pool.C, q = i / pool.C % pool.Q, p = i / pool.C / pool.Q % pool.P;
    const long long n = i / pool.C / pool.Q / pool.P;
    Maximum best;
    for (int r = 0; r < pool.R; r++)
        for (int s = 0; s < pool.S; s++) {
            const int h = p * pool.stride - pool.top + r, w = q * pool.stride - pool.left + s;
            if (h < 0 || h >= pool.H || w < 0 || w >= pool.W) continue;
            consider(best, x[((n * pool.H + h) * pool.W + w) * pool.C + c], r * pool.S + s);
        }
    return best;
}

extern "C" __global__ void max_pool2d(const float* __restrict__ x,  // (N, H, W, C)
                                      float* __restrict__ y,        // (N, P, Q, C)
                                      MaxPooling pool, long long count) {
    const long long i = element();
    if (i < count) y[i] = maximum(x, pool, i).value;
}

extern "C" __global__ void max_pool2d_forward(const float* __restrict__ x,    // (N, H, W, C)
                                              float* __restrict__ y,          // (N, P, Q, C)
                                              Switch* __restrict__ switches,  // (N, P, Q, C)
                                              MaxPooling pool, long long count) {
    const long long i = element();
    if (i >= count) return;
    const Maximum best = maximum(x, pool, i);
    y[i] = best.value;
    switches[i] = best.offset;
}

extern "C" __global__ void max_pool2d_backward(const float* __restrict__ dy,         // (N, P, Q, C)
                                               const Switch* __restrict__ switches,  // (N, P, Q, C)
                                               float* __restrict__ dx,               // (N, H, W, C)
                                               MaxPooling pool, long long count) {
    const long long i = element();
    if (i >= count) return;
    const int c = i % pool.C, w = i / pool.C % pool.W + pool.left, h = i / pool.C / pool.W % pool.H + pool.top;
    const long long n = i / pool.C / pool.W / pool.H;
    const int last_p = h / pool.stride < pool.P ? h / pool.stride : pool.P - 1;
    const int last_q = w / pool.stride < pool.Q ? w / pool.stride : pool.Q - 1;
    float total = 0;
    // The windows that see the pixel, in the order of its offsets in them.
    for (int p = last_p; p >= 0 && h - p * pool.stride < pool.R; p--)
        for (int q = last_q; q >= 0 && w - q * pool.stride < pool.S; q--) {
            const int offset = (h - p * pool.stride) * pool.S + w - q * pool.stride;
            const long long window = ((n * pool.P + p) * pool.Q + q) * pool.C + c;
            if (switches[window] == offset) total += dy[window];
        }
    dx[i] = total;
}
