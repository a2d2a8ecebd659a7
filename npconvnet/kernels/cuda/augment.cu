// From stored pictures to network input, as in ../cpu/augment.py: crop, reflect, add colour, normalise, erase.
//     x[n] = (reflect(crop(image[n])) + colour[n] - mean) / std,  then 0 inside the erased rectangle
// Gathers: every element of x is overwritten, by the one thread that computes it. Nothing else is written.

struct View {  // the fields of VIEW in augment.py
    int top, left, reflect;
    float colour[3];
    int erased_top, erased_left, erased_bottom, erased_right;
};

// A block computes one row of one crop, and a thread every blockDim.x-th number of it. Neighbouring threads write
// neighbouring floats, and read neighbouring bytes, in a reflected row too. blockDim.x is a multiple of 3: a thread
// stays with one channel.
extern "C" __global__ void augment(const unsigned char* __restrict__ images,  // (N, height, width, 3)
                                   const View* __restrict__ views,            // (N,)
                                   const float* __restrict__ mean,            // (3,), or (crop, crop, 3)
                                   const float* __restrict__ std,             // (3,)
                                   float* __restrict__ x,                     // (N, crop, crop, 3)
                                   int height, int width, int crop, bool mean_is_image) {
    const int n = blockIdx.x / crop, row = blockIdx.x % crop;
    const View view = views[n];
    const bool erased_row = view.erased_top <= row && row < view.erased_bottom;

    const int channel = threadIdx.x % 3;
    const float colour = views[n].colour[channel], deviation = std[channel];

    // A batch may have more bytes than an int can count.
    images += (((long long)n * height + view.top + row) * width + view.left) * 3;
    x += (long long)blockIdx.x * crop * 3;
    mean += mean_is_image ? row * crop * 3 : 0;

    for (int i = threadIdx.x; i < crop * 3; i += blockDim.x) {
        const int column = i / 3, seen = view.reflect ? crop - 1 - column : column;
        const bool erased = erased_row && view.erased_left <= column && column < view.erased_right;
        const float pixel = images[seen * 3 + channel];
        x[i] = erased ? 0 : (pixel + (colour - mean[mean_is_image ? i : channel])) / deviation;
    }
}
