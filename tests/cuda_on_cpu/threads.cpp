// How threads take turns (threads.h).
#include "threads.h"

#include <cstdio>
#include <sys/mman.h>
#include <ucontext.h>
#include <utility>
#include <vector>

dim3 threadIdx;

namespace cuda_on_cpu {
namespace {

struct Fiber {           // a stack
    void* place[5];      // where it goes on
    ucontext_t* start;   // where it begins, until it has begun
};

struct Place {  // in the source
    const char *what, *file;
    int line;
};

struct Thread {
    dim3 index;
    Fiber* fiber;    // none, if it has not begun, or has finished
    Place waits_at;  // what it waits for, or waited for last
};

struct Warp {         // one bit for each thread ("lane")
    unsigned alive;   // who has not finished
    unsigned ready;   // who need not wait
    unsigned met;     // who waits for an operation
    unsigned wanted;  // and who has to be there
    const Operation* operation;
    void* operands[warpSize];
};

void** arguments;
bool backwards;
std::vector<Thread> threads;
std::vector<Warp> warps;
int current;  // the number of the thread that runs
int alive;    // how many have not finished
int arrived;  // how many wait at the barrier of the block
int passed;   // how often all have passed it

constexpr std::size_t STACK = 256 << 10;  // bytes
char* stacks;
std::vector<Fiber> fibers;
std::vector<ucontext_t> starts;
std::vector<Fiber*> idle;
Fiber launcher;  // the stack that the launch came on

// g++'s own words for setjmp and longjmp are three times as fast as those of the C library.
[[noreturn, gnu::noinline]] void go_on(Fiber& fiber) {
    if (fiber.start) setcontext(std::exchange(fiber.start, nullptr));
    __builtin_longjmp(fiber.place, 1);
}

// Goes on in `to`, until somebody goes on in `from`.
[[gnu::noinline]] void jump(Fiber& from, Fiber& to) {
    if (!__builtin_setjmp(from.place)) go_on(to);
}

Warp& warp_of(int thread) {
    return warps[thread / warpSize];
}

unsigned lane_bit(int thread) {
    return 1u << thread % warpSize;
}

bool has_finished(int thread) {
    return !(warp_of(thread).alive & lane_bit(thread));
}

int first_lane(unsigned lanes) {
    return backwards ? 31 - __builtin_clz(lanes) : __builtin_ctz(lanes);
}

int first_warp() {
    return backwards ? warps.size() - 1 : 0;
}

#define INDEX(i) (i).x, (i).y, (i).z

// Some thread waits, and another has finished, or waits elsewhere.
[[noreturn]] void report_deadlock() {
    int one = 0, other = 0;
    while (has_finished(one)) one++;
    const Place& place = threads[one].waits_at;
    const auto is_there = [&](int t) {
        const Place& its = threads[t].waits_at;
        return !has_finished(t) && its.what == place.what && its.line == place.line;
    };
    while (other < int(threads.size()) - 1 && is_there(other)) other++;
    const Place& its = threads[other].waits_at;
    char does[256] = "has finished";
    if (!has_finished(other)) std::snprintf(does, sizeof does, "waits at %s (%s:%d)", its.what, its.file, its.line);
    fail("deadlock in block (%u, %u, %u): thread (%u, %u, %u) waits at %s (%s:%d), and thread (%u, %u, %u) %s",
         INDEX(blockIdx), INDEX(threads[one].index), place.what, place.file, place.line, INDEX(threads[other].index),
         does);
}

// The first who need not wait, of warp `begin` if it has one, else of the warps behind it.
int next_ready(int begin) {
    const int count = warps.size();
    do {
        for (int i = 0; i < count; i++) {
            const int w = (backwards ? begin - i + count : begin + i) % count;
            if (warps[w].ready) return w * warpSize + first_lane(warps[w].ready);
        }
    } while (hardware.goes_on());
    report_deadlock();
}

void make_current(int thread) {
    current = thread;
    threadIdx = threads[thread].index;
}

// Lets `next` run; returns when it is this thread's turn again.
void pass_on(int next) {
    if (next == current) return;
    Fiber& mine = *threads[current].fiber;
    Thread& other = threads[next];
    if (!other.fiber) other.fiber = idle.back(), idle.pop_back();
    make_current(next);
    jump(mine, *other.fiber);
}

void run_operation_if_all_met(Warp& warp) {
    if (!warp.met || warp.met != (warp.wanted & warp.alive)) return;
    warp.operation->run(warp.operands, warp.met);
    warp.ready |= std::exchange(warp.met, 0);
}

// What every stack is for: one thread after the other, while none of them waits.
void run_threads() {
    for (;;) {
        call(arguments);
        Fiber* mine = std::exchange(threads[current].fiber, nullptr);
        Warp& warp = warp_of(current);
        warp.alive &= ~lane_bit(current), warp.ready &= ~lane_bit(current);
        run_operation_if_all_met(warp);  // it waits no longer for who has finished
        if (--alive == 0) {
            idle.push_back(mine);
            jump(*mine, launcher);  // until the next block
            continue;
        }
        make_current(next_ready(current / warpSize));
        Fiber*& its = threads[current].fiber;
        if (its) {
            idle.push_back(mine);
            jump(*mine, *its);  // until this stack is needed
        } else {
            its = mine;
        }
    }
}

void prepare(Fiber& fiber, ucontext_t& start, char* stack) {
    getcontext(&start);
    start.uc_stack.ss_sp = stack, start.uc_stack.ss_size = STACK;
    makecontext(&start, run_threads, 0);
    fiber.start = &start;
    idle.push_back(&fiber);
}

constexpr Operation SYNCWARP = {"__syncwarp()", [](void**, unsigned) {}};

}  // namespace

void give_threads(dim3 block, bool the_last_goes_first) {
    const unsigned count = block.x * block.y * block.z;
    backwards = the_last_goes_first;
    threads.assign(count, {}), warps.assign((count + warpSize - 1) / warpSize, {});
    for (unsigned t = 0; t < count; t++) threads[t].index = place(t, block);

    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;  // memory is taken as far as it is used
    stacks = static_cast<char*>(mmap(nullptr, count * STACK, PROT_READ | PROT_WRITE, flags, -1, 0));
    fibers.assign(count, {}), starts.assign(count, {}), idle.clear();
    for (std::size_t i = 0; i < count; i++) prepare(fibers[i], starts[i], stacks + i * STACK);
}

void take_threads_back() {
    munmap(stacks, fibers.size() * STACK);
}

void run_block(void** values) {
    arguments = values;
    alive = threads.size(), arrived = passed = 0;
    for (Warp& warp : warps) warp = {};
    for (int t = 0; t < alive; t++) warp_of(t).alive |= lane_bit(t), warp_of(t).ready |= lane_bit(t);
    make_current(next_ready(first_warp()));
    Fiber*& its = threads[current].fiber;
    its = idle.back(), idle.pop_back();
    jump(launcher, *its);
}

int current_thread() {
    return current;
}

int barriers_passed() {
    return passed;
}

bool is_backwards() {
    return backwards;
}

void wait(const char* what, const char* file, int line) {
    threads[current].waits_at = {what, file, line};
    warp_of(current).ready &= ~lane_bit(current);
    pass_on(next_ready(current / warpSize));
}

void let_go_on(int thread) {
    warp_of(thread).ready |= lane_bit(thread);
}

void meet(unsigned lanes, const Operation& operation, void* operand, const char* file, int line) {
    Warp& warp = warp_of(current);
    if (!(lanes & lane_bit(current)))
        fail("%s (%s:%d): a thread is not in its own mask %#x", operation.name, file, line, lanes);
    if (!warp.met) {
        warp.operation = &operation, warp.wanted = lanes;
    } else if (warp.operation != &operation || warp.wanted != lanes) {
        fail("threads of one warp do %s with mask %#x and %s with mask %#x (%s:%d) at once", warp.operation->name,
             warp.wanted, operation.name, lanes, file, line);
    }
    threads[current].waits_at = {operation.name, file, line};
    warp.operands[current % warpSize] = operand;
    warp.met |= lane_bit(current), warp.ready &= ~lane_bit(current);
    run_operation_if_all_met(warp);
    pass_on(next_ready(current / warpSize));
}

}  // namespace cuda_on_cpu

void __syncwarp(unsigned lanes, const char* file, int line) {
    cuda_on_cpu::meet(lanes, cuda_on_cpu::SYNCWARP, nullptr, file, line);
}

// Those who have finished are waited for too: who leaves others at a barrier has made a mistake.
void __syncthreads(const char* file, int line) {
    using namespace cuda_on_cpu;
    threads[current].waits_at = {"__syncthreads()", file, line};
    warp_of(current).ready &= ~lane_bit(current);
    if (++arrived < int(threads.size())) return pass_on(next_ready(current / warpSize));

    for (const Thread& thread : threads) {
        if (thread.waits_at.line != line) report_deadlock();  // though a GPU may take two barriers for one
    }
    arrived = 0, passed++;
    for (Warp& warp : warps) warp.ready = warp.alive;
    pass_on(next_ready(first_warp()));
}
