// c (M, N) = a (M, K) b (N, K)^T, bfloat16 words in, float32 out: what kernels on tensor cores do, at its smallest.
//     A block computes 32 x 16 sums by 2 warps, 32 numbers of the reduction at a time, which are copied 2 stages ahead.
// Every element of c is overwritten. M, N and K are multiples of 32, 16 and 32. test_planted_bugs.py plants bugs in here.

constexpr int STAGES = 3, A_BYTES = 32 * 64, STAGE_BYTES = (32 + 16) * 64;

// The four chunks of 16 bytes of a row change places, so that 8 rows lie in all banks.
__device__ int place(int row, int chunk) { return row * 64 + (chunk ^ row / 2 % 4) * 16; }

extern "C" __global__ void tiled_product(const unsigned short* a, const unsigned short* b, float* c, int N, int K) {
    unsigned char* const memory = dynamic_shared();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row0 = blockIdx.y * 32, column0 = blockIdx.x * 16;
    const int steps = K / 32;

    const auto copy = [&](int step) {
        unsigned char* const stage = memory + step % STAGES * STAGE_BYTES;
        for (int i = threadIdx.x; i < 48 * 4; i += 64) {
            const int row = i / 4, chunk = i % 4;
            const unsigned short* from = row < 32 ? a + (row0 + row) * K : b + (column0 + row - 32) * K;
            unsigned char* const to = row < 32 ? stage + place(row, chunk) : stage + A_BYTES + place(row - 32, chunk);
            cp_async(to, from + step * 32 + chunk * 8, true);
        }
    };

    float sum[2][4] = {};
    for (int step = 0; step < STAGES - 1; step++) {
        if (step < steps) copy(step);
        cp_async_commit();
    }
    for (int step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < steps) copy(step + STAGES - 1);
        cp_async_commit();
        const unsigned char* const stage = memory + step % STAGES * STAGE_BYTES;
        for (int half = 0; half < 2; half++) {
            unsigned x[4], y[4];
            ldmatrix_x4(x, stage + place(warp * 16 + lane % 16, half * 2 + lane / 16));
            ldmatrix_x4(y, stage + A_BYTES + place(lane % 8 + lane / 16 * 8, half * 2 + lane / 8 % 2));
            for (int j = 0; j < 2; j++) mma_m16n8k16(sum[j], x, {y[j * 2], y[j * 2 + 1]});
        }
    }
    for (int j = 0; j < 2; j++)
        for (int i = 0; i < 4; i++) {
            const int row = row0 + warp * 16 + lane / 4 + i / 2 * 8, column = column0 + j * 8 + lane % 4 * 2 + i % 2;
            c[row * N + column] = sum[j][i];
        }
}
