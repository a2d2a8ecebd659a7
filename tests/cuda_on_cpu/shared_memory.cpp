// Shared memory, and the copies that are on their way to it (shared_memory.h).
#include "shared_memory.h"

#include <cstdint>
#include <cstring>
#include <dlfcn.h>
#include <link.h>
#include <vector>

#include "threads.h"

namespace cuda_on_cpu {
namespace {

struct Copy {
    void* to;
    const void* from;
    bool valid;
};

// The copies of one thread that have not arrived, and how many of them each group has; the last group is still open.
struct Copies {
    std::vector<Copy> waiting;
    std::vector<int> groups;
};

struct Part {
    unsigned char* begin;
    std::size_t size;

    bool contains(const unsigned char* p, std::size_t bytes) const { return begin <= p && p + bytes <= begin + size; }
    void poison() const { if (size) std::memset(begin, 0xFF, size); }
};

Part static_part, dynamic_part;
std::vector<Copies> copies;
thread_local char no_bytes[0];  // whoever asks for their address has his own copy of what is local to a thread

// What is local to this thread in the library that this function is in.
Part find_static_part() {
    asm volatile("" : : "r"(&no_bytes));
    Part found{};
    dl_iterate_phdr(
        [](dl_phdr_info* library, std::size_t, void* result) {
            Dl_info mine;
            dladdr(reinterpret_cast<void*>(find_static_part), &mine);
            if (reinterpret_cast<void*>(library->dlpi_addr) != mine.dli_fbase) return 0;
            for (int i = 0; i < library->dlpi_phnum; i++)
                if (library->dlpi_phdr[i].p_type == PT_TLS)
                    *static_cast<Part*>(result) = {static_cast<unsigned char*>(library->dlpi_tls_data),
                                                   library->dlpi_phdr[i].p_memsz};
            return 1;
        },
        &found);
    return found;
}

bool is_multiple_of_16(const void* address) {
    return reinterpret_cast<std::uintptr_t>(address) % 16 == 0;
}

}  // namespace

extern "C" [[gnu::visibility("default")]] std::size_t static_shared_size() {
    return find_static_part().size;
}

void give_shared_memory(unsigned char* dynamic, std::size_t size, std::size_t threads) {
    static_part = find_static_part(), dynamic_part = {dynamic, size};
    copies.assign(threads, {});
}

void begin_shared_memory() {
    static_part.poison(), dynamic_part.poison();
    for (Copies& its : copies) its.waiting.clear(), its.groups.assign(1, 0);
}

void require_16_bytes_of_shared_memory(const char* instruction, const void* address) {
    const auto* p = static_cast<const unsigned char*>(address);
    if (!is_multiple_of_16(p)) fail("%s: an address in shared memory is not a multiple of 16", instruction);
    if (!is_in_shared_memory(p, 16)) fail("%s: an address is not in shared memory", instruction);
}

bool is_in_shared_memory(const void* address, std::size_t bytes) {
    const auto* p = static_cast<const unsigned char*>(address);
    return static_part.contains(p, bytes) || dynamic_part.contains(p, bytes);
}

void all_but_the_last_copies_arrive(std::size_t groups) {
    Copies& mine = copies[current_thread()];
    while (mine.groups.size() > groups + 1) {
        const auto begin = mine.waiting.begin(), end = begin + mine.groups.front();
        for (auto copy = begin; copy != end; copy++)
            copy->valid ? std::memcpy(copy->to, copy->from, 16) : std::memset(copy->to, 0, 16);
        mine.waiting.erase(begin, end);
        mine.groups.erase(mine.groups.begin());
    }
}

}  // namespace cuda_on_cpu

unsigned char* dynamic_shared() {
    return cuda_on_cpu::dynamic_part.begin;
}

void cp_async(void* shared, const void* global, bool valid) {
    using namespace cuda_on_cpu;
    require_16_bytes_of_shared_memory("cp_async", shared);
    if (valid && !is_multiple_of_16(global)) fail("cp_async: an address in global memory is not a multiple of 16");
    Copies& mine = copies[current_thread()];
    mine.waiting.push_back({shared, global, valid});
    mine.groups.back()++;
}

void cp_async_commit() {
    cuda_on_cpu::copies[cuda_on_cpu::current_thread()].groups.push_back(0);
}
