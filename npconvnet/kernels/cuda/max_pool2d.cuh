// Max pooling, as in ../cpu/max_pool2d.py: what its kernels share.
//     y[n, p, q, c] = max over r, s of x~[n, p*stride - top + r, q*stride - left + s, c]
// where x~ is x with minus infinity around it.
// The first of several maxima counts, and NaN is more than any number. Nothing is written.

struct MaxPooling {  // POOLING in max_pool2d.py
    int H, W, C, P, Q, R, S, stride, top, left;
};

// The largest value so far, and where it is. Starts below all numbers; where they are all minus infinity, at 0.
struct Maximum {
    float value = __uint_as_float(0xFF800000);
    int offset = 0;
};

__device__ void consider(Maximum& best, float value, int offset) {
    if (!(value <= best.value) && best.value == best.value) best.value = value, best.offset = offset;
}
