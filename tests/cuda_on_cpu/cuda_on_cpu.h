// CUDA for g++: emulator.py compiles a kernel behind this header, and links it with what is in the .cpp files beside it.
#pragma once
#include <cstdio>
#include <type_traits>
#include <utility>

#include "shared_memory.h"
#include "threads.h"
#include "warps.h"
#include "words.h"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#include "sm_90/tensor_copies.h"
#include "sm_90/warpgroups.h"
#endif

namespace cuda_on_cpu {

// What a parameter holds, as NumPy writes it, kind and bytes: "f4"; and "in:f4" or "out:f4" for a pointer to such.
template <class P>
void describe(char*& end) {
    using T = std::remove_pointer_t<P>;
    const char* pointer = !std::is_pointer_v<P> ? "" : std::is_const_v<T> ? "in:" : "out:";
    const char kind = std::is_same_v<std::remove_cv_t<T>, bool>       ? 'b'
                      : std::is_floating_point_v<T>                   ? 'f'
                      : std::is_class_v<T>                            ? 'V'
                      : std::is_unsigned_v<T> || std::is_pointer_v<T> ? 'u'
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

template <class... P, std::size_t... I>
void call(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<P*>(arguments[I])...);
}

template <class... P>
void call(void (*kernel)(P...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<P...>{});
}

}  // namespace cuda_on_cpu

// A line with this macro stands below the source of the kernel.
#define RUN_ON_CPU(kernel)                                                          \
    extern "C" [[gnu::visibility("default")]] const char* parameters() {            \
        return cuda_on_cpu::parameters(kernel);                                     \
    }                                                                               \
    void cuda_on_cpu::call(void** arguments) { cuda_on_cpu::call(kernel, arguments); }
