// c (M, N) = a (M, K) b (N, K)^T, bfloat16 words in, float32 out: what kernels for sm_90a do, at its smallest.
//     A block computes 128 x 256 sums by two warpgroups, 64 numbers of the reduction at a time, which one
//     thread of a third has the hardware copy up to STAGES ahead. Where a or b lies, it is given as (K, M) or (K, N).
// Every element of c is overwritten. M is a multiple of 128. See test_planted_bugs_90.py.

constexpr int TILE_COLUMNS = 256, STAGES = 3, DEPTH = 64, PANEL_BYTES = 64 * 128, CONSUMERS = 2;
constexpr int A_BYTES = CONSUMERS * PANEL_BYTES, B_BYTES = TILE_COLUMNS / 64 * PANEL_BYTES;
constexpr int STAGE_BYTES = A_BYTES + B_BYTES;

// Rows of 64 numbers of the reduction, or of 64 rows of the product, panel by panel.
template <bool LYING, int PANELS>
__device__ void copy(unsigned char* to, const TensorMap& x, Barrier* full, int k, int row) {
    for (int i = 0; i < PANELS; i++)
        LYING ? tma_load(to + i * PANEL_BYTES, x, full, row + 64 * i, k)
              : tma_load(to + i * PANEL_BYTES, x, full, k, row + 64 * i);
}

extern "C" __global__ void warpgroup_product(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,
                                             float* c, int N, int K) {
    unsigned char* const memory = dynamic_shared();
    Barrier* const full = reinterpret_cast<Barrier*>(memory + STAGES * STAGE_BYTES);
    Barrier* const empty = full + STAGES;
    const int row0 = blockIdx.y * 64 * CONSUMERS, column0 = blockIdx.x * TILE_COLUMNS, steps = (K + DEPTH - 1) / DEPTH;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) barrier_init(full + i, 1), barrier_init(empty + i, CONSUMERS);
        fence_barrier_init();
    }
    __syncthreads();

    const int warpgroup = threadIdx.x / 128, t = threadIdx.x % 128;
    if (warpgroup == CONSUMERS) {
        for (int step = 0; t == 0 && step < steps; step++) {
            const int i = step % STAGES, turn = step / STAGES;
            unsigned char* const stage = memory + i * STAGE_BYTES;
            barrier_wait(empty + i, (turn + 1) % 2);
            barrier_expect(full + i, STAGE_BYTES);
            copy<A_LIES, CONSUMERS>(stage, a, full + i, step * DEPTH, row0);
            copy<B_LIES, TILE_COLUMNS / 64>(stage + A_BYTES, b, full + i, step * DEPTH, column0);
        }
        return;
    }

    float sum[128] = {};
    wgmma_fence(sum);
    for (int step = 0; step < steps; step++) {
        const int i = step % STAGES, turn = step / STAGES;
        const unsigned char* const stage = memory + i * STAGE_BYTES;
        barrier_wait(full + i, turn % 2);
        wgmma_fence();
        for (int k = 0; k < DEPTH / 16; k++)
            wgmma_m64n256k16<A_LIES, B_LIES>(
                sum, descriptor(stage + warpgroup * PANEL_BYTES + k * (A_LIES ? 2048 : 32), 8192, 1024),
                descriptor(stage + A_BYTES + k * (B_LIES ? 2048 : 32), 8192, 1024));
        wgmma_commit();
        wgmma_wait<1>();
        if (t == 0 && step > 0) barrier_arrive(empty + (step - 1) % STAGES);
    }
    wgmma_wait<0>(sum);
    for (int j = 0; j < 128; j++) {
        const int row = row0 + 64 * warpgroup + t / 32 * 16 + t % 32 / 4 + j / 2 % 2 * 8;
        const int column = column0 + j / 4 * 8 + t % 4 * 2 + j % 2;
        if (column < N) c[row * N + column] = sum[j];
    }
}
