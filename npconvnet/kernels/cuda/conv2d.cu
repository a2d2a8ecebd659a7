// The three convolutions in plain float32, as in ../cpu/conv2d.py: matrix products whose operands are looked up.
//     fprop: y[n, p, q, k]  = sum over r, s, c of x~[n, p*stride - top + r, q*stride - left + s, c] * w[k, r, s, c]
//     dgrad: dx[n, h, w, c] = sum over r, s, k of dy[n, p, q, k] * w[k, r, s, c],  (p, q) where (r, s) lay over (h, w)
//     wgrad: dw[k, r, s, c] = sum over n, p, q of dy[n, p, q, k] * x~[n, p*stride - top + r, q*stride - left + s, c]
// x~ is x with zeros around it. All of y, dx and dw is overwritten, every element by the one thread that gathers it.
#include "tiled_product.cuh"

// Where the filters lie, the fields of CONVOLUTION in conv2d.py. C and K are the channels and filters of one group.
struct Convolution {
    int N, H, W, C, K, R, S, P, Q, stride, top, left, groups;
};

// Row (n, p, q) and column (r, s, c) of im2col's matrix, which is nowhere stored: the number of x that the filter's
// element (r, s, c) meets at the place (n, p, q).
__device__ float im2col(const float* x, const Convolution& conv, int place, int element) {
    const int q = place % conv.Q, p = place / conv.Q % conv.P, n = place / conv.Q / conv.P;
    const int c = element % conv.C, s = element / conv.C % conv.S, r = element / conv.C / conv.S;
    const int h = p * conv.stride - conv.top + r, w = q * conv.stride - conv.left + s;
    const bool inside = 0 <= h && h < conv.H && 0 <= w && w < conv.W;
    return inside ? x[(((long long)n * conv.H + h) * conv.W + w) * conv.groups * conv.C + c] : 0;
}

// The other way about, row (n, h, w) and column (r, s, k): the number of dy where filter k had its element (r, s) over
// the pixel (h, w). With strides there may be no such place.
__device__ float col2im(const float* dy, const Convolution& conv, int pixel, int element) {
    const int w = pixel % conv.W, h = pixel / conv.W % conv.H, n = pixel / conv.W / conv.H;
    const int k = element % conv.K, s = element / conv.K % conv.S, r = element / conv.K / conv.S;
    const int down = h + conv.top - r, right = w + conv.left - s;  // p * stride and q * stride
    const int p = down / conv.stride, q = right / conv.stride;
    const bool is_place = 0 <= down && down % conv.stride == 0 && p < conv.P &&  //
                          0 <= right && right % conv.stride == 0 && q < conv.Q;
    return is_place ? dy[(((long long)n * conv.P + p) * conv.Q + q) * conv.groups * conv.K + k] : 0;
}

// A group of filters sees its own channels alone: each is a convolution by itself, from here on.
__device__ long long first_channel(const Convolution& conv) { return (long long)blockIdx.z * conv.C; }
__device__ long long first_filter(const Convolution& conv) { return (long long)blockIdx.z * conv.K; }

// Y = im2col(x) . W^T
extern "C" __global__ void conv2d_forward(const float* __restrict__ x,  // (N, H, W, groups * C)
                                          const float* __restrict__ w,  // (groups * K, R, S, C)
                                          float* __restrict__ y,        // (N, P, Q, groups * K)
                                          Convolution conv) {
    const int filter_size = conv.R * conv.S * conv.C;
    x += first_channel(conv), w += first_filter(conv) * filter_size, y += first_filter(conv);
    tiled_product<ALONG_SUM, ALONG_SUM>(
        conv.N * conv.P * conv.Q, conv.K, filter_size,
        [=](int place, int element) { return im2col(x, conv, place, element); },
        [=](int k, int element) { return w[k * filter_size + element]; },
        [=](int place, int k, float sum) { y[(long long)place * conv.groups * conv.K + k] = sum; });
}

// dX = col2im(dy) . W', the filters with their axes turned to (r, s, k) and c
extern "C" __global__ void conv2d_backward_input(const float* __restrict__ dy, const float* __restrict__ w,
                                                 float* __restrict__ dx, Convolution conv) {
    const int window = conv.R * conv.S;
    dy += first_filter(conv), w += first_filter(conv) * window * conv.C, dx += first_channel(conv);
    tiled_product<ALONG_SUM, ALONG_RESULT>(
        conv.N * conv.H * conv.W, conv.C, window * conv.K,
        [=](int pixel, int element) { return col2im(dy, conv, pixel, element); },
        [=](int c, int element) {
            const int k = element % conv.K, rs = element / conv.K;
            return w[(k * window + rs) * conv.C + c];
        },
        [=](int pixel, int c, float sum) { dx[(long long)pixel * conv.groups * conv.C + c] = sum; });
}

// dW = dY^T . im2col(x)
extern "C" __global__ void conv2d_backward_filters(const float* __restrict__ dy, const float* __restrict__ x,
                                                   float* __restrict__ dw, Convolution conv) {
    const int filter_size = conv.R * conv.S * conv.C;
    dy += first_filter(conv), x += first_channel(conv), dw += first_filter(conv) * filter_size;
    tiled_product<ALONG_RESULT, ALONG_RESULT>(
        conv.K, filter_size, conv.N * conv.P * conv.Q,
        [=](int k, int place) { return dy[(long long)place * conv.groups * conv.K + k]; },
        [=](int element, int place) { return im2col(x, conv, place, element); },
        [=](int k, int element, float sum) { dw[k * filter_size + element] = sum; });
}
