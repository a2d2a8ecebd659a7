// Stochastic gradient descent with momentum and weight decay, as in ../cpu/sgd.py; of one parameter, and of many at once.
//     v = momentum v - rate (dw + decay w);  w = w + v;  and the new w as a bfloat16 word, where such are kept
// w, v and the words are overwritten, each number by the one thread that computes it; dw is left as it is.
#include "bfloat16.cuh"
#include "elementwise.cuh"

__device__ void step(float& w, float& velocity, float dw, float rate, float momentum, float decay) {
    velocity = momentum * velocity - rate * (dw + decay * w);
    w += velocity;
}

extern "C" __global__ void sgd_update(float* __restrict__ w, float* __restrict__ velocity, const float* __restrict__ dw,
                                      float rate, float momentum, float decay, long long count) {
    const long long i = element();
    if (i < count) step(w[i], velocity[i], dw[i], rate, momentum, decay);
}

struct Tensor {  // the fields of TENSOR in sgd.py
    float *w, *velocity, *dw;  // dw is only read
    unsigned short* words;     // or null
    long long count;
    unsigned first_block;
    float rate_factor, decay;
};

constexpr int MOST = 64, PER_BLOCK = 4096;  // as in sgd.py

struct Tensors {  // handed over by value: the arguments of a kernel may have 4 KB
    Tensor tensor[MOST];
};

// Four numbers that are moved at once.
template <class T>
struct alignas(4 * sizeof(T)) Four {
    T x[4];
};

template <class T>
__device__ Four<T>& four(T* at) {
    return *reinterpret_cast<Four<T>*>(at);
}

// Whether fours may be moved from every multiple of four on.
__device__ bool is_aligned(const Tensor& t) {
    const auto bits = [](const void* pointer) { return reinterpret_cast<unsigned long long>(pointer); };
    return ((bits(t.w) | bits(t.velocity) | bits(t.dw)) % 16 | bits(t.words) % 8) == 0;
}

// A block has PER_BLOCK numbers in a row, of one tensor: each of the tensors begins with a block of its own.
extern "C" __global__ void sgd_update_all(const Tensors tensors, const float* __restrict__ learning_rate,  // (1,)
                                          float momentum) {
    int number = 0;
    while (number + 1 < MOST && tensors.tensor[number + 1].first_block <= blockIdx.x) number++;
    Tensor t = tensors.tensor[number];
    const float rate = t.rate_factor * *learning_rate;

    const long long begin = (long long)(blockIdx.x - t.first_block) * PER_BLOCK;
    const int count = t.count - begin < PER_BLOCK ? t.count - begin : PER_BLOCK;
    t.w += begin, t.velocity += begin, t.dw += begin, t.words += t.words ? begin : 0;

    const int in_fours = is_aligned(t) ? count / 4 * 4 : 0;
    for (int i = 4 * threadIdx.x; i < in_fours; i += 4 * blockDim.x) {
        Four<float> w = four(t.w + i), velocity = four(t.velocity + i);
        const Four<float> dw = four(t.dw + i);
#pragma unroll
        for (int k = 0; k < 4; k++) step(w.x[k], velocity.x[k], dw.x[k], rate, momentum, t.decay);
        four(t.w + i) = w, four(t.velocity + i) = velocity;
        if (t.words) four(t.words + i) = {rounded(w.x[0]), rounded(w.x[1]), rounded(w.x[2]), rounded(w.x[3])};
    }
    for (int i = in_fours + threadIdx.x; i < count; i += blockDim.x) {  // what is left over
        step(t.w[i], t.velocity[i], t.dw[i], rate, momentum, t.decay);
        if (t.words) t.words[i] = rounded(t.w[i]);
    }
}
