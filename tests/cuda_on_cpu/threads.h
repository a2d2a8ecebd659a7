// The threads of a block, on one CPU: they take turns, each on a stack of its own.
//
// A thread runs until it has to wait for others, then the next of its warp does; when all of a warp wait, the next warp
// runs. So a warp gets as far ahead of the others as it can, which brings out what nobody made it wait for. Warps and
// threads go from the first to the last, or from the last to the first. Those who never wait need one stack in all.
#pragma once
#include <cstddef>

struct dim3 {
    unsigned x, y, z;
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

// Where in the source something is called.
#define CUDA_ON_CPU_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

void __syncthreads(CUDA_ON_CPU_HERE);
void __syncwarp(unsigned lanes = ~0u, CUDA_ON_CPU_HERE);

namespace cuda_on_cpu {

// The kernel, as RUN_ON_CPU defines it; each thread calls it.
void call(void** arguments);

// Ends the launch, from whatever stack.
[[noreturn, gnu::format(printf, 1, 2)]] void fail(const char* format, ...);

// What the hardware does of itself while threads go on: nothing, unless a kernel is linked with what does. It goes on
// only when all threads wait, and says whether it did.
struct Hardware {
    void (*begin_block)();
    bool (*goes_on)();
    void (*end_block)();
};
extern Hardware hardware;

void give_threads(dim3 block, bool the_last_goes_first);  // to a launch
void take_threads_back();
void run_block(void** arguments);
int current_thread();   // its number in its block
int barriers_passed();  // by all threads of the block
bool is_backwards();    // whether the last goes first

inline dim3 place(unsigned number, dim3 size) {
    return {number % size.x, number / size.x % size.y, number / size.x / size.y};
}

// What the threads of a warp do together: `run` is called once all are there, with what each of them brought.
struct Operation {
    const char* name;
    void (*run)(void** operands, unsigned lanes);
};

// Waits for all of `lanes` that have not finished, and lets `operation` run.
void meet(unsigned lanes, const Operation& operation, void* operand, const char* file, int line);

// Waits for something else, by its name, until somebody lets this thread go on.
void wait(const char* what, const char* file, int line);
void let_go_on(int thread);

}  // namespace cuda_on_cpu
