// What becomes of the sums of a matrix product before they are stored, in either element type.
//     y = max(sum + bias, 0), or sum + bias
// Stores overwrite; nothing else is written.
#include "bfloat16.cuh"
#include "relu.cuh"

__device__ inline float finished(float sum, float bias, bool with_relu) {
    return with_relu ? relu(sum + bias) : sum + bias;
}

// `count` of 8 neighbours: those that exist; all at once if they lie where that is possible.
template <class T>
__device__ void store(T* to, const float (&x)[8], int count, bool at_once) {
    if (at_once) return store8(to, x);
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < count) store(to + i, x[i]);
}
