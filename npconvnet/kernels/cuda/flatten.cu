// An image as one vector, channel by channel, as in ../cpu/flatten.py; and back: every image is a matrix to transpose.
//     y[n, j, i] = x[n, i, j]        of (pixels, channels) on the way there, of (channels, pixels) on the way back
// Every element of the result is overwritten, by the one thread that gathers it. Nothing else is written.
#include "elementwise.cuh"

template <class T>
__device__ void transpose(const T* x, T* y, int rows, int columns, long long count) {
    const long long at = element();
    if (at >= count) return;
    const long long i = at % rows, j = at / rows % columns, n = at / rows / columns;
    y[at] = x[(n * rows + i) * columns + j];
}

extern "C" __global__ void transpose_floats(const float* __restrict__ x, float* __restrict__ y, int rows, int columns,
                                            long long count) {
    transpose(x, y, rows, columns, count);
}

extern "C" __global__ void transpose_words(const unsigned short* __restrict__ x, unsigned short* __restrict__ y,
                                           int rows, int columns, long long count) {
    transpose(x, y, rows, columns, count);
}
