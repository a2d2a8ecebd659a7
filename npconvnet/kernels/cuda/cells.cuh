// Space to depth: which number of an image stands where in its cells of stride x stride pixels.
//     cells[n, i, j, (y * stride + x) * 3 + c] = image[n, i * stride + y - top, j * stride + x - left, c],  or else 0:
// outside of the image, and in the last channels, which fill a cell up to a multiple of 8.
// Every channel of every cell is overwritten. Nothing else is written.
#include "bfloat16.cuh"

struct Cells {  // the fields of CELLS in space_to_depth.py
    int stride, top, left;
    int height, width;            // of the image
    int rows, columns, channels;  // of its cells
};

struct Pixel {
    float channel[3];
};

// A block gathers one row of cells in its shared memory, each thread the pixels at one place of some cells, and writes
// it from there 16 bytes at a time, neighbouring threads neighbouring ones. pixel(row, column) is one of the image that
// the block works on. blockDim.x goes over the places in a cell, blockDim.y over the cells.
template <class Element, class Image>
__device__ void write_cells(Element* cells, const Cells& shape, const Image& pixel) {
    Element* const gathered = reinterpret_cast<Element*>(dynamic_shared());
    for (int place = threadIdx.x; place * 3 < shape.channels; place += blockDim.x) {
        const int y = place / shape.stride, x = place % shape.stride;
        const int row = blockIdx.x % shape.rows * shape.stride + y - shape.top;
        const bool row_inside = y < shape.stride && 0 <= row && row < shape.height;  // the last places only fill up
        for (int cell = threadIdx.y; cell < shape.columns; cell += blockDim.y) {
            const int column = cell * shape.stride + x - shape.left;
            const Pixel seen = row_inside && 0 <= column && column < shape.width ? pixel(row, column) : Pixel{};
#pragma unroll
            for (int c = 0; c < 3; c++)
                if (const int channel = place * 3 + c; channel < shape.channels)
                    store(gathered + cell * shape.channels + channel, seen.channel[c]);
        }
    }
    __syncthreads();

    const int chunks = shape.columns * shape.channels * sizeof(Element) / sizeof(Chunk);
    Chunk* const to = reinterpret_cast<Chunk*>(cells) + (long long)blockIdx.x * chunks;
    const Chunk* const from = reinterpret_cast<const Chunk*>(gathered);
    const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
    for (int i = thread; i < chunks; i += threads) to[i] = from[i];
}
