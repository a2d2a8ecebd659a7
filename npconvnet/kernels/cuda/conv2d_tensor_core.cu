// A convolution and its two adjoints as matrix products (implicit GEMM), as in ../cpu/conv2d.py; group by group.
//     fprop  y[n, p, q, k]  = relu(bias[k] + sum over r, s, c of x~[n, p stride + r, q stride + s, c] w[k, r, s, c])
//            and with pooling the maxima of these over windows of p, q, and the offset of each maximum in its window
//     dgrad  dx[n, h, w, c] = sum over k, r, s of dy[n, p, q, k] w[k, r, s, c]
//            where p stride + r = h + top and q stride + s = w + left
//     wgrad  dw[k, r, s, c] = sum over n, p, q of dy[n, p, q, k] x~[n, p stride + r, q stride + s, c]
// x~ is x with zeros around it. The matrices are never written: each problem gathers its operands from the arrays into
// shared memory, which is all that it differs in. Every element of the result is overwritten, by one block; where the
// sum is split, every part of it by one block, without bias and ReLU, and sum_of_parts.cu adds them up.
#include "convolution_tile.cuh"
#include "implicit_gemm.cuh"
#include "max_pool2d.cuh"

constexpr int NOWHERE = -(1 << 20);  // further outside than any window reaches

__device__ inline bool is_inside(int i, int size) { return (unsigned)i < (unsigned)size; }

// ---- fprop: rows are outputs (n, p, q), columns filters, the reduction runs over (r, s, c) --------------------------

// The output that a row of the tile computes; that of an image beyond the last is none.
struct AllOutputs {
    static __device__ Pixel output(const Block& block, int row) {
        return pixel(block.row + row, block.of.P, block.of.Q);
    }
};

// What tile_P x tile_Q windows of the pooling see: a rectangle, row by row. Some see padding.
struct PooledOutputs {
    static __device__ int height(const Problem& of) { return (of.tile_P - 1) * of.pool_stride + of.window_P; }
    static __device__ int width(const Problem& of) { return (of.tile_Q - 1) * of.pool_stride + of.window_Q; }

    // The image, and the first output of the pooling.
    static __device__ Pixel first(const Block& block) {
        const Problem& of = block.of;
        const int high = (of.pooled_P + of.tile_P - 1) / of.tile_P, wide = (of.pooled_Q + of.tile_Q - 1) / of.tile_Q;
        const Pixel tile = pixel(block.row / TILE_ROWS, high, wide);
        return {tile.n, tile.h * of.tile_P, tile.w * of.tile_Q};
    }

    static __device__ Pixel output(const Block& block, int row) {
        const Problem& of = block.of;
        const Pixel pooled = first(block);
        const int p = pooled.h * of.pool_stride - of.pool_top + row / width(of);
        const int q = pooled.w * of.pool_stride - of.pool_left + row % width(of);
        const bool exists = row < height(of) * width(of) && is_inside(p, of.P) && is_inside(q, of.Q);
        return {exists ? pooled.n : of.N, p, q};
    }
};

// x under the filters.
template <class Outputs>
struct ImageRows {
    using Tile = Upright;
    static constexpr int COUNT = TILE_ROWS / ROWS_AT_ONCE;

    const Element* x;
    const Problem& of;
    int channels, r, s, c;   // the weight that this thread's next chunk begins with
    int chunk[COUNT];        // of the first pixel under the filter, counted from the first of x
    int h[COUNT], w[COUNT];  // its place

    __device__ ImageRows(const Block& block, const Element* all)
        : x(all + block.group * block.channels()), of(block.of), channels(block.channels()) {
        const int position = block.first_step * DEPTH + first_chunk() * CHUNK;
        r = position / channels / of.S, s = position / channels % of.S, c = position % channels;
        for (int i = 0; i < COUNT; i++) {
            const Pixel output = Outputs::output(block, first_row() + i * ROWS_AT_ONCE);
            h[i] = output.h * of.stride - of.top;
            w[i] = output.w * of.stride - of.left;
            chunk[i] = ((output.n * of.H + h[i]) * of.W + w[i]) * (of.C / CHUNK);
            if (output.n >= of.N) h[i] = NOWHERE;
        }
    }

    __device__ void copy(unsigned char* tile) {
        const int ahead = (r * of.W + s) * (of.C / CHUNK) + c / CHUNK;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const bool inside = is_inside(h[i] + r, of.H) && is_inside(w[i] + s, of.W) && r < of.R;
            cp_async(tile + Tile::place(first_row() + i * ROWS_AT_ONCE, first_chunk()),
                     x + (long long)(chunk[i] + ahead) * CHUNK, inside);
        }
        for (c += DEPTH; c >= channels; c -= channels) {
            s++;
            if (s == of.S) s = 0, r++;
        }
    }
};

// w as it lies: a row holds the weights of one filter.
struct FilterRows {
    using Tile = Upright;

    const Element* next;
    int position, weights;  // of this thread's next chunk in its filters, and how many a filter has
    int rows;               // from this thread's first filter to the last

    __device__ FilterRows(const Block& block, const Element* w) {
        const int filter = block.column + first_row();
        weights = block.weights();
        position = block.first_step * DEPTH + first_chunk() * CHUNK;
        rows = block.filters() - filter;
        next = w + (long long)(block.group * block.filters() + filter) * weights + position;
    }

    __device__ void copy(unsigned char* tile) {
#pragma unroll
        for (int i = 0; i < TILE_COLUMNS / ROWS_AT_ONCE; i++) {
            const int row = i * ROWS_AT_ONCE;
            cp_async(tile + Tile::place(first_row() + row, first_chunk()), next + (long long)row * weights,
                     row < rows && position < weights);
        }
        position += DEPTH, next += DEPTH;
    }
};

// ---- dgrad: rows are pixels (n, h, w), columns channels, the reduction runs over (k, r, s), DEPTH filters at once

// dy where a filter saw the pixel of x.
struct GradientRows {
    using Tile = Upright;
    static constexpr int COUNT = TILE_ROWS / ROWS_AT_ONCE;

    const Element* dy;
    const Problem& of;
    Tap tap;
    int filters;
    int first[COUNT];        // row of the pixel's image, among the rows of all images of dy
    int h[COUNT], w[COUNT];  // the pixel's place in the padded image

    __device__ GradientRows(const Block& block, const Element* all)
        : dy(all + block.group * block.filters()), of(block.of), tap(block, DEPTH), filters(block.filters()) {
        for (int i = 0; i < COUNT; i++) {
            const Pixel input = pixel(block.row + first_row() + i * ROWS_AT_ONCE, of.H, of.W);
            first[i] = input.n * of.P;
            h[i] = input.n < of.N ? input.h + of.top : NOWHERE;
            w[i] = input.w + of.left;
        }
    }

    __device__ void copy(unsigned char* tile) {
        if (of.stride == 1)
            copy_rows(tile, [](int, int) { return true; });
        else
            copy_rows(tile, [stride = of.stride](int& p, int& q) {
                const bool is_output = p % stride == 0 && q % stride == 0;
                p /= stride, q /= stride;
                return is_output;
            });
        tap.advance(of, DEPTH);
    }

    // `divide` divides by the stride and tells whether that leaves no rest.
    template <class Divide>
    __device__ void copy_rows(unsigned char* tile, Divide divide) {
        const int k = tap.c + first_chunk() * CHUNK;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            int p = h[i] - tap.r, q = w[i] - tap.s;
            const bool inside = divide(p, q) && is_inside(p, of.P) && is_inside(q, of.Q) && k < filters;
            cp_async(tile + Tile::place(first_row() + i * ROWS_AT_ONCE, first_chunk()),
                     dy + ((long long)(first[i] + p) * of.Q + q) * of.K + k, inside);
        }
    }
};

// w transposed: a row holds the channels of one weight of the filters k, k + 1, ...
struct FilterColumns {
    using Tile = Lying<Element, TILE_COLUMNS>;

    const Element* w;
    const Problem& of;
    Tap tap;
    int filters, channels, first;  // channel of this thread

    __device__ FilterColumns(const Block& block, const Element* all)
        : of(block.of), tap(block, DEPTH), filters(block.filters()), channels(block.channels()) {
        w = all + (long long)block.group * filters * block.weights();
        first = block.column + first_chunk() * CHUNK;
    }

    __device__ void copy(unsigned char* tile) {
#pragma unroll
        for (int i = 0; i < DEPTH / ROWS_AT_ONCE; i++) {
            const int step = first_row() + i * ROWS_AT_ONCE, k = tap.c + step;
            const Element* weights = w + (((long long)k * of.R + tap.r) * of.S + tap.s) * channels;
#pragma unroll
            for (int j = 0; j < TILE_COLUMNS / DEPTH; j++) {
                const int c = first + j * DEPTH;
                cp_async(tile + Tile::place(step, first_chunk() + j * 8), weights + c, k < filters && c < channels);
            }
        }
        tap.advance(of, DEPTH);
    }
};

// ---- wgrad: rows are filters, columns weights (r, s, c), the reduction runs over outputs (n, p, q) ------------------

// dy transposed: a row holds the filters of one output.
struct GradientColumns {
    using Tile = Lying<Element, TILE_ROWS>;

    const Element* dy;
    long long outputs, output;  // of all images, and this thread's first of the next stage
    int K, filters, first;      // filter of this thread

    __device__ GradientColumns(const Block& block, const Element* all)
        : dy(all + block.group * block.filters()), K(block.of.K), filters(block.filters()) {
        outputs = (long long)block.of.N * block.of.P * block.of.Q;
        output = (long long)block.first_step * DEPTH + first_row();
        first = block.row + first_chunk() * CHUNK;
    }

    __device__ void copy(unsigned char* tile) {
#pragma unroll
        for (int i = 0; i < DEPTH / ROWS_AT_ONCE; i++) {
            const int step = i * ROWS_AT_ONCE;
#pragma unroll
            for (int j = 0; j < TILE_ROWS / DEPTH; j++) {
                const int k = first + j * DEPTH;
                cp_async(tile + Tile::place(first_row() + step, first_chunk() + j * 8), dy + (output + step) * K + k,
                         output + step < outputs && k < filters);
            }
        }
        output += DEPTH;
    }
};

// x under one weight of the filters: a row holds the pixels that an output saw.
struct ImageColumns {
    using Tile = Lying<Element, TILE_COLUMNS>;
    static constexpr int STEPS = DEPTH / ROWS_AT_ONCE, COUNT = TILE_COLUMNS / DEPTH;

    const Element* x;
    const Problem& of;
    Pixel output[STEPS], stage;        // the outputs of this thread, and what lies between one and the next
    int r[COUNT], s[COUNT], c[COUNT];  // the weights of this thread

    __device__ ImageColumns(const Block& block, const Element* all)
        : x(all + block.group * block.channels()), of(block.of) {
        const int channels = block.channels();
        stage = pixel(DEPTH, of.P, of.Q);
        for (int i = 0; i < STEPS; i++)
            output[i] = pixel(block.first_step * DEPTH + first_row() + i * ROWS_AT_ONCE, of.P, of.Q);
        for (int j = 0; j < COUNT; j++) {
            const int weight = block.column + first_chunk() * CHUNK + j * DEPTH;
            r[j] = weight < block.weights() ? weight / channels / of.S : NOWHERE;
            s[j] = weight / channels % of.S, c[j] = weight % channels;
        }
    }

    __device__ void copy(unsigned char* tile) {
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            const auto [n, p, q] = output[i];
#pragma unroll
            for (int j = 0; j < COUNT; j++) {
                const int h = p * of.stride - of.top + r[j], w = q * of.stride - of.left + s[j];
                const bool inside = n < of.N && is_inside(h, of.H) && is_inside(w, of.W);
                cp_async(tile + Tile::place(first_row() + i * ROWS_AT_ONCE, first_chunk() + j * 8),
                         x + (((long long)n * of.H + h) * of.W + w) * of.C + c[j], inside);
            }
            advance(output[i], stage, of.P, of.Q);
        }
    }
};

// ---- what becomes of the sums with pooling --------------------------------------------------------------------------

struct alignas(8) Offsets {
    unsigned char of[8];
};

// The maxima under the windows of the pooling, by max_pool2d.cuh.
__device__ void store_pooled(Element* to, unsigned char* switches, const Block& block, const Result& result,
                             const float* bias) {
    const Problem& of = block.of;
    const Eight eight = eight_of(block, result);
    const Pixel first = PooledOutputs::first(block);
    float biases[8];
    load_biases(biases, block, bias, eight);
    for (int i = threadIdx.x / (TILE_COLUMNS / 8); i < of.tile_P * of.tile_Q; i += THREADS / (TILE_COLUMNS / 8)) {
        const int tile_p = i / of.tile_Q, tile_q = i % of.tile_Q, p = first.h + tile_p, q = first.w + tile_q;
        if (p >= of.pooled_P || q >= of.pooled_Q || eight.count <= 0) continue;
        Maximum best[8];
        for (int r = 0; r < of.window_P; r++)
            for (int s = 0; s < of.window_Q; s++) {
                const int row = tile_p * of.pool_stride + r, pixel = tile_q * of.pool_stride + s;
                if (!is_inside(first.h * of.pool_stride - of.pool_top + row, of.P) ||
                    !is_inside(first.w * of.pool_stride - of.pool_left + pixel, of.Q))
                    continue;
                float y[8];
                load8(shared_sums() + (row * PooledOutputs::width(of) + pixel) * PITCH + first_of_8(), y);
#pragma unroll
                for (int k = 0; k < 8; k++)
                    consider(best[k], finished(y[k], biases[k], of.relu), r * of.window_Q + s);
            }
        float maxima[8];
        Offsets offsets;
#pragma unroll
        for (int k = 0; k < 8; k++) maxima[k] = best[k].value, offsets.of[k] = best[k].offset;
        const long long output = ((long long)first.n * of.pooled_P + p) * of.pooled_Q + q;
        const long long place = output * of.K + result.first + eight.column;
        store(to + place, maxima, eight.count, result.is_aligned(to));
        if (result.is_aligned(switches)) {
            *reinterpret_cast<Offsets*>(switches + place) = offsets;
            continue;
        }
#pragma unroll
        for (int k = 0; k < 8; k++)
            if (k < eight.count) switches[place + k] = offsets.of[k];
    }
}

// ---- the four problems ----------------------------------------------------------------------------------------------

// a and b are x and w, dy and w, or dy and x.
template <int problem>
struct Operands;
template <>
struct Operands<FPROP> {
    using A = ImageRows<AllOutputs>;
    using B = FilterRows;
};
template <>
struct Operands<POOLED_FPROP> {
    using A = ImageRows<PooledOutputs>;
    using B = FilterRows;
};
template <>
struct Operands<DGRAD> {
    using A = GradientRows;
    using B = FilterColumns;
};
template <>
struct Operands<WGRAD> {
    using A = GradientColumns;
    using B = ImageColumns;
};

extern "C" __global__ void __launch_bounds__(THREADS)
    convolve(const Element* __restrict__ a, const Element* __restrict__ b,
             const float* __restrict__ bias,       // (K,), if there is one
             Element* __restrict__ y,              // the result, or
             unsigned char* __restrict__ switches, // with pooling, as large as y
             float* __restrict__ parts,            // the parts of the sums, each as large as the result, if in_parts
             Problem problem) {
    const Block block(problem);
    typename Operands<PROBLEM>::A a_tiles(block, a);
    typename Operands<PROBLEM>::B b_tiles(block, b);
    Sums sums = {};
    multiply(sums, a_tiles, b_tiles, block.steps);
    share(sums);

    const Result result = result_of<PROBLEM>(block);
    if constexpr (PROBLEM == POOLED_FPROP)
        store_pooled(y, switches, block, result, bias);
    else
        store_tile<THREADS>(y, parts, block, result, eight_of(block, result), bias);
}
