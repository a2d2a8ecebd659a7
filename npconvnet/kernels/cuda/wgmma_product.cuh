// One tile of a matrix product by a block of threads, by what sm_90a has for it: TMA copies, wgmma multiplies.
//     sum[row, column] = sum over k of a[row, k] b[column, k]      bfloat16 words, float32 sums
// The sums begin at 0, stay in registers, and are left in the block's shared memory, over the operands. Each of them
// adds its products in the order of k, 16 at a time: the same bits whatever the shape of the tile.
#include "ptx.cuh"
#include "shared_sums.cuh"

#ifndef __CUDA_ARCH_FEAT_SM90_ALL
#error "wgmma is in sm_90a alone"
#endif

// Left open, see TILES in conv2d_wgmma.py: TILE_ROWS, TILE_COLUMNS, STAGES.
// The threads have roles. Two warpgroups of 128 consume: each multiplies half of the tile's rows by all of its columns.
// One thread of a third warpgroup loads: it only says what is to be copied.
constexpr int CONSUMERS = 256, LOADER = CONSUMERS, THREADS = CONSUMERS + 128;

// Why these tiles. One wgmma is 64 by 256 by 16 steps, the largest there is: it takes 128 cycles of an SM's tensor cores
// and 80 of its shared memory, which gives 128 bytes a cycle, for 2 KB of the first operand and 8 KB of the second. (64
// by 64 would take 32 and 32.) A stage of 64 steps is 8 wgmmas: 1024 cycles, and 640. Meanwhile TMA writes another:
//
//     tile         wgmma's rows and columns       bytes of a stage      shared memory is busy for
//     128 x 256    64 rows, 256 columns           128 * 384             640 + 384 = 1024 cycles
//     512 x 64     64 columns, 256 rows: turned   128 * 576             640 + 576 = 1216
//
// So the wide tile keeps both equally busy; the tall one, for results of 64 columns or fewer, the tensor cores at 84%.
// What this leaves out is that the L2 cache has to deliver the stages to all SMs: 48 and 61 bytes a cycle to each.
//
// What is hidden. While a stage is multiplied, the next STAGES - 1 are on their way, for 1000 cycles each; memory takes
// about 1000 to answer. Nothing hides the first stage of a block, nor its end: there is but one block on an SM.
//
// Registers. A thread has 128 sums. An SM has 65536 registers, and its 384 threads 168 each: 40 beside the sums, which
// is enough for both roles, so that none has to leave registers to the other (setmaxnreg).
using Sums = float[128];
static_assert(TURNED ? TILE_ROWS == 512 && TILE_COLUMNS == 64 : TILE_ROWS == 128 && TILE_COLUMNS == 256);

// ---- operands in shared memory --------------------------------------------------------------------------------------
// A stage holds 64 steps of the reduction, of a and then of b, in panels of 64 rows of 128 bytes. TMA swizzles them, and
// wgmma takes them so: chunk c of row r, of 16 bytes, lies at place c ^ r % 8.
//     upright: a row of the panel is a row of the operand, 64 steps long
//     lying:   a row of the panel is a step, 64 rows of the operand long
constexpr int DEPTH = 64;
constexpr int PANEL_BYTES = 64 * 128;
constexpr int A_PANELS = TILE_ROWS / 64, B_PANELS = TILE_COLUMNS / 64;
constexpr int STAGE_BYTES = (A_PANELS + B_PANELS) * PANEL_BYTES;
static_assert(SHARED_SUMS_BYTES <= STAGES * STAGE_BYTES, "the sums take no more memory than the operands");

__device__ inline unsigned char* a_tile(int step) { return dynamic_shared() + step % STAGES * STAGE_BYTES; }
__device__ inline unsigned char* b_tile(int step) { return a_tile(step) + A_PANELS * PANEL_BYTES; }

// The i-th 16 steps of an operand, for wgmma: 32 bytes further right in each row, or 16 rows further down.
template <bool LYING>
__device__ unsigned long long slice(const unsigned char* tile, int i) {
    return descriptor(tile + i * (LYING ? 16 * 128 : 32), PANEL_BYTES, 8 * 128);
}

// ---- the protocol ---------------------------------------------------------------------------------------------------
// Step i of the reduction is in stage i % STAGES. Its turn there, i / STAGES, is a phase of two barriers of the stage:
//
//     the loader                                      the consumers
//     waits until the turn before is empty            wait until the turn is full
//     expects the bytes of a stage at full            begin to multiply
//     has them copied: they arrive at full            wait until the products of step i - 1 are done
//                                                     arrive at that step's empty, once a warp
//
// Phases have parities, 0 first; those of a new barrier are as if one of parity 1 had just ended: the loader passes in
// the first turn. So while one stage is multiplied, and the one before may still be, all others are on their way.
struct Barriers {
    Barrier full[STAGES], empty[STAGES];
    Barrier all_consumers;
};

__device__ inline Barriers& barriers() {
    return *reinterpret_cast<Barriers*>(dynamic_shared() + STAGES * STAGE_BYTES);
}

// By all threads of the block.
__device__ inline void begin_barriers() {
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; stage++) {
            barrier_init(&barriers().full[stage], 1);
            barrier_init(&barriers().empty[stage], CONSUMERS / 32);
        }
        barrier_init(&barriers().all_consumers, CONSUMERS);
        fence_barrier_init();
    }
    __syncthreads();
}

// By the loader. `gather.copy(a, b, full)` begins to copy the next stage, all of its bytes, which arrive at `full`.
template <class Gather>
__device__ void load_stages(Gather& gather, int steps) {
    for (int step = 0; step < steps; step++) {
        const int stage = step % STAGES, turn = step / STAGES;
        Barrier* const full = &barriers().full[stage];
        barrier_wait(&barriers().empty[stage], (turn + 1) % 2);
        barrier_expect(full, STAGE_BYTES);
        gather.copy(a_tile(step), b_tile(step), full);
    }
}

// By the consumers. The tensor cores have the next products before they are done with the last.
template <bool A_LYING, bool B_LYING>
__device__ void multiply_stages(Sums& sums, int steps) {
    const int my_half_of_a = threadIdx.x / 128 * (A_PANELS / 2) * PANEL_BYTES;
    wgmma_fence(sums);  // they are zeros; from here on to the end nothing else touches them, or products would wait
    for (int step = 0; step < steps; step++) {
        const int stage = step % STAGES, turn = step / STAGES;
        barrier_wait(&barriers().full[stage], turn % 2);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < DEPTH / 16; i++) {
            const auto a = slice<A_LYING>(a_tile(step) + my_half_of_a, i), b = slice<B_LYING>(b_tile(step), i);
            if constexpr (TURNED)
                wgmma_m64n256k16<B_LYING, A_LYING>(sums, b, a);
            else
                wgmma_m64n256k16<A_LYING, B_LYING>(sums, a, b);
        }
        wgmma_commit();
        wgmma_wait<1>();
        if (step > 0 && threadIdx.x % 32 == 0) barrier_arrive(&barriers().empty[(step - 1) % STAGES]);
    }
    wgmma_wait<0>(sums);
}

// ---- the sums -------------------------------------------------------------------------------------------------------

// The consumers meet, twice: a __syncthreads() would wait for the loader's warpgroup.
__device__ inline void meet(int time) {
    barrier_arrive(&barriers().all_consumers);
    barrier_wait(&barriers().all_consumers, time);
}

// Hands the sums to all consumers. Of wgmma's result a thread holds pairs of neighbours in two rows of every 8 columns.
__device__ inline void share(const Sums& sums) {
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, my_half = threadIdx.x / 128 * (TILE_ROWS / 2);
    meet(0);  // all have left the last stage
#pragma unroll
    for (int j = 0; j < 256 / 8; j++)
#pragma unroll
        for (int below = 0; below < 2; below++) {
            const int row = 16 * warp + 8 * below + lane / 4, column = 8 * j + lane % 4 * 2;  // in wgmma's result
            const float left = sums[4 * j + 2 * below], right = sums[4 * j + 2 * below + 1];
            if constexpr (TURNED)
                share_below(my_half + column, row, left, right);
            else
                share(my_half + row, column, left, right);
        }
    meet(1);  // all have written theirs
}
