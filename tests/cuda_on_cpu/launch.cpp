// Runs a kernel (cuda_on_cpu.h), block by block, and comes back whatever happens.
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdio>

#include "shared_memory.h"
#include "threads.h"

dim3 blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {
namespace {

sigjmp_buf launched;
char complaint[1024];
void* fault;

void crashed(int, siginfo_t* info, void*) {
    if (info->si_signo == SIGFPE) fail("an integer is divided by 0");
    fault = info->si_addr;
    fail("there is no memory at address %p", fault);
}

// As long as it lives, a kernel that crashes fails.
class Crashes {
    static constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE};
    struct sigaction others[3];
    stack_t other_stack;
    unsigned char stack[64 << 10];

   public:
    Crashes() {
        stack_t mine = {};
        mine.ss_sp = stack, mine.ss_size = sizeof stack;
        sigaltstack(&mine, &other_stack);
        struct sigaction action = {};
        action.sa_sigaction = crashed, action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        for (int i = 0; i < 3; i++) sigaction(SIGNALS[i], &action, &others[i]);
    }
    ~Crashes() {
        for (int i = 0; i < 3; i++) sigaction(SIGNALS[i], &others[i], nullptr);
        sigaltstack(&other_stack, nullptr);
    }
};

// How a kernel is launched, as emulator.py says it.
struct Launch {
    dim3 grid, block;
    void** arguments;  // where the values of the parameters are
    unsigned char* dynamic_shared;
    std::size_t dynamic_shared_size;
    bool backwards;
    void* fault;  // comes back: the address at which the kernel found no memory
};

void run_grid(const Launch& how) {
    const unsigned blocks = gridDim.x * gridDim.y * gridDim.z;
    for (unsigned b = 0; b < blocks; b++) {
        blockIdx = place(how.backwards ? blocks - 1 - b : b, gridDim);
        begin_shared_memory(), hardware.begin_block();
        run_block(how.arguments);
        hardware.end_block();
    }
}

}  // namespace

Hardware hardware = {[] {}, [] { return false; }, [] {}};

void fail(const char* format, ...) {
    va_list values;
    va_start(values, format);
    std::vsnprintf(complaint, sizeof complaint, format, values);
    va_end(values);
    siglongjmp(launched, 1);
}

// Every thread of every block. Returns what is wrong, or nothing.
extern "C" [[gnu::visibility("default")]] const char* launch(Launch& how) {
    gridDim = how.grid, blockDim = how.block, fault = nullptr;
    give_threads(blockDim, how.backwards);
    give_shared_memory(how.dynamic_shared, how.dynamic_shared_size, blockDim.x * blockDim.y * blockDim.z);
    Crashes crashes;
    const bool failed = sigsetjmp(launched, true);
    if (!failed) run_grid(how);
    take_threads_back();
    how.fault = fault;
    return failed ? complaint : nullptr;
}

}  // namespace cuda_on_cpu
