// Barriers in shared memory ("mbarriers", sm_90): each phase ends when all have arrived and all bytes have been copied.
#pragma once
#include "../threads.h"

using Barrier = unsigned long long;

void barrier_init(Barrier* barrier, int arrivals, CUDA_ON_CPU_HERE);
void fence_barrier_init();
void barrier_arrive(Barrier* barrier, CUDA_ON_CPU_HERE);
void barrier_expect(Barrier* barrier, int bytes, CUDA_ON_CPU_HERE);
void barrier_wait(Barrier* barrier, int parity, CUDA_ON_CPU_HERE);

namespace cuda_on_cpu {

void begin_barriers();                                                      // for a block
void require_barrier_for_copy(Barrier* barrier, const char* file, int line);
bool is_awaited(Barrier* barrier);
void bytes_are_copied(Barrier* barrier, int bytes);
void require_that_no_barrier_is_awaited();                                  // when nothing else can go on

}  // namespace cuda_on_cpu
