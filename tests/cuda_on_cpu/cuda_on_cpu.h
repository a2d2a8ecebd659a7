// CUDA's words for g++: runs a kernel whose threads do not wait for one another, one thread after the other.
#pragma once
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <utility>

#define __global__
#define __device__ inline

struct dim3 {
    unsigned x, y, z;
};
static dim3 threadIdx, blockIdx, blockDim, gridDim;

// The same bits as a number of another type.
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    return std::memcpy(&bits, &x, sizeof bits), bits;
}
inline float __uint_as_float(unsigned bits) {
    float x;
    return std::memcpy(&x, &bits, sizeof x), x;
}

namespace cuda_on_cpu {

// What a parameter holds, as NumPy writes it, kind and bytes: "f4"; and "in:f4" or "out:f4" for a pointer to such.
template <class P>
void describe(char*& end) {
    using T = std::remove_pointer_t<P>;
    const char* pointer = !std::is_pointer_v<P> ? "" : std::is_const_v<T> ? "in:" : "out:";
    const char kind = std::is_same_v<std::remove_cv_t<T>, bool> ? 'b'
                      : std::is_floating_point_v<T>             ? 'f'
                      : std::is_class_v<T>                      ? 'V'
                      : std::is_unsigned_v<T>                   ? 'u'
                                                                : 'i';
    end += std::sprintf(end, "%s%c%d ", pointer, kind, int(sizeof(T)));
}

template <class... P>
const char* parameters(void (*)(P...)) {
    static char text[16 * sizeof...(P) + 1];
    char* end = text;
    (describe<P>(end), ...);
    return text;
}

inline dim3 place(unsigned number, dim3 size) {
    return {number % size.x, number / size.x % size.y, number / size.x / size.y};
}

// Every thread of every block, the last one first if `backwards`; `arguments` point to the values of the parameters.
template <class... P, std::size_t... I>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, void** arguments, bool backwards, std::index_sequence<I...>) {
    gridDim = grid, blockDim = block;
    const unsigned blocks = grid.x * grid.y * grid.z, threads = block.x * block.y * block.z;
    for (unsigned b = 0; b < blocks; b++) {
        blockIdx = place(backwards ? blocks - 1 - b : b, grid);
        for (unsigned t = 0; t < threads; t++) {
            threadIdx = place(backwards ? threads - 1 - t : t, block);
            kernel(*static_cast<P*>(arguments[I])...);
        }
    }
}

template <class... P>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, void** arguments, bool backwards) {
    launch(kernel, grid, block, arguments, backwards, std::index_sequence_for<P...>{});
}

}  // namespace cuda_on_cpu

// What emulator.py calls; a line with this macro stands below the source of the kernel.
#define RUN_ON_CPU(kernel)                                                                                        \
    extern "C" const char* parameters() { return cuda_on_cpu::parameters(kernel); }                               \
    extern "C" void launch(const unsigned* grid, const unsigned* block, void** arguments, bool backwards) {       \
        cuda_on_cpu::launch(kernel, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, arguments, backwards); \
    }
