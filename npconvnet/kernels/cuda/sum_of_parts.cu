// Adds up the parts into which a matrix product was split, in float32; then come bias and ReLU, if wanted.
//     y[i] = relu(bias[i % K] + sum over part of parts[part, i])
// From the first part to the last, by one thread for each element of y, all of which are overwritten.
#include "elementwise.cuh"
#include "epilogue.cuh"

template <class T>
__device__ void add_up(const float* __restrict__ parts, const float* __restrict__ bias, T* __restrict__ y, int count,
                       int K, bool has_bias, bool relu, long long elements) {
    const long long i = element();
    if (i >= elements) return;
    float sum = parts[i];
#pragma unroll 4
    for (int part = 1; part < count; part++) sum += parts[part * elements + i];
    store(y + i, finished(sum, has_bias ? bias[i % K] : 0, relu));
}

extern "C" __global__ void sum_to_words(const float* parts, const float* bias, unsigned short* y, int count, int K,
                                        bool has_bias, bool relu, long long elements) {
    add_up(parts, bias, y, count, K, has_bias, relu, elements);
}

extern "C" __global__ void sum_to_floats(const float* parts, const float* bias, float* y, int count, int K,
                                         bool has_bias, bool relu, long long elements) {
    add_up(parts, bias, y, count, K, has_bias, relu, elements);
}
