// What stands between a convolution's ReLU and the next convolution, LRN and max pool, each way in one pass.
//     y  = max over windows of LRN(x)        switches: offsets of the maxima
//     dz = ReLU'(LRN'(un-pooled dy))         db[c] = sum of dz[..., c] over all pixels
// with the formulas of lrn.cuh, max_pool2d.cuh and relu.cuh. LRN or pool may be absent, and the ReLU on the way back.
// The scale s of the LRN is never stored: the way back computes it from x again, which the ReLU needs anyway.
// All of y, switches, dz and db is overwritten, every element by the one thread that gathers it, in a fixed order.
#include "bfloat16.cuh"
#include "lrn.cuh"
#include "max_pool2d.cuh"
#include "relu.cuh"

#ifndef RUN  // lrn_max_pool2d.py sets all of these; here they are as between conv1 and conv2 of the paper's net
#define BFLOAT16 1        // words of bfloat16, or float32
#define RUN 8             // channels of a thread: 8, which are moved by 16 bytes, or 1
#define LRN_SIZE 5        // 0: no LRN
#define BY_ROOTS 1        // beta is 3/4
#define POOLED 1          // 0: no pool, and windows of 1 x 1
#define WINDOW_ROWS 3     // R
#define WINDOW_COLUMNS 3  // S
#define STRIDE 2
#endif

#if BFLOAT16
using Element = unsigned short;
#else
using Element = float;
#endif

constexpr int THREADS = 256, BAND = 7;  // as in lrn_max_pool2d.py
constexpr int NO_RELU = -1;             // a rule besides those of relu.cuh

constexpr int SIZE = LRN_SIZE ? LRN_SIZE : 1;  // of the windows along the channels
constexpr int BEFORE = (SIZE - 1) / 2, AFTER = SIZE - 1 - BEFORE;

// ---- runs of channels -----------------------------------------------------------------------------------------------

struct alignas(RUN) Switches {
    unsigned char of[RUN];
};

__device__ void load(const Element* from, float (&x)[8]) {
    load8(from, x);
}
__device__ void load(const Element* from, float (&x)[1]) {
    x[0] = widened(*from);
}
__device__ void store(Element* to, const float (&x)[8]) {
    store8(to, x);
}
__device__ void store(Element* to, const float (&x)[1]) {
    store(to, x[0]);
}

// A run of one pixel, x[BEFORE] ... x[BEFORE + RUN - 1], and the neighbours that its windows see. There is nothing, 0,
// before the first channel and after the last.
struct Neighbourhood {
    float x[BEFORE + RUN + AFTER];
};

__device__ Neighbourhood neighbourhood(const Element* run, int c, int channels) {
    Neighbourhood near;
    float own[RUN];
    load(run, own);
#pragma unroll
    for (int k = 0; k < RUN; k++) near.x[BEFORE + k] = own[k];
#pragma unroll
    for (int d = 1; d <= BEFORE; d++) near.x[BEFORE - d] = c - d >= 0 ? widened(run[-d]) : 0;
#pragma unroll
    for (int d = 0; d < AFTER; d++) near.x[BEFORE + RUN + d] = c + RUN + d < channels ? widened(run[RUN + d]) : 0;
    return near;
}

// Where beta is known, the compiler leaves the powers out, and their branches, which keep loads from running ahead.
__device__ LRN known(LRN lrn) {
    if (BY_ROOTS) lrn.beta = 0.75f;
    return lrn;
}

// s of the k-th of the run.
__device__ float scale(const Neighbourhood& near, int k, const LRN& lrn) {
    float squares = 0;
#pragma unroll
    for (int d = 0; d < SIZE; d++) squares += near.x[k + d] * near.x[k + d];
    return lrn.k + lrn.alpha_per_element * squares;
}

// ---- forward --------------------------------------------------------------------------------------------------------

constexpr int KEPT = WINDOW_ROWS > STRIDE ? WINDOW_ROWS - STRIDE : 0;  // rows that a window shares with the next
constexpr int AT_ONCE = WINDOW_COLUMNS < 4 ? WINDOW_COLUMNS : 4;       // pixels of a row

struct Maxima {
    Maximum of[RUN];
};

__device__ int clamped(int i, int size) {
    return i < 0 ? 0 : i < size ? i : size - 1;
}

// Of one row of a window, which begins at (h, w); the offsets are columns.
__device__ Maxima row_maxima(const Element* image, int h, int w, int c, const MaxPooling& pool, const LRN& lrn) {
    Maxima row;
    // What lies outside of the image is not considered, but loaded all the same, from its edge: without a branch, the
    // loads of several pixels are on their way at once.
#pragma unroll AT_ONCE
    for (int s = 0; s < WINDOW_COLUMNS; s++) {
        const bool inside = 0 <= h && h < pool.H && 0 <= w + s && w + s < pool.W;
        const int pixel = clamped(h, pool.H) * pool.W + clamped(w + s, pool.W);
        const Neighbourhood near = neighbourhood(image + (long long)pixel * pool.C + c, c, pool.C);
#pragma unroll
        for (int k = 0; k < RUN; k++) {
            const float x = near.x[BEFORE + k];
            const float y = LRN_SIZE ? x * to_minus_beta(scale(near, k, lrn), lrn.beta) : x;
            if (inside) consider(row.of[k], y, s);
        }
    }
    return row;
}

// A thread computes a run of one column of y, from the top of a band of BAND rows to its bottom: of the rows of x that
// two windows share, it keeps the maxima. Neighbouring threads read and write neighbouring runs.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    lrn_max_pool2d_forward(const Element* __restrict__ x,         // (N, H, W, C)
                           Element* __restrict__ y,               // (N, P, Q, C)
                           unsigned char* __restrict__ switches,  // (N, P, Q, C), if there is a pool
                           MaxPooling pool, LRN given) {
    const LRN lrn = known(given);
    const int runs = pool.C / RUN, bands = (pool.P + BAND - 1) / BAND;
    const int blocks = (pool.Q * runs + blockDim.x - 1) / blockDim.x;  // of a band
    const int in_band = blockIdx.x % blocks * blockDim.x + threadIdx.x;
    if (in_band >= pool.Q * runs) return;
    const int q = in_band / runs, c = in_band % runs * RUN, n = blockIdx.x / blocks / bands;
    const int first = blockIdx.x / blocks % bands * BAND, last = first + BAND < pool.P ? first + BAND : pool.P;
    x += (long long)n * pool.H * pool.W * pool.C;

    const int w = q * STRIDE - pool.left;
    Maxima kept[KEPT + 1];
#pragma unroll
    for (int r = 0; r < KEPT; r++) kept[r] = row_maxima(x, first * STRIDE - pool.top + r, w, c, pool, lrn);

    for (int p = first; p < last; p++) {
        Maxima best;
#pragma unroll
        for (int r = 0; r < WINDOW_ROWS; r++) {
            const Maxima row = r < KEPT ? kept[r] : row_maxima(x, p * STRIDE - pool.top + r, w, c, pool, lrn);
#pragma unroll
            for (int k = 0; k < RUN; k++) consider(best.of[k], row.of[k].value, r * WINDOW_COLUMNS + row.of[k].offset);
            if (STRIDE <= r) kept[r - STRIDE] = row;
        }
        const long long i = (((long long)n * pool.P + p) * pool.Q + q) * pool.C + c;
        float values[RUN];
        Switches offsets;
#pragma unroll
        for (int k = 0; k < RUN; k++) values[k] = best.of[k].value, offsets.of[k] = best.of[k].offset;
        store(y + i, values);
        if (POOLED) *reinterpret_cast<Switches*>(switches + i) = offsets;
    }
}

// ---- backward -------------------------------------------------------------------------------------------------------

// A cell is STRIDE x STRIDE pixels of the padded image, at the first of which a window begins. So it is known which
// windows see a pixel of the cell, and at which offset; each is loaded once for all the pixels.
constexpr int CELL_ROWS = (WINDOW_ROWS + STRIDE - 1) / STRIDE;  // the window that begins at the cell, and others before
constexpr int CELL_COLUMNS = (WINDOW_COLUMNS + STRIDE - 1) / STRIDE;

struct Window {
    float dy[RUN], y[RUN];
    Switches switches;
};

struct Pixel {
    bool inside;   // of the image
    long long at;  // of its run in x and dz
    Neighbourhood near;
};

// The window (p, q), if it exists; otherwise one that adds nothing, whose y no pixel keeps: no other comes before it.
template <bool WITH_Y>
__device__ Window window_at(const Element* dy, const Element* y, const unsigned char* switches, bool exists, int n,
                            int p, int q, int c, const MaxPooling& pool) {
    Window window = {};
    if (!exists || p < 0 || p >= pool.P || q < 0 || q >= pool.Q) return window;
    const long long i = (((long long)n * pool.P + p) * pool.Q + q) * pool.C + c;
    load(dy + i, window.dy);
    if (WITH_Y) load(y + i, window.y);
    if (POOLED) window.switches = *reinterpret_cast<const Switches*>(switches + i);
    return window;
}

// What the windows give to the pixel (u, v) of the cell, in the order of its offsets in them; and where x is not there
// but only y, the value that the pool took from it. A pixel that no switch points to gets no derivative, so that its
// value does not matter.
template <bool X_IS_POOLED>
__device__ void unpool(const Window (&windows)[CELL_ROWS][CELL_COLUMNS], int u, int v, float (&dx)[RUN],
                       Neighbourhood& near) {
#pragma unroll
    for (int a = 0; a < CELL_ROWS; a++)
#pragma unroll
        for (int b = 0; b < CELL_COLUMNS; b++) {
            const int r = u + a * STRIDE, s = v + b * STRIDE;
            if (r >= WINDOW_ROWS || s >= WINDOW_COLUMNS) continue;
#pragma unroll
            for (int k = 0; k < RUN; k++) {
                if (POOLED && windows[a][b].switches.of[k] != r * WINDOW_COLUMNS + s) continue;
                dx[k] += windows[a][b].dy[k];
                if (X_IS_POOLED) near.x[BEFORE + k] = windows[a][b].y[k];
            }
        }
}

// What the threads of a block have for one another: the k-th of thread t's run at [k][HALO + t].
constexpr int HALO = (AFTER + RUN - 1) / RUN;  // threads on either side that a thread needs the runs of
using Shared = float[RUN][HALO + THREADS + HALO];

// Writes over dx, which is dy. All threads of a block call it at once.
__device__ void lrn_backward(float (&dx)[RUN], const Neighbourhood& near, Shared& shared, int thread, int c,
                             int channels, const LRN& lrn) {
#pragma unroll
    for (int k = 0; k < RUN; k++) {
        const float s = scale(near, k, lrn);
        dx[k] *= to_minus_beta(s, lrn.beta);
        shared[k][HALO + thread] = dx[k] * near.x[BEFORE + k] * inverse(s);
    }
    __syncthreads();
    float of_scales[AFTER + RUN + BEFORE];  // of the channels [c - AFTER, c + RUN + BEFORE), as far as there are any
#pragma unroll
    for (int e = 0; e < AFTER + RUN + BEFORE; e++) {
        const int from_halo = HALO * RUN - AFTER + e, channel = c - AFTER + e;
        const float there = shared[from_halo % RUN][thread + from_halo / RUN];  // of another pixel, if not of this one
        of_scales[e] = 0 <= channel && channel < channels ? there : 0;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < RUN; k++) {
        float through_scales = 0;
#pragma unroll
        for (int d = 0; d < SIZE; d++) through_scales += of_scales[k + d];
        dx[k] -= 2 * lrn.alpha_per_element * lrn.beta * near.x[BEFORE + k] * through_scales;
    }
}

// Adds up what the threads along y have, in their order: the run c of the row of `sums` that is the block's.
__device__ void add_up(const float (&total)[RUN], float* sums, Shared& shared, int thread, int c, int channels,
                       bool writes) {
#pragma unroll
    for (int k = 0; k < RUN; k++) shared[k][thread] = total[k];
    __syncthreads();
    if (threadIdx.y || !writes) return;
#pragma unroll
    for (int k = 0; k < RUN; k++) {
        float sum = 0;
#pragma unroll 1
        for (int y = 0; y < blockDim.y; y++) sum += shared[k][y * blockDim.x + threadIdx.x];
        sums[(long long)blockIdx.x * channels + c + k] = sum;
    }
}

// The threads of a block along x have neighbouring runs of one cell, and those along y neighbouring cells. Where there
// are more runs than a block has threads, they are divided among blocks along y, whose first and last HALO threads then
// only compute what their neighbours need of them. Blocks along x take the cells in turn.
template <bool X_IS_POOLED>
__device__ void backward(const Element* dy, const Element* x, const unsigned char* switches, Element* dz, float* sums,
                         const MaxPooling& pool, const LRN& lrn, int cells, int rule, bool adds_up) {
    __shared__ Shared shared;
    const int thread = threadIdx.y * blockDim.x + threadIdx.x, halo = gridDim.y > 1 ? HALO : 0;
    const int c = (int(blockIdx.y * (blockDim.x - 2 * halo) + threadIdx.x) - halo) * RUN;
    const bool has_channels = 0 <= c && c < pool.C;
    const bool writes = has_channels && halo <= threadIdx.x && threadIdx.x < blockDim.x - halo;
    const bool reads_x = !X_IS_POOLED && (LRN_SIZE || rule != NO_RELU);
    const bool changes = LRN_SIZE || POOLED || rule != NO_RELU;  // otherwise dz is dy

    const int rows = (pool.top + pool.H + STRIDE - 1) / STRIDE, columns = (pool.left + pool.W + STRIDE - 1) / STRIDE;
    float total[RUN] = {};
    for (unsigned first = blockIdx.x * blockDim.y; first < cells; first += gridDim.x * blockDim.y) {
        const unsigned cell = first + threadIdx.y;
        const bool exists = cell < cells && has_channels;
        const int j = cell % columns, i = cell / columns % rows, n = cell / columns / rows;

        Window windows[CELL_ROWS][CELL_COLUMNS];
#pragma unroll
        for (int a = 0; a < CELL_ROWS; a++)
#pragma unroll
            for (int b = 0; b < CELL_COLUMNS; b++)
                windows[a][b] = window_at<X_IS_POOLED>(dy, x, switches, exists, n, i - a, j - b, c, pool);
#pragma unroll
        for (int u = 0; u < STRIDE; u++) {
            // A row of pixels, so that their loads are on their way at once. What is not there is loaded, too, from the
            // beginning of x: there is no branch then that would wait for it.
            Pixel pixels[STRIDE] = {};
#pragma unroll
            for (int v = 0; v < STRIDE; v++) {
                const int h = i * STRIDE + u - pool.top, w = j * STRIDE + v - pool.left;
                const bool inside = exists && 0 <= h && h < pool.H && 0 <= w && w < pool.W;
                pixels[v].inside = inside;
                pixels[v].at = inside ? (((long long)n * pool.H + h) * pool.W + w) * pool.C + c : 0;
                if (reads_x) pixels[v].near = neighbourhood(x + pixels[v].at, inside ? c : 0, pool.C);
            }
#pragma unroll
            for (int v = 0; v < STRIDE; v++) {
                float dx[RUN] = {};
                unpool<X_IS_POOLED>(windows, u, v, dx, pixels[v].near);
                if (LRN_SIZE) lrn_backward(dx, pixels[v].near, shared, thread, c, pool.C, lrn);
                if (!pixels[v].inside || !writes) continue;
#pragma unroll
                for (int k = 0; k < RUN; k++) {
                    if (rule != NO_RELU) dx[k] = relu_backward(dx[k], pixels[v].near.x[BEFORE + k], rule);
                    total[k] += dx[k];
                }
                if (changes) store(dz + pixels[v].at, dx);
            }
        }
    }
    if (adds_up) add_up(total, sums, shared, thread, c, pool.C, writes);
}

// Without a pool, dy is (N, H, W, C), and switches are not read; without LRN and ReLU, x is not, and without anything
// dz is not written, since it is dy.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    lrn_max_pool2d_backward(const Element* __restrict__ dy,              // (N, P, Q, C)
                            const Element* __restrict__ x,               // (N, H, W, C)
                            const unsigned char* __restrict__ switches,  // (N, P, Q, C)
                            Element* __restrict__ dz,                    // (N, H, W, C)
                            float* __restrict__ sums,                    // (blocks along x, C)
                            MaxPooling pool, LRN lrn, int cells, int rule, bool adds_up) {
    backward<false>(dy, x, switches, dz, sums, pool, known(lrn), cells, rule, adds_up);
}

#if !LRN_SIZE  // with one in between, x has to be there
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    relu_max_pool2d_backward(const Element* __restrict__ dy,              // (N, P, Q, C)
                             const Element* __restrict__ y,               // (N, P, Q, C)
                             const unsigned char* __restrict__ switches,  // (N, P, Q, C)
                             Element* __restrict__ dz,                    // (N, H, W, C)
                             float* __restrict__ sums,                    // (blocks along x, C)
                             MaxPooling pool, LRN lrn, int cells, int rule, bool adds_up) {
    backward<true>(dy, y, switches, dz, sums, pool, known(lrn), cells, rule, adds_up);
}
#endif

// A block adds up 32 columns: its threads along y every 32nd row, and those of the first row then what these have.
extern "C" __global__ void sum_of_rows(const float* __restrict__ x,  // (rows, channels)
                                       float* __restrict__ sums,     // (channels,)
                                       int rows, int channels) {
    __shared__ float shared[32][32];
    const int c = blockIdx.x * 32 + threadIdx.x;
    float total = 0;
    if (c < channels) {
#pragma unroll 4
        for (int row = threadIdx.y; row < rows; row += 32) total += x[(long long)row * channels + c];
    }
    shared[threadIdx.y][threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.y || c >= channels) return;
    float sum = 0;
    for (int y = 0; y < 32; y++) sum += shared[y][threadIdx.x];
    sums[c] = sum;
}
