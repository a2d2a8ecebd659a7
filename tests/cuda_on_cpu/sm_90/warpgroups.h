// How the 128 threads of a warpgroup multiply tiles of shared memory ("wgmma", sm_90a), while they themselves go on.
//
// A product is made no sooner than all threads wait, and some of them for it: the tiles are read then. From when it is
// begun until it is awaited, there is nonsense in the registers of its sums.
#pragma once
#include "tiles.h"

namespace cuda_on_cpu {

struct Factors {
    unsigned long long a, b;  // descriptors
    bool a_lies, b_lies;
};

void begin_product(float* sum, const Factors& factors, const char* file, int line);
void fence_products(const char* file, int line);
void commit_products(const char* file, int line);
void await_products(int all_groups_but, const char* file, int line);

void begin_products();                          // for a block
bool products_are_made();                       // if there are some that somebody waits for
void require_that_all_products_were_awaited();  // before the block ends

}  // namespace cuda_on_cpu

inline unsigned long long descriptor(const void* tile, int leading_bytes, int stride_bytes) {
    const auto sixteenths = [](int bytes) { return static_cast<unsigned long long>(bytes >> 4 & 0x3FFF); };
    return 1ull << 62 | sixteenths(stride_bytes) << 32 | sixteenths(leading_bytes) << 16 |
           sixteenths(cuda_on_cpu::tile_address("descriptor", tile, 16));
}

template <bool A_LYING, bool B_LYING>
void wgmma_m64n256k16(float (&sum)[128], unsigned long long a, unsigned long long b, CUDA_ON_CPU_HERE) {
    cuda_on_cpu::begin_product(sum, {a, b, A_LYING, B_LYING}, file, line);
}

inline void wgmma_commit(CUDA_ON_CPU_HERE) {
    cuda_on_cpu::commit_products(file, line);
}

// Nothing can follow a pack of arguments, so that these two do not say where they are called.
template <int... SIZES>
void wgmma_fence(float (&... sums)[SIZES]) {
    cuda_on_cpu::fence_products("wgmma_fence", 0);
}

template <int N, int... SIZES>
void wgmma_wait(float (&... sums)[SIZES]) {
    static_assert(0 <= N && N <= 7);
    cuda_on_cpu::await_products(N, "wgmma_wait", N);
}
