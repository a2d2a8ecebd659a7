// A block's tile of a convolution as a matrix product, whoever multiplies: which tile it is, and what becomes of its sums.
//     y = relu(sum + bias);  where the sum is split, parts[blockIdx.z] = sum
// Every element of the tile that exists in the result is overwritten, from the sums in shared memory.
#include "epilogue.cuh"
#include "shared_sums.cuh"

struct Problem {  // the fields of PROBLEM in convolution_tile.py
    int N, H, W, C, K, R, S, P, Q;
    int stride, top, left, groups;
    int steps, steps_of_part;  // stages of the reduction, in all and of a block
    int columns_of_tiles;      // neighbouring blocks share their rows
    int has_bias, relu, in_parts;
    int pooled_P, pooled_Q, window_P, window_Q, pool_stride, pool_top, pool_left;
    int tile_P, tile_Q;  // outputs of the pooling that a block computes
};

// The block's place in the problem.
struct Block {
    const Problem& of;
    int row, column, group;  // the first of its tile, of the group's matrices
    int first_step, steps;

    __device__ explicit Block(const Problem& problem) : of(problem) {
        row = blockIdx.x / of.columns_of_tiles * TILE_ROWS;
        column = blockIdx.x % of.columns_of_tiles * TILE_COLUMNS;
        group = blockIdx.y;
        first_step = blockIdx.z * of.steps_of_part;
        steps = min(of.steps - first_step, of.steps_of_part);
    }

    __device__ int channels() const { return of.C / of.groups; }
    __device__ int filters() const { return of.K / of.groups; }
    __device__ int weights() const { return of.R * of.S * channels(); }  // of one filter
};

struct Pixel {
    int n, h, w;
};

// The i-th pixel of images of `height` x `width`.
__device__ inline Pixel pixel(int i, int height, int width) {
    return {i / (height * width), i / width % height, i % width};
}

// Goes `ahead` by some pixels: pixel(count, height, width).
__device__ inline void advance(Pixel& at, const Pixel& ahead, int height, int width) {
    at.n += ahead.n, at.h += ahead.h, at.w += ahead.w;
    if (at.w >= width) at.w -= width, at.h++;
    if (at.h >= height) at.h -= height, at.n++;
}

// Where a stage of the reduction over filters is: at weight (r, s) of the channels (or the filters) c, c + 1, ..., as
// many as a stage is deep. From stage to stage the weight changes first: neighbouring ones see nearly the same pixels.
struct Tap {
    int r, s, c;

    __device__ Tap(const Block& block, int depth) {
        const int step = block.first_step, R = block.of.R, S = block.of.S;
        r = step / S % R, s = step % S, c = step / S / R * depth;
    }

    __device__ void advance(const Problem& of, int depth) {
        s++;
        if (s == of.S) s = 0, r++;
        if (r == of.R) r = 0, c += depth;
    }
};

// Left open: PROBLEM, one of these.
enum { FPROP, POOLED_FPROP, DGRAD, WGRAD };

// The matrix of sums of a group, and where it lies in the result: (row, column) at first + row * pitch + column.
struct Result {
    int rows, columns, pitch;
    long long first, elements;  // of all groups

    // Whether eights of columns lie at multiples of 16 bytes.
    __device__ bool is_aligned(const void* result) const {
        return columns % 8 == 0 && pitch % 8 == 0 && reinterpret_cast<unsigned long long>(result) % 16 == 0;
    }
};

template <int problem>
__device__ Result result_of(const Block& block) {
    const Problem& of = block.of;
    const int filters = block.filters(), channels = block.channels(), weights = block.weights();
    if constexpr (problem == DGRAD) {
        const int inputs = of.N * of.H * of.W;
        return {inputs, channels, of.C, block.group * channels, (long long)inputs * of.C};
    } else if constexpr (problem == WGRAD) {
        return {filters, weights, weights, (long long)block.group * filters * weights, (long long)of.K * weights};
    } else {
        const int outputs = of.N * of.P * of.Q;
        return {outputs, filters, of.K, block.group * filters, (long long)outputs * of.K};
    }
}

// Eight columns of the tile, which is as many as a thread stores of a row; every eight of a thread is the same.
__device__ inline int first_of_8() { return threadIdx.x % (TILE_COLUMNS / 8) * 8; }

// Where they are in the result, and how many of them there are, none or less if they lie beyond it.
struct Eight {
    int column, count;
};

// If the columns of all tiles are those of the result, one behind the other.
__device__ inline Eight eight_of(const Block& block, const Result& result) {
    const int column = block.column + first_of_8();
    return {column, result.columns - column};
}

__device__ inline void load_biases(float (&biases)[8], const Block& block, const float* bias, Eight eight) {
#pragma unroll
    for (int i = 0; i < 8; i++)
        biases[i] =
            block.of.has_bias && i < eight.count ? bias[block.group * block.filters() + eight.column + i] : 0;
}

template <int THREADS, class T>
__device__ void store_rows(T* to, const Block& block, const Result& result, Eight eight, const float* bias) {
    static_assert(THREADS % (TILE_COLUMNS / 8) == 0);
    float biases[8];
    load_biases(biases, block, bias, eight);
    for (int row = threadIdx.x / (TILE_COLUMNS / 8); row < TILE_ROWS; row += THREADS / (TILE_COLUMNS / 8)) {
        if (block.row + row >= result.rows || eight.count <= 0) break;
        float y[8];
        load8(shared_sums() + row * PITCH + first_of_8(), y);
#pragma unroll
        for (int i = 0; i < 8; i++) y[i] = finished(y[i], biases[i], block.of.relu);
        const long long place = result.first + (long long)(block.row + row) * result.pitch + eight.column;
        store(to + place, y, eight.count, result.is_aligned(to));
    }
}

// By the first THREADS threads of the block.
template <int THREADS, class T>
__device__ void store_tile(T* y, float* parts, const Block& block, const Result& result, Eight eight,
                           const float* bias) {
    if (block.of.in_parts)
        store_rows<THREADS>(parts + blockIdx.z * result.elements, block, result, eight, bias);
    else
        store_rows<THREADS>(y, block, result, eight, bias);
}
