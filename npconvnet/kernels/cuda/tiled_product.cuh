// A matrix product in plain float32, whose operands need not lie anywhere as matrices.
//     C(i, j) = sum over k < length of a(i, k) * b(j, k)        for i < rows, j < columns
// a and b are functions that say which number stands where, and c(i, j, sum) is called once for each of the sums, which
// are added in an order that follows from the length alone.

// A block of THREADS x THREADS computes TILE x TILE of the sums, DEPTH products at a time: it brings TILE x DEPTH
// numbers of either operand into shared memory, once, and a thread takes from there what its 4 x 4 sums need.
constexpr int TILE = 64, THREADS = 16, DEPTH = 16;  // TILE and THREADS as in tiled_product.py
constexpr int EACH = TILE / THREADS;

// Which index of an operand counts through neighbours in memory, which neighbouring threads are to read: that of the
// sum, k, or that of the result, i or j.
enum Neighbours { ALONG_SUM, ALONG_RESULT };

// Zeros stand where the operand ends.
template <Neighbours neighbours, class Operand>
__device__ void load(float (&tile)[DEPTH][TILE + 1], Operand operand, int first_row, int rows, int first_k,
                     int length) {
#pragma unroll
    for (int round = 0; round < TILE * DEPTH / (THREADS * THREADS); round++) {
        const int at = (round * THREADS + threadIdx.y) * THREADS + threadIdx.x;
        const int row = neighbours == ALONG_SUM ? at / DEPTH : at % TILE;
        const int k = neighbours == ALONG_SUM ? at % DEPTH : at / TILE;
        const bool inside = first_row + row < rows && first_k + k < length;
        tile[k][row] = inside ? operand(first_row + row, first_k + k) : 0;
    }
}

template <Neighbours a_neighbours, Neighbours b_neighbours, class A, class B, class C>
__device__ void tiled_product(int rows, int columns, int length, A a, B b, C c) {
    __shared__ float a_tile[DEPTH][TILE + 1], b_tile[DEPTH][TILE + 1];  // + 1: a column lies in all banks, not in one
    const int first_row = blockIdx.x * TILE, first_column = blockIdx.y * TILE;

    float sum[EACH][EACH] = {};
    for (int first_k = 0; first_k < length; first_k += DEPTH) {
        load<a_neighbours>(a_tile, a, first_row, rows, first_k, length);
        load<b_neighbours>(b_tile, b, first_column, columns, first_k, length);
        __syncthreads();  // the tiles are complete

        float part[EACH][EACH] = {};  // a short sum, then added: a long one is rounded DEPTH times less often
#pragma unroll
        for (int k = 0; k < DEPTH; k++)
#pragma unroll
            for (int i = 0; i < EACH; i++)
#pragma unroll
                for (int j = 0; j < EACH; j++)
                    part[i][j] += a_tile[k][threadIdx.y + i * THREADS] * b_tile[k][threadIdx.x + j * THREADS];
        __syncthreads();  // everybody is done with the tiles

#pragma unroll
        for (int i = 0; i < EACH; i++)
#pragma unroll
            for (int j = 0; j < EACH; j++) sum[i][j] += part[i][j];
    }

#pragma unroll
    for (int i = 0; i < EACH; i++) {
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const int row = first_row + threadIdx.y + i * THREADS, column = first_column + threadIdx.x + j * THREADS;
            if (row < rows && column < columns) c(row, column, sum[i][j]);
        }
    }
}
