// From stored pictures to network input, as in ../cpu/augment.py: crop, reflect, add colour, normalise, erase.
//     x[n] = (reflect(crop(image[n])) + colour[n] - mean) / std,  then 0 inside the erased rectangle
// augment writes x; augment_cells, in the same pass, the cells of x that the first convolution covers, as in cells.cuh.
// Gathers: every element of the result is computed by one thread, and overwritten. Nothing else is written.
#include "cells.cuh"

struct View {  // the fields of VIEW in augment.py
    int top, left, reflect;
    float colour[3];
    int erased_top, erased_left, erased_bottom, erased_right;
};

// One picture as the network sees it.
struct Seen {
    const unsigned char* image;  // (height, width, 3)
    View view;
    const float* mean;  // (3,), or (crop, crop, 3)
    const float* std;   // (3,)
    int width, crop;
    bool mean_is_image;

    __device__ Pixel operator()(int row, int column) const {
        const bool erased = view.erased_top <= row && row < view.erased_bottom  //
                            && view.erased_left <= column && column < view.erased_right;
        if (erased) return {};
        const int stored = view.left + (view.reflect ? crop - 1 - column : column);
        const unsigned char* pixel = image + ((long long)(view.top + row) * width + stored) * 3;
        const float* mean_here = mean + (mean_is_image ? (row * crop + column) * 3 : 0);
        Pixel seen;
#pragma unroll
        for (int c = 0; c < 3; c++) seen.channel[c] = (pixel[c] + (view.colour[c] - mean_here[c])) / std[c];
        return seen;
    }
};

// A block computes one row of one crop, and a thread every blockDim.x-th pixel of it.
extern "C" __global__ void augment(const unsigned char* __restrict__ images,  // (N, height, width, 3)
                                   const View* __restrict__ views,            // (N,)
                                   const float* __restrict__ mean, const float* __restrict__ std,
                                   float* __restrict__ x,  // (N, crop, crop, 3)
                                   int height, int width, int crop, bool mean_is_image) {
    const int n = blockIdx.x / crop, row = blockIdx.x % crop;
    // A batch may have more bytes than an int can count.
    const Seen seen = {images + (long long)n * height * width * 3, views[n], mean, std, width, crop, mean_is_image};
    x += (long long)blockIdx.x * crop * 3;
    for (int column = threadIdx.x; column < crop; column += blockDim.x) {
        const Pixel pixel = seen(row, column);
#pragma unroll
        for (int c = 0; c < 3; c++) x[column * 3 + c] = pixel.channel[c];
    }
}

template <class Element>
__device__ void augment_cells(const unsigned char* images, const View* views, const float* mean, const float* std,
                              Element* cells, int height, int width, bool mean_is_image, const Cells& shape) {
    const int n = blockIdx.x / shape.rows, crop = shape.width;
    write_cells(cells, shape,
                Seen{images + (long long)n * height * width * 3, views[n], mean, std, width, crop, mean_is_image});
}

extern "C" __global__ void augment_cells_bfloat16(const unsigned char* __restrict__ images,
                                                  const View* __restrict__ views, const float* __restrict__ mean,
                                                  const float* __restrict__ std, unsigned short* __restrict__ cells,
                                                  int height, int width, bool mean_is_image, Cells shape) {
    augment_cells(images, views, mean, std, cells, height, width, mean_is_image, shape);
}

extern "C" __global__ void augment_cells_float32(const unsigned char* __restrict__ images,
                                                 const View* __restrict__ views, const float* __restrict__ mean,
                                                 const float* __restrict__ std, float* __restrict__ cells,
                                                 int height, int width, bool mean_is_image, Cells shape) {
    augment_cells(images, views, mean, std, cells, height, width, mean_is_image, shape);
}
