// The phases of barriers, and who waits for their end (barriers.h).
#include "barriers.h"

#include <cstdint>
#include <cstdio>
#include <deque>
#include <vector>

#include "../shared_memory.h"

namespace cuda_on_cpu {
namespace {

struct Waiting {
    int thread;
    const char* file;
    int line;
};

struct Phases {
    Barrier* place;
    int arrivals;   // that each phase takes
    int ended;      // how many phases
    int missing;    // arrivals in this phase
    int bytes;      // that this phase expects, less those that were copied
    int begun_by;   // a thread
    int passed;     // how many barriers of the block had been passed then
    bool is_fenced;
    std::vector<Waiting> waiting;
};

// What a barrier holds: which of these it is. A kernel that overwrites it is found out.
constexpr Barrier MARK = 0xBA221E2ull << 32;
constexpr int MOST = (1 << 20) - 1;  // arrivals, and bytes
std::deque<Phases> barriers;

void require_place(const char* instruction, Barrier* barrier, const char* file, int line) {
    if (reinterpret_cast<std::uintptr_t>(barrier) % sizeof *barrier || !is_in_shared_memory(barrier, sizeof *barrier))
        fail("%s (%s:%d): a barrier is 8 bytes of shared memory, at a multiple of 8", instruction, file, line);
}

Phases& find(const char* instruction, Barrier* barrier, const char* file, int line) {
    require_place(instruction, barrier, file, line);
    const Barrier number = *barrier - MARK;
    if (number >= barriers.size() || barriers[number].place != barrier)
        fail("%s (%s:%d): barrier_init has begun no barrier here, or it was overwritten", instruction, file, line);
    return barriers[number];
}

// Others see what barrier_init writes behind fence_barrier_init() and __syncthreads(), and copies behind the former.
Phases& find_begun(const char* instruction, Barrier* barrier, bool is_for_copy, const char* file, int line) {
    Phases& found = find(instruction, barrier, file, line);
    const bool is_other = current_thread() != found.begun_by;
    if ((is_other || is_for_copy) && !found.is_fenced)
        fail("%s (%s:%d): there is no fence_barrier_init() behind barrier_init", instruction, file, line);
    if (is_other && barriers_passed() == found.passed)
        fail("%s (%s:%d): there is no __syncthreads() behind barrier_init", instruction, file, line);
    return found;
}

void end_phase_if_complete(Phases& phases) {
    if (phases.missing) return;
    if (phases.bytes < 0) fail("%d bytes more were copied than a phase of their barrier expects", -phases.bytes);
    if (phases.bytes) return;
    phases.ended++, phases.missing = phases.arrivals;
    for (const Waiting& it : phases.waiting) let_go_on(it.thread);
    phases.waiting.clear();
}

void arrive(const char* instruction, Phases& phases, const char* file, int line) {
    if (!phases.missing)
        fail("%s (%s:%d): more than %d arrive at a barrier in one phase", instruction, file, line, phases.arrivals);
    phases.missing--;
    end_phase_if_complete(phases);
}

}  // namespace

void begin_barriers() {
    barriers.clear();
}

void require_barrier_for_copy(Barrier* barrier, const char* file, int line) {
    find_begun("tma_load", barrier, true, file, line);
}

bool is_awaited(Barrier* barrier) {
    return !find("a copy", barrier, "behind tma_load", 0).waiting.empty();
}

void bytes_are_copied(Barrier* barrier, int bytes) {
    Phases& phases = find("a copy", barrier, "behind tma_load", 0);
    phases.bytes -= bytes;
    end_phase_if_complete(phases);
}

void require_that_no_barrier_is_awaited() {
    char all[800] = "";
    int end = 0;
    for (const Phases& phases : barriers) {
        if (phases.waiting.empty() || end >= int(sizeof all)) continue;
        const Waiting& it = phases.waiting.front();
        const dim3 t = place(it.thread, blockDim);
        end += std::snprintf(all + end, sizeof all - end,
                             "\nthread (%u, %u, %u) waits at barrier_wait (%s:%d) for the end of phase %d: "
                             "%d of %d arrivals and %d bytes are missing",
                             t.x, t.y, t.z, it.file, it.line, phases.ended, phases.missing, phases.arrivals,
                             phases.bytes);
    }
    if (end) fail("deadlock in block (%u, %u, %u):%s", blockIdx.x, blockIdx.y, blockIdx.z, all);
}

}  // namespace cuda_on_cpu

using namespace cuda_on_cpu;

void barrier_init(Barrier* barrier, int arrivals, const char* file, int line) {
    require_place("barrier_init", barrier, file, line);
    if (arrivals < 1 || arrivals > MOST) fail("barrier_init (%s:%d): %d arrivals", file, line, arrivals);
    *barrier = MARK + barriers.size();
    barriers.push_back({barrier, arrivals, 0, arrivals, 0, current_thread(), barriers_passed(), false, {}});
}

void fence_barrier_init() {
    for (Phases& phases : barriers) phases.is_fenced |= phases.begun_by == current_thread();
}

void barrier_arrive(Barrier* barrier, const char* file, int line) {
    arrive("barrier_arrive", find_begun("barrier_arrive", barrier, false, file, line), file, line);
}

void barrier_expect(Barrier* barrier, int bytes, const char* file, int line) {
    Phases& phases = find_begun("barrier_expect", barrier, false, file, line);
    phases.bytes += bytes;
    if (bytes < 0 || phases.bytes > MOST) fail("barrier_expect (%s:%d): %d bytes", file, line, phases.bytes);
    arrive("barrier_expect", phases, file, line);
}

// A phase that has ended is one of the other parity than that which goes on.
void barrier_wait(Barrier* barrier, int parity, const char* file, int line) {
    Phases& phases = find_begun("barrier_wait", barrier, false, file, line);
    if (parity != 0 && parity != 1) fail("barrier_wait (%s:%d): the parity %d", file, line, parity);
    if (phases.ended % 2 != parity) return;
    phases.waiting.push_back({current_thread(), file, line});
    wait("barrier_wait", file, line);
}
