// A convolution of stride 1 and its two adjoints, as in conv2d_tensor_core.cu, by TMA and wgmma, which sm_90a alone has.
//     fprop  y[n, p, q, k]  = relu(bias[k] + sum over r, s, c of x~[n, p + r, q + s, c] w[k, r, s, c])
//     dgrad  dx[n, h, w, c] = sum over k, r, s of dy~[n, h + r, w + s, k] w[k, R - 1 - r, S - 1 - s, c]
//     wgrad  dw[k, r, s, c] = sum over n, p, q of dy[n, p, q, k] x~[n, p + r, q + s, c]
// x~ and dy~ are x and dy with zeros around them: dy with R - 1 - top of them above, and so on. Every element of the
// result is overwritten, by one block; where the sum is split, every part of it by one block, without bias and ReLU.
#include "convolution_tile.cuh"
#include "wgmma_product.cuh"

// ---- what a stage is copied from ------------------------------------------------------------------------------------
// TMA knows the arrays from maps, which conv2d_wgmma.py makes, and copies 64 channels of each pixel. What lies beside an
// array is zeros: pixels around an image, images and filters beyond the last, and channels beyond the last.
//
// An im2col map knows, too, where the window of the first output of an image begins, and that of the last. From the
// output on that it is given it takes as many as a tile has, through rows and images, and of each window the pixel at
// (s, r), counted from where the window begins.

template <int problem>
struct Gather;

// Rows are outputs, columns filters, the reduction runs over (c, r, s), 64 channels at once.
template <>
struct Gather<FPROP> {
    static constexpr bool A_LIES = false, B_LIES = false;
    const TensorMap &x, &w;  // (N, H, W, C) by columns of TILE_ROWS pixels, (K, R S, C) by boxes of TILE_COLUMNS filters
    const Block& block;
    Tap tap;
    Pixel window;

    __device__ Gather(const TensorMap& x, const TensorMap& w, const Block& block)
        : x(x), w(w), block(block), tap(block, DEPTH), window(pixel(block.row, block.of.P, block.of.Q)) {
        window.h -= block.of.top, window.w -= block.of.left;
    }

    __device__ void copy(unsigned char* a, unsigned char* b, Barrier* full) {
        tma_load_im2col(a, x, full, tap.c, window.w, window.h, window.n, tap.s, tap.r);
        tma_load(b, w, full, tap.c, tap.r * block.of.S + tap.s, block.column);
        tap.advance(block.of, DEPTH);
    }
};

// Rows are pixels, columns channels, the reduction runs over (k, r, s), 64 filters at once.
template <>
struct Gather<DGRAD> {
    static constexpr bool A_LIES = false, B_LIES = true;
    const TensorMap &dy, &w;  // (N, P, Q, K) by columns of TILE_ROWS pixels, (K, R S, C) by boxes of 64 filters
    const Block& block;
    Tap tap;
    Pixel window;  // with zeros around dy, it begins where the last weight of a filter saw the pixel

    __device__ Gather(const TensorMap& dy, const TensorMap& w, const Block& block)
        : dy(dy), w(w), block(block), tap(block, DEPTH), window(pixel(block.row, block.of.H, block.of.W)) {
        window.h += block.of.top - (block.of.R - 1), window.w += block.of.left - (block.of.S - 1);
    }

    __device__ void copy(unsigned char* a, unsigned char* b, Barrier* full) {
        const Problem& of = block.of;
        tma_load_im2col(a, dy, full, tap.c, window.w, window.h, window.n, of.S - 1 - tap.s, of.R - 1 - tap.r);
#pragma unroll
        for (int i = 0; i < B_PANELS; i++)
            tma_load(b + i * PANEL_BYTES, w, full, block.column + 64 * i, tap.r * of.S + tap.s, tap.c);
        tap.advance(of, DEPTH);
    }
};

// Of wgrad's columns: 64 channels of one weight. The last of a weight may have fewer, and zeros behind them.
struct Panel {
    int r, s, c;

    Panel() = default;
    __device__ Panel(const Problem& of, int column) {
        const int panel = column / 64, of_a_weight = (of.C + 63) / 64;
        r = panel / of_a_weight / of.S, s = panel / of_a_weight % of.S, c = panel % of_a_weight * 64;
    }
};

// Rows are filters, columns weights (r, s, c) in panels, the reduction runs over outputs (n, p, q), 64 at once.
template <>
struct Gather<WGRAD> {
    static constexpr bool A_LIES = true, B_LIES = true;
    const TensorMap &dy, &x;  // (N P Q, K) by boxes of 64 outputs, (N, H, W, C) by columns of 64 pixels
    const Block& block;
    int output;
    Pixel place, stage;  // of the output, and what lies between one stage and the next
    Panel panels[B_PANELS];

    __device__ Gather(const TensorMap& dy, const TensorMap& x, const Block& block)
        : dy(dy), x(x), block(block), output(block.first_step * DEPTH) {
        place = pixel(output, block.of.P, block.of.Q), stage = pixel(DEPTH, block.of.P, block.of.Q);
        for (int i = 0; i < B_PANELS; i++) panels[i] = Panel(block.of, block.column + 64 * i);
    }

    __device__ void copy(unsigned char* a, unsigned char* b, Barrier* full) {
        const Problem& of = block.of;
#pragma unroll
        for (int i = 0; i < A_PANELS; i++) tma_load(a + i * PANEL_BYTES, dy, full, block.row + 64 * i, output);
#pragma unroll
        for (int i = 0; i < B_PANELS; i++)  // one beyond the last weight is of no use, and not stored
            tma_load_im2col(b + i * PANEL_BYTES, x, full, panels[i].c, place.w - of.left, place.h - of.top, place.n,
                            panels[i].s, panels[i].r);
        output += DEPTH;
        advance(place, stage, of.P, of.Q);
    }
};

// ---- what becomes of the sums ---------------------------------------------------------------------------------------

// The columns that a thread stores.
template <int problem>
__device__ Eight stored_eight(const Block& block, const Result& result) {
    if constexpr (problem != WGRAD) return eight_of(block, result);
    const Problem& of = block.of;
    const int column = block.column + first_of_8();
    const Panel panel(of, column);
    const int c = panel.c + column % 64;
    return {(panel.r * of.S + panel.s) * of.C + c, panel.r < of.R ? of.C - c : 0};
}

extern "C" __global__ void __launch_bounds__(THREADS)
    convolve(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,  // x and w, dy and w, dy and x
             const float* __restrict__ bias,    // (K,), if there is one
             unsigned short* __restrict__ y,    // the result, or
             float* __restrict__ parts,         // the parts of the sums, each as large as the result, if in_parts
             Problem problem) {
    using Operands = Gather<PROBLEM>;
    const Block block(problem);
    if (threadIdx.x == LOADER) tma_prefetch(a), tma_prefetch(b);
    begin_barriers();
    if (threadIdx.x == LOADER) {
        Operands operands(a, b, block);
        load_stages(operands, block.steps);
    }
    if (threadIdx.x >= CONSUMERS) return;  // the others of the loader's warpgroup have nothing to do
    Sums sums = {};
    multiply_stages<Operands::A_LIES, Operands::B_LIES>(sums, block.steps);
    share(sums);
    const Result result = result_of<PROBLEM>(block);
    store_tile<CONSUMERS>(y, parts, block, result, stored_eight<PROBLEM>(block, result), bias);
}
