// A ReLU and the three ways back through it, as in ../cpu/relu.py: one line each, in which a DeconvNet and guided
// backpropagation part from the gradient. All else that they do on their way back is the same.
//     y = max(x, 0)            dx = dy where the line of the rule holds, 0 elsewhere
// dy is selected, never multiplied by a mask: infinity times 0 would be NaN. Nothing is written.

__device__ bool passes_gradient(float, float y) { return y > 0; }             // the sign of the input decides
__device__ bool passes_deconvnet(float dy, float) { return dy > 0; }          // the sign of the reconstruction decides
__device__ bool passes_guided(float dy, float y) { return y > 0 && dy > 0; }  // both decide

enum ReLURule { GRADIENT, DECONVNET, GUIDED };  // in the order of relu.py

// y is what the forward returned.
__device__ float relu_backward(float dy, float y, int rule) {
    const bool passes = rule == GRADIENT    ? passes_gradient(dy, y)
                        : rule == DECONVNET ? passes_deconvnet(dy, y)
                                            : passes_guided(dy, y);
    return passes ? dy : 0;
}

__device__ float relu(float x) {
    return x < 0 ? 0 : x;  // NaN is not less than anything, and stays
}
