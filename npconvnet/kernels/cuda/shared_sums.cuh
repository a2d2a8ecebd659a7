// A tile of sums in the block's dynamic shared memory, where each thread that has a part in it can reach every sum.
//     sum (row, column) at row * PITCH + column
// It overwrites the operands of the sums, from their first byte on.
#include "ptx.cuh"

// Left open: TILE_ROWS, TILE_COLUMNS. A tile so tall is multiplied turned (wgmma_product.cuh): its threads share pairs
// that lie below one another, all others pairs of a row.
constexpr bool TURNED = TILE_ROWS > 4 * TILE_COLUMNS;

// Rows lie further apart than they are long: what threads write at once is in different banks. Of pairs of a row that
// is what half a warp has, in 4 rows; of the others what a warp has, in every other of 8 rows.
constexpr int PITCH = TILE_COLUMNS + (TURNED ? 4 : 8);
constexpr int SHARED_SUMS_BYTES = 4 * PITCH * TILE_ROWS;

__device__ inline float* shared_sums() { return reinterpret_cast<float*>(dynamic_shared()); }

struct alignas(8) Pair {
    float left, right;
};

// Two neighbours of a row; column is even.
__device__ inline void share(int row, int column, float left, float right) {
    *reinterpret_cast<Pair*>(shared_sums() + row * PITCH + column) = {left, right};
}

// Two neighbours of a column.
__device__ inline void share_below(int row, int column, float above, float below) {
    shared_sums()[row * PITCH + column] = above, shared_sums()[(row + 1) * PITCH + column] = below;
}
