// Numbers of 16 bits with the range of float32, as in ../cpu/bfloat16.py.
//     words[i] = the upper half of x[i], rounded to nearest, ties to even;  x[i] = words[i], followed by 16 zero bits
//     sums[i]  = the words of the float32 sum of column i of parts (rows, count), from the first row to the last
// Every element of the result is overwritten, by the one thread that computes it. Nothing else is written.
#include "bfloat16.cuh"

constexpr int PER_THREAD = 4;  // as in bfloat16.py

// Where the k-th number of this thread is: they lie blockDim.x apart, so that neighbouring threads read and write
// neighbouring ones. A thread asks for several before it needs the first: with one each, too few bytes would be on their
// way to keep the memory busy.
__device__ long long place(int k) {
    return ((long long)blockIdx.x * PER_THREAD + k) * blockDim.x + threadIdx.x;
}

template <auto converted, class From, class To>
__device__ void convert(const From* __restrict__ from, To* __restrict__ to, long long count) {
#pragma unroll
    for (int k = 0; k < PER_THREAD; k++) {
        const long long i = place(k);
        if (i < count) to[i] = converted(from[i]);
    }
}

extern "C" __global__ void to_bfloat16(const float* __restrict__ x, unsigned short* __restrict__ words,
                                       long long count) {
    convert<rounded>(x, words, count);
}

extern "C" __global__ void from_bfloat16(const unsigned short* __restrict__ words, float* __restrict__ x,
                                         long long count) {
    convert<extended>(words, x, count);
}

extern "C" __global__ void sum_of_words(const unsigned short* __restrict__ parts, unsigned short* __restrict__ sums,
                                        int rows, long long count) {
    float total[PER_THREAD];
#pragma unroll
    for (int k = 0; k < PER_THREAD; k++) total[k] = -0.0f;  // a number and -0 are that number; -0 and +0 would be +0
    for (int row = 0; row < rows; row++) {
#pragma unroll
        for (int k = 0; k < PER_THREAD; k++) {
            const long long i = place(k) < count ? place(k) : count - 1;  // any column will do that is not written
            total[k] += extended(parts[row * count + i]);
        }
    }
#pragma unroll
    for (int k = 0; k < PER_THREAD; k++) {
        const long long i = place(k);
        if (i < count) sums[i] = rounded(total[k]);
    }
}
