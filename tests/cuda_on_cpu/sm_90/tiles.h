// Tiles of shared memory, as the hardware of sm_90 sees them: dynamic shared memory begins at the address 0.
#pragma once
#include "../shared_memory.h"
#include "../threads.h"

namespace cuda_on_cpu {

inline unsigned tile_address(const char* instruction, const void* tile, std::size_t bytes) {
    if (tile < dynamic_shared() || !is_in_shared_memory(tile, bytes))
        fail("%s: a tile is not in dynamic shared memory", instruction);
    return static_cast<const unsigned char*>(tile) - dynamic_shared();
}

inline unsigned char* at_tile_address(const char* instruction, unsigned address, std::size_t bytes) {
    unsigned char* const tile = dynamic_shared() + address;
    tile_address(instruction, tile, bytes);
    return tile;
}

// Where 16 bytes at `address` are in fact: those of a row of 128 change places with one another.
inline unsigned swizzled(unsigned address) {
    return address ^ (address >> 7 & 7) << 4;
}

}  // namespace cuda_on_cpu
