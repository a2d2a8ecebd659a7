// What the emulator has of the CUDA driver: maps of tensors, with the checks that cuda.h says the driver makes.
#include <algorithm>
#include <cstring>

#include "../sm_90/tensor_map.h"

namespace {

using cuda_on_cpu::TensorDescription;

// Of cuda.h's enumerations. What is not supported here is right for a GPU.
enum Result { SUCCESS = 0, INVALID_VALUE = 1, NOT_SUPPORTED = 801 };
enum { UINT16 = 1, FLOAT16 = 6, BFLOAT16 = 9, TYPES = 16 };
enum { NO_INTERLEAVE = 0, INTERLEAVES = 3 };
enum { SWIZZLE_128_BYTES = 3, SWIZZLES = 7 };
enum { L2_PROMOTIONS = 4, ZEROS_OUTSIDE = 0, FILLS = 2 };
constexpr int ROW = 64;  // numbers of 16 bits

struct Kinds {
    int type, interleave, swizzle, l2_promotion, fill;

    bool are_valid() const {
        const auto is_one_of = [](int count, int kind) { return 0 <= kind && kind < count; };
        return is_one_of(TYPES, type) && is_one_of(INTERLEAVES, interleave) && is_one_of(SWIZZLES, swizzle) &&
               is_one_of(L2_PROMOTIONS, l2_promotion) && is_one_of(FILLS, fill);
    }
    bool are_supported() const {
        return (type == UINT16 || type == FLOAT16 || type == BFLOAT16) && interleave == NO_INTERLEAVE &&
               swizzle == SWIZZLE_128_BYTES && fill == ZEROS_OUTSIDE;
    }
};

// What both functions are given, but for the box.
struct Tensor {
    std::uint32_t rank;
    void* address;
    const std::uint64_t *size, *stride;
    const std::uint32_t* step;  // along each axis, from one number that is copied to the next; not along the first

    bool is_valid() const {
        if (!address || reinterpret_cast<std::uintptr_t>(address) % 16) return false;
        for (std::uint32_t i = 0; i < rank; i++)
            if (size[i] == 0 || size[i] > 1ull << 32 || step[i] == 0 || step[i] > 8) return false;
        for (std::uint32_t i = 0; i + 1 < rank; i++)
            if (stride[i] % 16 || stride[i] >= 1ull << 40) return false;
        return true;
    }
    bool has_steps() const { return std::any_of(step + 1, step + rank, [](std::uint32_t s) { return s != 1; }); }

    TensorDescription description(TensorDescription::Kind kind) const {
        TensorDescription made{};
        made.mark = TensorDescription::MARK, made.kind = kind, made.rank = rank;
        made.address = reinterpret_cast<std::uintptr_t>(address);
        std::copy_n(size, rank, made.size), std::copy_n(stride, rank - 1, made.stride);
        return made;
    }
};

bool is_place_of_map(const void* map) {
    return map && reinterpret_cast<std::uintptr_t>(map) % 64 == 0;
}

void write(void* map, const TensorDescription& description) {
    std::memset(map, 0, 128), std::memcpy(map, &description, sizeof description);
}

}  // namespace

extern "C" int cuTensorMapEncodeTiled(void* map, int type, std::uint32_t rank, void* address, const std::uint64_t* size,
                                      const std::uint64_t* stride, const std::uint32_t* box, const std::uint32_t* step,
                                      int interleave, int swizzle, int l2_promotion, int fill) {
    const Kinds kinds{type, interleave, swizzle, l2_promotion, fill};
    const Tensor tensor{rank, address, size, stride, step};
    if (!is_place_of_map(map) || !kinds.are_valid() || rank < 1 || rank > 5 || !tensor.is_valid()) return INVALID_VALUE;
    if (std::any_of(box, box + rank, [](std::uint32_t b) { return b == 0 || b > 256; })) return INVALID_VALUE;
    if (!kinds.are_supported() || tensor.has_steps()) return NOT_SUPPORTED;
    if (box[0] * 2 % 16 || box[0] > ROW) return INVALID_VALUE;
    if (box[0] != ROW) return NOT_SUPPORTED;
    TensorDescription made = tensor.description(TensorDescription::TILED);
    std::copy_n(box, rank, made.box);
    write(map, made);
    return SUCCESS;
}

extern "C" int cuTensorMapEncodeIm2col(void* map, int type, std::uint32_t rank, void* address,
                                       const std::uint64_t* size, const std::uint64_t* stride, const int* lower, const int* upper,
                                       std::uint32_t channels, std::uint32_t pixels, const std::uint32_t* step,
                                       int interleave, int swizzle, int l2_promotion, int fill) {
    const Kinds kinds{type, interleave, swizzle, l2_promotion, fill};
    const Tensor tensor{rank, address, size, stride, step};
    if (!is_place_of_map(map) || !kinds.are_valid() || rank < 3 || rank > 5 || !tensor.is_valid()) return INVALID_VALUE;
    if (channels == 0 || channels > 256 || pixels == 0 || pixels > 1024) return INVALID_VALUE;
    if (!kinds.are_supported() || tensor.has_steps() || rank != 4) return NOT_SUPPORTED;
    for (int i = 0; i < 2; i++) {
        const bool in_range = std::max(lower[i], upper[i]) <= 127 && std::min(lower[i], upper[i]) >= -128;
        if (!in_range || lower[i] >= static_cast<long long>(size[i + 1]) + upper[i]) return INVALID_VALUE;
    }
    if (channels * 2 % 16 || channels > ROW) return INVALID_VALUE;
    if (channels != ROW) return NOT_SUPPORTED;
    TensorDescription made = tensor.description(TensorDescription::IM2COL);
    made.pixels = pixels;
    std::copy_n(lower, 2, made.lower_corner), std::copy_n(upper, 2, made.upper_corner);
    write(map, made);
    return SUCCESS;
}
