// The memory that a block shares, full of NaN at first, and copies into it that arrive no sooner than they are awaited.
#pragma once
#include <cstddef>

// Nothing else is local to a thread of the CPU, so the linker puts all of it, and nothing else, in one place.
#define __shared__ static thread_local

unsigned char* dynamic_shared();

// 16 bytes, or zeros where not `valid`.
void cp_async(void* shared, const void* global, bool valid);
void cp_async_commit();
template <int N>
void cp_async_wait();

namespace cuda_on_cpu {

void give_shared_memory(unsigned char* dynamic, std::size_t dynamic_size, std::size_t threads);  // to a launch
void begin_shared_memory();                                                                      // for a block
void require_16_bytes_of_shared_memory(const char* instruction, const void* address);
bool is_in_shared_memory(const void* address, std::size_t bytes);
void all_but_the_last_copies_arrive(std::size_t groups);

}  // namespace cuda_on_cpu

template <int N>
void cp_async_wait() {
    cuda_on_cpu::all_but_the_last_copies_arrive(N);
}
