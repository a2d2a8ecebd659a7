// Products that warpgroups have begun, and their sums (warpgroups.h), as the PTX manual says.
#include "warpgroups.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <list>
#include <vector>

namespace cuda_on_cpu {
namespace {

constexpr int WARPS = 4, WARP_ROWS = 16, ROWS = WARPS * WARP_ROWS, COLUMNS = 256, DEPTH = 16;
constexpr int REGISTERS = WARP_ROWS * COLUMNS / warpSize;  // of a thread, for sums
constexpr int CHUNK = 8, TILE_ROW = 64;  // numbers of 16 bits
constexpr int CHUNK_BYTES = 16, TILE_ROW_BYTES = 128;
constexpr unsigned AWAY = 0xFFBFFFFF;  // what registers hold instead of sums: a NaN that is another after any use

// What a warp adds up, a row of all columns after the other, while it is away from the registers of the warp.
struct Sums {
    float* registers[warpSize];
    float values[WARP_ROWS][COLUMNS];
    std::size_t last;  // the number of the last product that is added to them
};

struct Product {
    Factors factors;
    Sums* sums[WARPS];
    int warps;  // that have begun it: it takes all
};

struct Warp {
    bool is_fenced;
    std::size_t begun;                // products
    std::vector<std::size_t> groups;  // how many had been begun at each commit
    std::list<Sums> sums;             // that are away
    bool waits;
    std::size_t awaited;              // products
};

struct Warpgroup {
    std::deque<Product> products;  // that are not made
    std::size_t made;              // how many before them
    Warp warps[WARPS];
};

std::vector<Warpgroup> warpgroups;

Warpgroup& warpgroup_of(int thread, const char* instruction) {
    const std::size_t number = thread / (WARPS * warpSize);
    if (number >= warpgroups.size()) fail("%s takes 128 threads, of which the first is a multiple of 128", instruction);
    return warpgroups[number];
}

Warp& warp_of(int thread, const char* instruction) {
    return warpgroup_of(thread, instruction).warps[thread / warpSize % WARPS];
}

void require_whole_warp(const char* instruction, unsigned lanes) {
    if (lanes != ~0u) fail("%s takes all 32 threads of a warp, not %#x", instruction, lanes);
}

// ---- Tiles

struct Tile {
    unsigned address, leading_bytes, stride_bytes;

    explicit Tile(unsigned long long descriptor)
        : address((descriptor & 0x3FFF) << 4),
          leading_bytes((descriptor >> 16 & 0x3FFF) << 4),
          stride_bytes((descriptor >> 32 & 0x3FFF) << 4) {
        if ((descriptor & ~0x3FFF3FFF3FFFull) != 1ull << 62)
            fail("wgmma: %#llx is no descriptor of a tile whose rows have 128 bytes", descriptor);
        if (address / TILE_ROW_BYTES % CHUNK)
            fail("wgmma: a tile begins in row %u of 8, at byte %u of shared memory", address / TILE_ROW_BYTES % CHUNK,
                 address);
    }

    // The eight numbers at a place that the descriptor's sizes lead to.
    void read(unsigned offset, float (&x)[CHUNK]) const {
        unsigned short words[CHUNK];
        std::memcpy(words, at_tile_address("wgmma", swizzled(address + offset), CHUNK_BYTES), CHUNK_BYTES);
        for (int i = 0; i < CHUNK; i++) {
            const unsigned bits = words[i] << 16;
            std::memcpy(&x[i], &bits, sizeof bits);
        }
    }
};

// A factor of `rows` rows, or columns if it is the second one, and DEPTH steps of the reduction. Upright tiles have a
// row after the other, eight of them in stride_bytes; lying tiles have a step after the other, likewise, and
// leading_bytes further on the same of the next 64 rows.
void read_factor(unsigned long long descriptor, bool lies, int rows, float* x, int row_step, int depth_step) {
    const Tile tile(descriptor);
    float eight[CHUNK];
    if (lies) {
        for (int k = 0; k < DEPTH; k++)
            for (int row = 0; row < rows; row += CHUNK) {
                tile.read(k / 8 * tile.stride_bytes + k % 8 * TILE_ROW_BYTES + row / TILE_ROW * tile.leading_bytes +
                              row % TILE_ROW / CHUNK * CHUNK_BYTES,
                          eight);
                for (int i = 0; i < CHUNK; i++) x[(row + i) * row_step + k * depth_step] = eight[i];
            }
    } else {
        for (int row = 0; row < rows; row++)
            for (int k = 0; k < DEPTH; k += CHUNK) {
                tile.read(row / 8 * tile.stride_bytes + row % 8 * TILE_ROW_BYTES + k / CHUNK * CHUNK_BYTES, eight);
                for (int i = 0; i < CHUNK; i++) x[row * row_step + (k + i) * depth_step] = eight[i];
            }
    }
}

// In order of k, each product and each sum rounded to float32.
void make(const Product& product) {
    static float a[ROWS][DEPTH], b[DEPTH][COLUMNS];
    const Factors& factors = product.factors;
    read_factor(factors.a, factors.a_lies, ROWS, a[0], DEPTH, 1);
    read_factor(factors.b, factors.b_lies, COLUMNS, b[0], 1, COLUMNS);
    constexpr int PART = 64;  // columns whose sums the CPU keeps in its own registers
    for (int row = 0; row < ROWS; row++)
        for (int part = 0; part < COLUMNS; part += PART) {
            float* const values = &product.sums[row / WARP_ROWS]->values[row % WARP_ROWS][part];
            float sum[PART];
            std::memcpy(sum, values, sizeof sum);
            for (int k = 0; k < DEPTH; k++)
                for (int column = 0; column < PART; column++) sum[column] += a[row][k] * b[k][part + column];
            std::memcpy(values, sum, sizeof sum);
        }
}

// ---- Sums

// That of register `r` of a lane.
float& value(Sums& sums, int lane, int r) {
    return sums.values[lane / 4 + r / 2 % 2 * 8][r / 4 * 8 + lane % 4 * 2 + r % 2];
}

// Those that begin with a lane's `registers`; they are taken away from there, if they are not away.
Sums& sums_away(Warp& warp, float* const* registers) {
    for (Sums& sums : warp.sums)
        if (std::equal(registers, registers + warpSize, sums.registers)) return sums;
    Sums& sums = warp.sums.emplace_back();
    std::copy_n(registers, warpSize, sums.registers);
    for (int lane = 0; lane < warpSize; lane++)
        for (int r = 0; r < REGISTERS; r++) {
            value(sums, lane, r) = registers[lane][r];
            std::memcpy(&registers[lane][r], &AWAY, sizeof AWAY);
        }
    return sums;
}

void bring_back(Sums& sums) {
    for (int lane = 0; lane < warpSize; lane++)
        for (int r = 0; r < REGISTERS; r++) {
            unsigned bits;
            std::memcpy(&bits, &sums.registers[lane][r], sizeof bits);
            if (bits != AWAY) fail("sums of wgmma are overwritten before wgmma_wait");
            sums.registers[lane][r] = value(sums, lane, r);
        }
}

// ---- What the threads of a warp say together

struct Begun {
    float* sum;
    const Factors* factors;
};

bool are_equal(const Factors& x, const Factors& y) {
    return x.a == y.a && x.b == y.b && x.a_lies == y.a_lies && x.b_lies == y.b_lies;
}

void run_begin(void** operands, unsigned lanes) {
    require_whole_warp("wgmma", lanes);
    const int thread = current_thread();
    Warpgroup& warpgroup = warpgroup_of(thread, "wgmma");
    Warp& warp = warp_of(thread, "wgmma");
    if (!warp.is_fenced) fail("wgmma: there is no wgmma_fence() before it, and behind what else used the sums");
    const Factors& factors = *static_cast<Begun*>(operands[0])->factors;
    float* registers[warpSize];
    for (int lane = 0; lane < warpSize; lane++) {
        const Begun& its = *static_cast<Begun*>(operands[lane]);
        if (!are_equal(factors, *its.factors)) fail("wgmma: threads of a warp bring different descriptors");
        registers[lane] = its.sum;
    }
    const std::size_t number = warp.begun++ - warpgroup.made;
    if (number == warpgroup.products.size()) warpgroup.products.push_back({factors, {}, 0});
    Product& product = warpgroup.products[number];
    if (!are_equal(factors, product.factors)) fail("wgmma: warps of a warpgroup bring different descriptors");
    Sums& sums = sums_away(warp, registers);
    sums.last = warp.begun - 1;
    product.sums[thread / warpSize % WARPS] = &sums, product.warps++;
}

void run_fence(void**, unsigned lanes) {
    require_whole_warp("wgmma_fence", lanes);
    warp_of(current_thread(), "wgmma_fence").is_fenced = true;
}

void run_commit(void**, unsigned lanes) {
    require_whole_warp("wgmma_commit", lanes);
    Warp& warp = warp_of(current_thread(), "wgmma_commit");
    warp.groups.push_back(warp.begun);
}

void run_await(void** operands, unsigned lanes) {
    require_whole_warp("wgmma_wait", lanes);
    Warp& warp = warp_of(current_thread(), "wgmma_wait");
    const std::size_t count = warp.groups.size(), but = *static_cast<int*>(operands[0]);
    warp.waits = true;
    if (count > but) warp.awaited = warp.groups[count - but - 1];
}

constexpr Operation BEGIN = {"wgmma", run_begin}, FENCE = {"wgmma_fence", run_fence};
constexpr Operation COMMIT = {"wgmma_commit", run_commit}, AWAIT = {"wgmma_wait", run_await};

// Makes what `warp` waits for, as far as all warps have begun it. Returns whether that is all.
bool all_are_made(Warpgroup& warpgroup, const Warp& warp) {
    while (warpgroup.made < warp.awaited && warpgroup.products.front().warps == WARPS) {
        make(warpgroup.products.front());
        warpgroup.products.pop_front(), warpgroup.made++;
    }
    return warpgroup.made >= warp.awaited;
}

void end_wait(Warp& warp, int first_thread) {
    warp.sums.remove_if([&](Sums& sums) {
        if (sums.last >= warp.awaited) return false;
        bring_back(sums);
        return true;
    });
    warp.waits = warp.is_fenced = false;
    for (int lane = 0; lane < warpSize; lane++) let_go_on(first_thread + lane);
}

}  // namespace

void begin_product(float* sum, const Factors& factors, const char* file, int line) {
    Begun operand{sum, &factors};
    meet(~0u, BEGIN, &operand, file, line);
}

void fence_products(const char* file, int line) {
    meet(~0u, FENCE, nullptr, file, line);
}

void commit_products(const char* file, int line) {
    meet(~0u, COMMIT, nullptr, file, line);
}

void await_products(int all_groups_but, const char* file, int line) {
    meet(~0u, AWAIT, &all_groups_but, file, line);
    wait("wgmma_wait", file, line);
}

void begin_products() {
    warpgroups.assign(blockDim.x * blockDim.y * blockDim.z / (WARPS * warpSize), {});
}

// Of one warp, or else of the next: so it gets as far ahead of the others as it can.
bool products_are_made() {
    const int count = warpgroups.size() * WARPS;
    for (int i = 0; i < count; i++) {
        const int w = is_backwards() ? count - 1 - i : i;
        Warpgroup& warpgroup = warpgroups[w / WARPS];
        Warp& warp = warpgroup.warps[w % WARPS];
        if (!warp.waits || !all_are_made(warpgroup, warp)) continue;
        end_wait(warp, w * warpSize);
        return true;
    }
    return false;
}

void require_that_all_products_were_awaited() {
    for (const Warpgroup& warpgroup : warpgroups)
        for (const Warp& warp : warpgroup.warps)
            if (!warp.sums.empty())
                fail("block (%u, %u, %u) ends before its last wgmma were awaited", blockIdx.x, blockIdx.y, blockIdx.z);
}

}  // namespace cuda_on_cpu
