// A bias in plain float32, as in ../cpu/bias.py: one number for all places of a channel.
//     y[m, k] = x[m, k] + b[k]            db[k] = sum over m of dy[m, k]
// The forward writes over x. The sums of rows are all overwritten, each by the one thread that computes it.
#include "elementwise.cuh"

extern "C" __global__ void bias_forward(float* __restrict__ x,        // (rows, channels)
                                        const float* __restrict__ b,  // (channels,)
                                        int channels, long long count) {
    const long long i = element();
    if (i < count) x[i] += b[i % channels];
}

constexpr int ROWS = 64;  // as in bias.py

// A thread adds ROWS rows of one column. The sums are rows again, 64 times fewer: bias.py has them added up in turn
// until one is left. So many threads share a column, no sum is long, which float32 would round too often, and the order
// of all additions follows from the shape alone.
extern "C" __global__ void sum_rows(const float* __restrict__ x,  // (rows, channels)
                                    float* __restrict__ sums,     // (rows / ROWS, channels), rounded up
                                    long long rows, int channels, long long count) {
    const long long i = element();
    if (i >= count) return;
    const long long k = i % channels, first = i / channels * ROWS, last = first + ROWS;
    float total = 0;
    for (long long row = first; row < last && row < rows; row++) total += x[row * channels + k];
    sums[i] = total;
}
