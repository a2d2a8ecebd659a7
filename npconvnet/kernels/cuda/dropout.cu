// Dropout, as in ../cpu/dropout.py, of float32 and of bfloat16 words, which are scaled in float32 and rounded.
//     y[i] = x[i] / (1 - rate) where kept[i], 0 elsewhere;  kept[n, i]: word i of the chances of image n is large enough
// Every element of y and of kept is overwritten, by the one thread that computes it. Nothing else is written.
#include "bfloat16.cuh"
#include "elementwise.cuh"
#include "philox.cuh"

// A thread draws four words, and with them decides on four numbers of an image. `least` is the least word that keeps.
extern "C" __global__ void draw_kept(const long long* __restrict__ items,  // (N,)
                                     const unsigned* __restrict__ key,     // (2,)
                                     bool* __restrict__ kept,              // (N, size)
                                     unsigned stream, unsigned long long least, long long size, long long count) {
    const long long draws = (size + 3) / 4, n = element() / draws, draw = element() % draws;
    if (element() >= count) return;

    const unsigned long long item = items[n];
    unsigned words[4] = {(unsigned)draw, stream, (unsigned)item, (unsigned)(item >> 32)};
    philox(words, key[0], key[1]);

#pragma unroll
    for (int k = 0; k < 4; k++)
        if (4 * draw + k < size) kept[n * size + 4 * draw + k] = words[k] >= least;
}

template <class T>
__device__ void drop(const T* __restrict__ x, const bool* __restrict__ kept, T* __restrict__ y, float scale,
                     long long count) {
    const long long i = element();
    if (i < count) store(y + i, kept[i] ? widened(x[i]) * scale : 0);  // 0 times inf or NaN would be NaN
}

extern "C" __global__ void dropout(const float* __restrict__ x, const bool* __restrict__ kept, float* __restrict__ y,
                                   float scale, long long count) {
    drop(x, kept, y, scale, count);
}

extern "C" __global__ void dropout_of_words(const unsigned short* __restrict__ x, const bool* __restrict__ kept,
                                            unsigned short* __restrict__ y, float scale, long long count) {
    drop(x, kept, y, scale, count);
}
