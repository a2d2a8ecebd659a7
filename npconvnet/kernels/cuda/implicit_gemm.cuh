// One tile of a matrix product by a block of threads, on the tensor cores: what convolutions and linear layers share.
//     sum[row, column] = sum over k of a[row, k] b[column, k]      bfloat16 words, or float32 rounded to TF32
// The sums begin at 0, stay in registers, in float32, and are left in the block's shared memory, which is overwritten.
// Each of them adds its products in the order of k, 32 bytes at a time: the same bits whatever the shape of the tile.
#include "bfloat16.cuh"
#include "ptx.cuh"
#include "shared_sums.cuh"

template <int BYTES>
struct ElementOf;
template <>
struct ElementOf<2> {
    using Type = unsigned short;
};
template <>
struct ElementOf<4> {
    using Type = float;
};

// Left open, see TILES in conv2d_tensor_core.py: ELEMENT_BYTES, TILE_ROWS, TILE_COLUMNS, STAGES.
using Element = ElementOf<ELEMENT_BYTES>::Type;
constexpr int CHUNK = 16 / ELEMENT_BYTES;   // elements that are copied at once
constexpr int DEPTH = 128 / ELEMENT_BYTES;  // elements of the reduction in a stage: 8 chunks

constexpr int WARP_ROWS = TILE_ROWS < 128 ? 32 : 64, WARP_COLUMNS = TILE_COLUMNS / 2;
constexpr int THREADS = 32 * (TILE_ROWS / WARP_ROWS) * (TILE_COLUMNS / WARP_COLUMNS);
constexpr int STAGE_BYTES = 128 * (TILE_ROWS + TILE_COLUMNS);

// Eight neighbouring threads copy 128 bytes that lie side by side, and all threads this many rows at once.
constexpr int ROWS_AT_ONCE = THREADS / 8;
__device__ inline int first_row() { return threadIdx.x / 8; }
__device__ inline int first_chunk() { return threadIdx.x % 8; }

// ---- operands in shared memory --------------------------------------------------------------------------------------
// A fragment holds of 16 rows of the operand two chunks of the reduction, the slice, in four matrices of 8 rows and one
// chunk, as ldmatrix and mma want them. In a's fragment they are numbered down, then right; in b's, which is two that
// mma multiplies one after the other, right, then down. Chunks lie where 8 that are read or written at once are in
// different banks.
enum Operand { A, B };
template <Operand operand>
__device__ constexpr int rows_down(int matrix) {
    return 8 * (operand == A ? matrix % 2 : matrix / 2);
}
template <Operand operand>
__device__ constexpr int chunks_right(int matrix) {
    return operand == A ? matrix / 2 : matrix % 2;
}

// A row of the operand is a row of 128 bytes.
struct Upright {
    static __device__ constexpr int place(int row, int chunk) { return 128 * row + 16 * (chunk ^ row % 8); }

    template <Operand operand>
    static __device__ void load(unsigned (&fragment)[4], const unsigned char* tile, int row, int slice) {
        const int lane = threadIdx.x % 32, matrix = lane / 8;
        row += rows_down<operand>(matrix) + lane % 8;
        ldmatrix_x4(fragment, tile + place(row, 2 * slice + chunks_right<operand>(matrix)));
    }
};

// A row of the operand is a column: the elements of LENGTH rows at one step of the reduction lie side by side.
template <class Element, int LENGTH>
struct Lying;

template <int LENGTH>
struct Lying<unsigned short, LENGTH> {
    static __device__ constexpr int place(int step, int chunk) { return 2 * LENGTH * step + 16 * (chunk ^ step % 8); }

    template <Operand operand>
    static __device__ void load(unsigned (&fragment)[4], const unsigned char* tile, int row, int slice) {
        const int lane = threadIdx.x % 32, matrix = lane / 8;
        const int step = 16 * slice + 8 * chunks_right<operand>(matrix) + lane % 8;
        ldmatrix_x4_trans(fragment, tile + place(step, (row + rows_down<operand>(matrix)) / 8));
    }
};

template <int LENGTH>
struct Lying<float, LENGTH> {
    static __device__ constexpr int place(int step, int chunk) {
        return 4 * LENGTH * step + 16 * (chunk ^ step % 4 * 2);
    }

    template <Operand operand>
    static __device__ void load(unsigned (&fragment)[4], const unsigned char* tile, int row, int slice) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int matrix = 0; matrix < 4; matrix++) {
            const int step = 8 * slice + 4 * chunks_right<operand>(matrix) + lane % 4;
            const int column = row + rows_down<operand>(matrix) + lane / 4;
            const unsigned char* chunk = tile + place(step, column / 4);
            fragment[matrix] = reinterpret_cast<const unsigned*>(chunk)[column % 4];
        }
    }
};

// ---- the sums -------------------------------------------------------------------------------------------------------

struct Sums {  // of a warp; column tile j has two halves of 8 columns
    float of[WARP_ROWS / 16][WARP_COLUMNS / 16][2][4];
};

template <class Element>
__device__ void to_element(unsigned (&fragment)[4]) {
    if constexpr (sizeof(Element) == 4)
#pragma unroll
        for (int i = 0; i < 4; i++) fragment[i] = to_tf32(__uint_as_float(fragment[i]));
}

template <class Element>
__device__ void multiply_add(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    if constexpr (sizeof(Element) == 4)
        mma_m16n8k8_tf32(sum, a, b);
    else
        mma_m16n8k16(sum, a, b);
}

__device__ inline int warp_row() { return threadIdx.x / 64 * WARP_ROWS; }
__device__ inline int warp_column() { return threadIdx.x / 32 % 2 * WARP_COLUMNS; }

template <class ATile, class BTile>
__device__ void multiply_stage(Sums& sums, const unsigned char* a_tile, const unsigned char* b_tile) {
#pragma unroll
    for (int slice = 0; slice < 4; slice++) {
        unsigned a[WARP_ROWS / 16][4], b[WARP_COLUMNS / 16][4];
#pragma unroll
        for (int i = 0; i < WARP_ROWS / 16; i++) {
            ATile::template load<A>(a[i], a_tile, warp_row() + 16 * i, slice);
            to_element<Element>(a[i]);
        }
#pragma unroll
        for (int j = 0; j < WARP_COLUMNS / 16; j++) {
            BTile::template load<B>(b[j], b_tile, warp_column() + 16 * j, slice);
            to_element<Element>(b[j]);
        }
#pragma unroll
        for (int i = 0; i < WARP_ROWS / 16; i++)
#pragma unroll
            for (int j = 0; j < WARP_COLUMNS / 16; j++)
#pragma unroll
                for (int half = 0; half < 2; half++)
                    multiply_add<Element>(sums.of[i][j][half], a[i], {b[j][2 * half], b[j][2 * half + 1]});
    }
}

// The sums over `steps` stages. `a.copy(tile)` begins to copy the next stage of a, and b's likewise: while one stage is
// multiplied, STAGES - 1 others are on their way.
template <class AGather, class BGather>
__device__ void multiply(Sums& sums, AGather& a, BGather& b, int steps) {
    unsigned char* const stages = dynamic_shared();
    const auto a_tile = [=](int step) { return stages + step % STAGES * STAGE_BYTES; };
    const auto b_tile = [=](int step) { return a_tile(step) + 128 * TILE_ROWS; };
    const auto copy = [&](int step) {
        if (step < steps) {
            a.copy(a_tile(step));
            b.copy(b_tile(step));
        }
        cp_async_commit();  // an empty group behind the last stage, so that the count below is right to the end
    };
    for (int step = 0; step < STAGES - 1; step++) copy(step);
    for (int step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();  // now the stage of this step is there for all, and all have left that of the step before,
        copy(step + STAGES - 1);  // which is the next to fill
        multiply_stage<typename AGather::Tile, typename BGather::Tile>(sums, a_tile(step), b_tile(step));
    }
}

// Hands them to all threads.
__device__ inline void share(const Sums& sums) {
    static_assert(SHARED_SUMS_BYTES <= STAGES * STAGE_BYTES, "the sums take no more memory than the operands");
    const int lane = threadIdx.x % 32;
    __syncthreads();  // all have left the last stage
#pragma unroll
    for (int i = 0; i < WARP_ROWS / 16; i++)
#pragma unroll
        for (int j = 0; j < WARP_COLUMNS / 16; j++)
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int below = 0; below < 2; below++) {
                    const int row = warp_row() + 16 * i + 8 * below + lane / 4;
                    const int column = warp_column() + 16 * j + 8 * half + lane % 4 * 2;
                    const float(&sum)[4] = sums.of[i][j][half];
                    share(row, column, sum[2 * below], sum[2 * below + 1]);
                }
    __syncthreads();  // all have written theirs
}
