// Numbers of 16 bits with the range of float32, as words; and both element types of the kernels, alone and 8 at once.
//     word = the upper half of x, rounded to nearest, ties to even;  x = word, followed by 16 zero bits
// Stores overwrite. Eights begin at a multiple of 16 bytes; to store eight words needs sm_80.
#include "ptx.cuh"

__device__ inline unsigned short rounded(float x) {
    const unsigned bits = __float_as_uint(x), odd = bits >> 16 & 1;  // of two neighbours as near, to the even one
    return x == x ? (bits + 0x7FFF + odd) >> 16 : 0x7FC0;            // a NaN's bits may carry over
}

__device__ inline float extended(unsigned short word) {
    return __uint_as_float((unsigned)word << 16);
}

__device__ inline float widened(unsigned short word) { return extended(word); }
__device__ inline float widened(float x) { return x; }

__device__ inline void store(unsigned short* to, float x) { *to = rounded(x); }
__device__ inline void store(float* to, float x) { *to = x; }

struct alignas(16) Chunk {  // 16 bytes, moved at once
    unsigned bits[4];
};

__device__ inline void load8(const unsigned short* from, float (&x)[8]) {
    const Chunk words = *reinterpret_cast<const Chunk*>(from);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const unsigned pair = words.bits[i / 2];
        x[i] = __uint_as_float(i % 2 ? pair & 0xFFFF0000 : pair << 16);
    }
}

__device__ inline void load8(const float* from, float (&x)[8]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const Chunk floats = reinterpret_cast<const Chunk*>(from)[half];
#pragma unroll
        for (int i = 0; i < 4; i++) x[4 * half + i] = __uint_as_float(floats.bits[i]);
    }
}

__device__ inline void store8(unsigned short* to, const float (&x)[8]) {
    Chunk words;
#pragma unroll
    for (int i = 0; i < 4; i++) words.bits[i] = pack_bfloat16(x[2 * i], x[2 * i + 1]);
    *reinterpret_cast<Chunk*>(to) = words;
}

__device__ inline void store8(float* to, const float (&x)[8]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        Chunk floats;
#pragma unroll
        for (int i = 0; i < 4; i++) floats.bits[i] = __float_as_uint(x[4 * half + i]);
        reinterpret_cast<Chunk*>(to)[half] = floats;
    }
}
