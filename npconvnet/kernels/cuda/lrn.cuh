// Local response normalisation, as in ../cpu/lrn.py: what its kernels share.
//     s[c] = k + alpha_per_element * sum of x[c']^2 over the window of c        y[c] = x[c] * s[c]^-beta
// The window is `size` channels around c, of which (size - 1) / 2 come before it. Nothing is written.

struct LRN {  // the fields of LRN in lrn.py
    float alpha_per_element, beta, k;
};

// s^-beta; for beta = 3/4 by two roots and two products, fewer instructions than a power takes. A square that overflows
// gives NaN there, not 0, so that a diverged network shows.
__device__ float to_minus_beta(float s, float beta) {
    if (beta != 0.75f) return powf(s, -beta);
    const float root = rsqrtf(s);
    return root * (root * rsqrtf(root));
}

// 1 / s, by the root that s^(-3/4) takes too.
__device__ float inverse(float s) {
    const float root = rsqrtf(s);
    return root * root;
}
