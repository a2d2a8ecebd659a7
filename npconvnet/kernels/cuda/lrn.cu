// Local response normalisation in plain float32, as in ../cpu/lrn.py.
//     s[c]  = k + alpha_per_element * sum of x[c']^2 over the window of c        y[c] = x[c] * s[c]^-beta
//     dx[c] = dy[c] * s[c]^-beta - 2 * alpha_per_element * beta * x[c] * sum of dy[c'] * x[c'] * s[c']^(-beta-1)
// where the last sum is over the channels c' that have c in their window: over the mirrored window of c.
// All of y, s and dx is overwritten, every element by the one thread that gathers it. Nothing else is written.
#include "elementwise.cuh"
#include "lrn.cuh"

// The channels of one pixel, from first to last, that are up to so many before c and after it.
struct Window {
    int first, last;
};

__device__ Window around(int c, int before, int after, int channels) {
    return {c < before ? 0 : c - before, c + after < channels ? c + after : channels - 1};
}

extern "C" __global__ void lrn_forward(const float* __restrict__ x,  // (pixels, channels)
                                       float* __restrict__ y,        // (pixels, channels)
                                       float* __restrict__ s,        // (pixels, channels)
                                       LRN lrn, int size, int channels, long long count) {
    const long long i = element();
    if (i >= count) return;
    const int c = i % channels, before = (size - 1) / 2;
    const float* pixel = x + (i - c);
    const Window window = around(c, before, size - 1 - before, channels);
    float squares = 0;
    for (int other = window.first; other <= window.last; other++) squares += pixel[other] * pixel[other];
    s[i] = lrn.k + lrn.alpha_per_element * squares;
    y[i] = x[i] * to_minus_beta(s[i], lrn.beta);
}

extern "C" __global__ void lrn_backward(const float* __restrict__ dy,  // (pixels, channels)
                                        const float* __restrict__ x,   // (pixels, channels)
                                        const float* __restrict__ s,   // (pixels, channels)
                                        float* __restrict__ dx,        // (pixels, channels)
                                        LRN lrn, int size, int channels, long long count) {
    const long long i = element();
    if (i >= count) return;
    const int c = i % channels, before = (size - 1) / 2;
    const long long pixel = i - c;
    const Window mirrored = around(c, size - 1 - before, before, channels);
    float through_scales = 0;
    for (int other = mirrored.first; other <= mirrored.last; other++) {
        const long long o = pixel + other;
        through_scales += dy[o] * x[o] * to_minus_beta(s[o], lrn.beta) / s[o];
    }
    const float through_own = dy[i] * to_minus_beta(s[i], lrn.beta);
    dx[i] = through_own - 2 * lrn.alpha_per_element * lrn.beta * x[i] * through_scales;
}
