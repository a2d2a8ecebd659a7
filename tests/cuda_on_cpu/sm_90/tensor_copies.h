// Copies of boxes of a tensor to shared memory by the hardware ("TMA", sm_90), as the tensor's map describes them.
//
// They arrive no sooner than all threads wait, and somebody for them; until then there is nonsense where they go.
#pragma once
#include "barriers.h"

struct alignas(64) TensorMap {
    unsigned long long words[16];
};

void tma_prefetch(const TensorMap& map, CUDA_ON_CPU_HERE);
void tma_load(void* shared, const TensorMap& map, Barrier* barrier, int c, int row, CUDA_ON_CPU_HERE);
void tma_load(void* shared, const TensorMap& map, Barrier* barrier, int c, int i, int j, CUDA_ON_CPU_HERE);
void tma_load_im2col(void* shared, const TensorMap& map, Barrier* barrier, int c, int w, int h, int n,
                     unsigned short s, unsigned short r, CUDA_ON_CPU_HERE);

namespace cuda_on_cpu {

void begin_tensor_copies();            // for a block
bool a_tensor_copy_arrives();          // if there is one that somebody waits for
void require_that_all_have_arrived();  // before the block ends

}  // namespace cuda_on_cpu
