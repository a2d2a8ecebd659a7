// Images and filters in cells, as in ../cpu/space_to_depth.py, and the adjoint: images of cells.
//     cells[n, i, j, (y * stride + x) * 3 + c] = image[n, i * stride + y - top, j * stride + x - left, c], or else 0
//     images[n, h, w, c] = the number in the cells that the pixel went to, or else 0: where no window reached it
// Gathers: every element of the result is computed by one thread, and overwritten. Nothing else is written.
#include "cells.cuh"

template <class Element>
__device__ void to_cells(const float* images, Element* cells, const Cells& shape) {
    const float* image = images + (long long)(blockIdx.x / shape.rows) * shape.height * shape.width * 3;
    write_cells(cells, shape, [&](int row, int column) {
        const float* pixel = image + ((long long)row * shape.width + column) * 3;
        return Pixel{pixel[0], pixel[1], pixel[2]};
    });
}

extern "C" __global__ void to_cells_bfloat16(const float* __restrict__ images, unsigned short* __restrict__ cells,
                                             Cells shape) {
    to_cells(images, cells, shape);
}

extern "C" __global__ void to_cells_float32(const float* __restrict__ images, float* __restrict__ cells, Cells shape) {
    to_cells(images, cells, shape);
}

// A block writes one row of an image: neighbouring threads write, and mostly read, neighbouring numbers.
template <class Element>
__device__ void from_cells(const Element* cells, float* images, const Cells& shape) {
    const int n = blockIdx.x / shape.height, row = blockIdx.x % shape.height + shape.top;  // with the padding
    const int cell_numbers = 3 * shape.stride, y = row % shape.stride;
    cells += ((long long)n * shape.rows + row / shape.stride) * shape.columns * shape.channels + y * cell_numbers;
    images += (long long)blockIdx.x * shape.width * 3;

    for (int i = threadIdx.x; i < shape.width * 3; i += blockDim.x) {
        const int padded = i + shape.left * 3, cell = padded / cell_numbers;
        const bool covered = row / shape.stride < shape.rows && cell < shape.columns;
        images[i] = covered ? widened(cells[cell * shape.channels + padded % cell_numbers]) : 0;
    }
}

extern "C" __global__ void from_cells_bfloat16(const unsigned short* __restrict__ cells, float* __restrict__ images,
                                               Cells shape) {
    from_cells(cells, images, shape);
}

extern "C" __global__ void from_cells_float32(const float* __restrict__ cells, float* __restrict__ images,
                                              Cells shape) {
    from_cells(cells, images, shape);
}
