// Average pooling in plain float32, as in ../cpu/average_pool2d.py, over windows (of the whole image, too).
//     y[n, p, q, c]  = sum over r, s of x~[n, p*stride - top + r, q*stride - left + s, c] / count[p, q]
//     dx[n, h, w, c] = sum over the windows (p, q) that (h, w) lies in of dy[n, p, q, c] / count[p, q]
// x~ is x with zeros around it; count is how many pixels a window averages, with those of the padding or without.
// All of y and dx is overwritten, every element by the one thread that gathers it. Nothing else is written.
#include "elementwise.cuh"

struct AveragePooling {  // POOLING in average_pool2d.py
    int H, W, C, P, Q, R, S, stride, top, bottom, left, right, count_padding;
};

// Along one axis: the pixels [first, last) of a window that lie in [begin, end).
struct Span {
    int first, last;
};

__device__ Span clipped(int first, int last, int begin, int end) {
    return {first < begin ? begin : first, last > end ? end : last};
}

// What the window (p, q) divides by. What hangs over beyond the padding never counts.
__device__ float pixels(const AveragePooling& pool, int p, int q) {
    const int top = pool.count_padding ? pool.top : 0, bottom = pool.count_padding ? pool.bottom : 0;
    const int left = pool.count_padding ? pool.left : 0, right = pool.count_padding ? pool.right : 0;
    const int h = p * pool.stride - pool.top, w = q * pool.stride - pool.left;
    const Span rows = clipped(h, h + pool.R, -top, pool.H + bottom);
    const Span columns = clipped(w, w + pool.S, -left, pool.W + right);
    return (rows.last - rows.first) * (columns.last - columns.first);
}

extern "C" __global__ void average_pool2d_forward(const float* __restrict__ x,  // (N, H, W, C)
                                                  float* __restrict__ y,        // (N, P, Q, C)
                                                  AveragePooling pool, long long count) {
    const long long i = element();
    if (i >= count) return;
    const int c = i % pool.C, q = i / pool.C % pool.Q, p = i / pool.C / pool.Q % pool.P;
    const long long n = i / pool.C / pool.Q / pool.P;

    const int top = p * pool.stride - pool.top, left = q * pool.stride - pool.left;
    const Span rows = clipped(top, top + pool.R, 0, pool.H), columns = clipped(left, left + pool.S, 0, pool.W);
    float total = 0;
    for (int h = rows.first; h < rows.last; h++)
        for (int w = columns.first; w < columns.last; w++) total += x[((n * pool.H + h) * pool.W + w) * pool.C + c];
    y[i] = total / pixels(pool, p, q);
}

// The windows that begin at most `window` - 1 pixels before the pixel `at` of the padded image, and not behind it.
__device__ Span windows_over(int at, int window, int stride, int outputs) {
    const int first = at < window ? 0 : (at - window) / stride + 1;
    return clipped(first, at / stride + 1, 0, outputs);
}

extern "C" __global__ void average_pool2d_backward(const float* __restrict__ dy,  // (N, P, Q, C)
                                                   float* __restrict__ dx,        // (N, H, W, C)
                                                   AveragePooling pool, long long count) {
    const long long i = element();
    if (i >= count) return;
    const int c = i % pool.C, w = i / pool.C % pool.W, h = i / pool.C / pool.W % pool.H;
    const long long n = i / pool.C / pool.W / pool.H;

    const Span rows = windows_over(h + pool.top, pool.R, pool.stride, pool.P);
    const Span columns = windows_over(w + pool.left, pool.S, pool.stride, pool.Q);
    float total = 0;
    for (int p = rows.first; p < rows.last; p++)
        for (int q = columns.first; q < columns.last; q++)
            total += dy[((n * pool.P + p) * pool.Q + q) * pool.C + c] / pixels(pool, p, q);
    dx[i] = total;
}
