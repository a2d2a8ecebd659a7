// The sum of arrays of one shape, as in ../cpu/add.py, of float32 or of bfloat16 words.
//     y[i] = x_0[i] + x_1[i] + ...        in float32, from the first to the last; words are rounded once, at the end
// All of y is overwritten, every element by the one thread that computes it. Nothing else is written.
#include "bfloat16.cuh"
#include "elementwise.cuh"

constexpr int MOST = 64;  // as in add.py

template <class Number>
struct Summands {  // SUMMANDS in add.py
    const Number* x[MOST];
    long long arrays;
};

template <class Number>
__device__ void add(const Summands<Number>& summands, Number* y, long long count) {
    const long long i = element();
    if (i >= count) return;
    float total = widened(summands.x[0][i]);
    for (int array = 1; array < summands.arrays; array++) total += widened(summands.x[array][i]);
    store(y + i, total);
}

extern "C" __global__ void add_floats(Summands<float> summands, float* __restrict__ y, long long count) {
    add(summands, y, count);
}

extern "C" __global__ void add_words(Summands<unsigned short> summands, unsigned short* __restrict__ y,
                                     long long count) {
    add(summands, y, count);
}
