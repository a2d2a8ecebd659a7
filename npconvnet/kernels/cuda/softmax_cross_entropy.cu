// Softmax, and the cross-entropy of its probabilities with its gradient, as in ../cpu/softmax_cross_entropy.py.
//     p[n, c] = exp(s[n, c] - m) / sum over c' of exp(s[n, c'] - m),  m the largest of row n;  dS = (p - onehot(label)) / of
//     losses[n] = log(sum over c' of exp(s[n, c'] - m)) - (s[n, label[n]] - m);  loss = sum over n of losses[n] / of
// Every element of the results is overwritten. A warp has a row of scores, and each sum has one order: same bits each run.
#include "bfloat16.cuh"

// The 32 threads of a warp put their values together, in pairs, pairs of pairs and so on: all get the same.
template <class Operation>
__device__ float of_warp(float x, Operation operation) {
    for (int distance = 16; distance > 0; distance /= 2) x = operation(x, __shfl_xor_sync(0xFFFFFFFF, x, distance));
    return x;
}

__device__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ float plus(float a, float b) { return a + b; }

struct Row {  // what the probabilities of a row have in common
    float largest, sum;
};

__device__ Row row_of(const float* __restrict__ scores, int classes) {
    float largest = __uint_as_float(0xFF800000), sum = 0;  // -infinity
    for (int c = threadIdx.x; c < classes; c += 32) largest = larger(largest, scores[c]);
    largest = of_warp(largest, larger);
    for (int c = threadIdx.x; c < classes; c += 32) sum += expf(scores[c] - largest);
    return {largest, of_warp(sum, plus)};
}

extern "C" __global__ void softmax(const float* __restrict__ scores,   // (N, classes)
                                   float* __restrict__ probabilities,  // (N, classes)
                                   int classes) {
    const long long begin = (long long)blockIdx.x * classes;
    const Row row = row_of(scores + begin, classes);
    for (int c = threadIdx.x; c < classes; c += 32)
        probabilities[begin + c] = expf(scores[begin + c] - row.largest) / row.sum;
}

template <class T>
__device__ void losses_and_gradient(const float* __restrict__ scores, const long long* __restrict__ labels,
                                    float* __restrict__ losses, T* __restrict__ d_scores, int classes, float of) {
    const long long begin = (long long)blockIdx.x * classes, label = labels[blockIdx.x];
    scores += begin, d_scores += begin;
    const Row row = row_of(scores, classes);
    for (int c = threadIdx.x; c < classes; c += 32)
        store(d_scores + c, (expf(scores[c] - row.largest) / row.sum - (c == label)) / of);

    if (threadIdx.x > 0) return;
    const bool exists = 0 <= label && label < classes;  // what is no class shows as NaN
    losses[blockIdx.x] = exists ? logf(row.sum) - (scores[label] - row.largest) : __uint_as_float(0x7FC00000);
}

extern "C" __global__ void softmax_cross_entropy(const float* __restrict__ scores,      // (N, classes)
                                                 const long long* __restrict__ labels,  // (N,)
                                                 float* __restrict__ losses,            // (N,)
                                                 float* __restrict__ d_scores,          // (N, classes)
                                                 int classes, float of) {
    losses_and_gradient(scores, labels, losses, d_scores, classes, of);
}

extern "C" __global__ void softmax_cross_entropy_in_words(const float* __restrict__ scores,          // (N, classes)
                                                          const long long* __restrict__ labels,      // (N,)
                                                          float* __restrict__ losses,                // (N,)
                                                          unsigned short* __restrict__ d_scores,     // (N, classes)
                                                          int classes, float of) {
    losses_and_gradient(scores, labels, losses, d_scores, classes, of);
}

// A launch of its own, of one warp: only then are all losses there.
extern "C" __global__ void sum_of_losses(const float* __restrict__ losses,  // (N,)
                                         float* __restrict__ loss,          // ()
                                         int images, float of) {
    float sum = 0;
    for (int n = threadIdx.x; n < images; n += 32) sum += losses[n];
    sum = of_warp(sum, plus);
    if (threadIdx.x == 0) *loss = sum / of;
}
