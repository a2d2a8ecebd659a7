// What the threads of a warp do together: they exchange numbers, and multiply matrices that are spread over them.
#pragma once
#include <cstring>

#include "threads.h"

unsigned __ballot_sync(unsigned lanes, bool predicate, CUDA_ON_CPU_HERE);

void ldmatrix_x4(unsigned (&fragment)[4], const void* row, CUDA_ON_CPU_HERE);
void ldmatrix_x4_trans(unsigned (&fragment)[4], const void* row, CUDA_ON_CPU_HERE);
void mma_m16n8k16(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2], CUDA_ON_CPU_HERE);
void mma_m16n8k8_tf32(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2], CUDA_ON_CPU_HERE);

namespace cuda_on_cpu {

// The bits of the lane that is `by` before, behind or XORed with this one, among its `width` neighbours.
enum class Shuffle { AT, UP, DOWN, XOR };
unsigned long long shuffle(unsigned lanes, unsigned long long bits, Shuffle how, int by, int width, const char* file,
                           int line);

template <class T>
T shuffle(unsigned lanes, T value, Shuffle how, int by, int width, const char* file, int line) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    unsigned long long bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = shuffle(lanes, bits, how, by, width, file, line);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_SHUFFLE(name, how)                                                           \
    template <class T>                                                                           \
    T name(unsigned lanes, T value, int by, int width = warpSize, CUDA_ON_CPU_HERE) {            \
        return cuda_on_cpu::shuffle(lanes, value, cuda_on_cpu::Shuffle::how, by, width, file, line); \
    }
CUDA_ON_CPU_SHUFFLE(__shfl_sync, AT)
CUDA_ON_CPU_SHUFFLE(__shfl_up_sync, UP)
CUDA_ON_CPU_SHUFFLE(__shfl_down_sync, DOWN)
CUDA_ON_CPU_SHUFFLE(__shfl_xor_sync, XOR)
