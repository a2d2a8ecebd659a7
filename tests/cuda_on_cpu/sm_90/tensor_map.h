// What the stand-in for the driver writes into the 128 bytes of a tensor's map, and the emulated copies read there.
#pragma once
#include <cstdint>

namespace cuda_on_cpu {

// Of 16-bit numbers, in a box of 64 along the first axis, the innermost: the order is that of the driver's arguments.
struct TensorDescription {
    static constexpr std::uint32_t MARK = 0x7E4502;
    enum Kind : std::uint8_t { TILED, IM2COL };

    std::uint32_t mark;
    Kind kind;
    std::uint8_t rank;
    std::uint16_t box[5];                      // TILED
    std::uint16_t pixels;                      // IM2COL, as are the corners: (w, h)
    std::int16_t lower_corner[2], upper_corner[2];
    std::uint64_t address, size[5], stride[4];  // numbers along each axis; bytes along all but the first
};
static_assert(sizeof(TensorDescription) <= 128);

}  // namespace cuda_on_cpu
