// CUDA's vocabulary: qualifiers, short vectors, and functions of one thread.
#pragma once
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

#define CUDA_ON_CPU_VECTORS(T, name, bytes)                                              \
    struct alignas(2 * bytes) name##2 { T x, y; };                                       \
    struct alignas(4 * bytes) name##4 { T x, y, z, w; };                                 \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                           \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CUDA_ON_CPU_VECTORS(float, float, 4)
CUDA_ON_CPU_VECTORS(int, int, 4)
CUDA_ON_CPU_VECTORS(unsigned, uint, 4)
CUDA_ON_CPU_VECTORS(unsigned short, ushort, 2)
CUDA_ON_CPU_VECTORS(unsigned char, uchar, 1)

// Of C's <math.h>: g++ takes longer to read its own of that name than to compile a small kernel.
extern "C" {
float expf(float) noexcept, logf(float) noexcept, powf(float, float) noexcept, sqrtf(float) noexcept;
float fminf(float, float) noexcept, fmaxf(float, float) noexcept;
}

// The same bits as a number of another type.
template <class To, class From>
To same_bits(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}
inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return same_bits<float>(x); }
inline int __float_as_int(float x) { return same_bits<int>(x); }
inline float __int_as_float(int x) { return same_bits<float>(x); }

#define CUDA_ON_CPU_MIN_MAX(T)                            \
    inline T min(T a, T b) { return b < a ? b : a; }      \
    inline T max(T a, T b) { return a < b ? b : a; }
CUDA_ON_CPU_MIN_MAX(int)
CUDA_ON_CPU_MIN_MAX(unsigned)
CUDA_ON_CPU_MIN_MAX(long long)
CUDA_ON_CPU_MIN_MAX(unsigned long long)
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }

inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float x, float y) { return x / y; }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned long long)a * b >> 32; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
template <class T>
T __ldg(const T* address) { return *address; }

// To the 10 bits of TF32's mantissa: to nearest, of two as near away from 0. NaN and infinity stay.
inline unsigned to_tf32(float x) {
    const unsigned bits = __float_as_uint(x);
    return __builtin_isfinite(x) ? (bits + 0x1000) & ~0x1FFFu : bits & ~0x1FFFu | (x == x ? 0 : 0x400000);
}

// Two words of bfloat16, the upper halves of numbers rounded to nearest, of two as near to the even one.
inline unsigned pack_bfloat16(float low, float high) {
    const auto word = [](float x) {
        const unsigned bits = __float_as_uint(x);
        return x == x ? (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 : 0x7FFF;
    };
    return word(low) | word(high) << 16;
}
