// Boxes of tensors on their way to shared memory (tensor_copies.h).
#include "tensor_copies.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "tensor_map.h"
#include "tiles.h"

namespace cuda_on_cpu {
namespace {

using Word = unsigned short;
constexpr int ROW = 64, ROW_BYTES = ROW * sizeof(Word), CHUNK_BYTES = 16;
constexpr int TILE_ALIGNMENT = 1024;  // after so many bytes, rows change places as the first ones do

struct Copy {
    Barrier* barrier;
    long long first, count;         // of a row's numbers; and how many the tensor has in one
    unsigned to = 0;                // a tile's address
    std::vector<const Word*> from;  // the tensor's numbers for each row, none outside of it

    Copy(Barrier* barrier, int first, const TensorDescription& tensor)
        : barrier(barrier), first(first), count(tensor.size[0]) {}
    int bytes() const { return from.size() * ROW_BYTES; }
};

std::vector<Copy> on_their_way;

TensorDescription read(const TensorMap& map, const char* file, int line) {
    if (reinterpret_cast<std::uintptr_t>(&map) % alignof(TensorMap))
        fail("tma_load (%s:%d): a tensor's map is not at a multiple of %zu", file, line, alignof(TensorMap));
    TensorDescription description;
    std::memcpy(&description, &map, sizeof description);
    if (description.mark != TensorDescription::MARK)
        fail("tma_load (%s:%d): the driver has not made this map", file, line);
    return description;
}

TensorDescription read(const TensorMap& map, TensorDescription::Kind kind, int rank, const char* file, int line) {
    const TensorDescription description = read(map, file, line);
    if (description.kind != kind || description.rank != rank)
        fail("tma_load (%s:%d): the map is for another instruction: it has %d axes, %s", file, line, description.rank,
             description.kind == TensorDescription::TILED ? "tiled" : "im2col");
    return description;
}

// The numbers along the first axis at these places along the others; none where that is outside.
const Word* row_at(const TensorDescription& tensor, const long long* index) {
    std::uint64_t address = tensor.address;
    for (int axis = 1; axis < tensor.rank; axis++) {
        const long long i = index[axis - 1];
        if (i < 0 || i >= static_cast<long long>(tensor.size[axis])) return nullptr;
        address += i * tensor.stride[axis - 1];
    }
    return reinterpret_cast<const Word*>(address);
}

void begin(Copy copy, void* shared, const char* file, int line) {
    require_barrier_for_copy(copy.barrier, file, line);
    copy.to = tile_address("tma_load", shared, copy.bytes());
    if (copy.to % TILE_ALIGNMENT)
        fail("tma_load (%s:%d): a tile begins at byte %u of dynamic shared memory, no multiple of %d", file, line,
             copy.to, TILE_ALIGNMENT);
    for (const Copy& other : on_their_way)
        if (copy.to < other.to + other.bytes() && other.to < copy.to + copy.bytes())
            fail("tma_load (%s:%d): another copy is on its way to the same bytes", file, line);
    std::memset(shared, 0xFF, copy.bytes());
    on_their_way.push_back(std::move(copy));
}

void arrive(const Copy& copy) {
    const int begin = std::clamp<long long>(-copy.first, 0, ROW);
    const int end = std::clamp<long long>(copy.count - copy.first, 0, ROW);
    for (std::size_t i = 0; i < copy.from.size(); i++) {
        Word row[ROW] = {};
        if (copy.from[i] && begin < end)
            std::memcpy(row + begin, copy.from[i] + copy.first + begin, (end - begin) * sizeof(Word));
        for (int byte = 0; byte < ROW_BYTES; byte += CHUNK_BYTES) {
            const unsigned address = swizzled(copy.to + i * ROW_BYTES + byte);
            std::memcpy(at_tile_address("tma_load", address, CHUNK_BYTES), row + byte / sizeof(Word), CHUNK_BYTES);
        }
    }
}

}  // namespace

void begin_tensor_copies() {
    on_their_way.clear();
}

// One, the first or the last that was begun: whoever waits for another too has to wait on.
bool a_tensor_copy_arrives() {
    for (std::size_t i = 0; i < on_their_way.size(); i++) {
        const auto found = is_backwards() ? on_their_way.end() - 1 - i : on_their_way.begin() + i;
        if (!is_awaited(found->barrier)) continue;
        const Copy copy = std::move(*found);
        on_their_way.erase(found);
        arrive(copy);
        bytes_are_copied(copy.barrier, copy.bytes());
        return true;
    }
    return false;
}

void require_that_all_have_arrived() {
    if (!on_their_way.empty())
        fail("block (%u, %u, %u) ends before %zu copies to its shared memory have arrived", blockIdx.x, blockIdx.y,
             blockIdx.z, on_their_way.size());
}

}  // namespace cuda_on_cpu

using namespace cuda_on_cpu;

void tma_prefetch(const TensorMap& map, const char* file, int line) {
    read(map, file, line);
}

void tma_load(void* shared, const TensorMap& map, Barrier* barrier, int c, int row, const char* file, int line) {
    const TensorDescription tensor = read(map, TensorDescription::TILED, 2, file, line);
    Copy copy(barrier, c, tensor);
    for (long long i = row; i < row + tensor.box[1]; i++) copy.from.push_back(row_at(tensor, &i));
    begin(std::move(copy), shared, file, line);
}

void tma_load(void* shared, const TensorMap& map, Barrier* barrier, int c, int i, int j, const char* file, int line) {
    const TensorDescription tensor = read(map, TensorDescription::TILED, 3, file, line);
    Copy copy(barrier, c, tensor);
    for (int b = 0; b < tensor.box[2]; b++)
        for (int a = 0; a < tensor.box[1]; a++) {
            const long long index[] = {i + a, j + b};
            copy.from.push_back(row_at(tensor, index));
        }
    begin(std::move(copy), shared, file, line);
}

// From (w, h, n) on, through the bounding box of this and the next images. Which pixel that is, the offsets say then.
void tma_load_im2col(void* shared, const TensorMap& map, Barrier* barrier, int c, int w, int h, int n,
                     unsigned short s, unsigned short r, const char* file, int line) {
    const TensorDescription tensor = read(map, TensorDescription::IM2COL, 4, file, line);
    const int left = tensor.lower_corner[0], right = tensor.size[1] + tensor.upper_corner[0];
    const int top = tensor.lower_corner[1], bottom = tensor.size[2] + tensor.upper_corner[1];
    if (w < left || w >= right || h < top || h >= bottom)
        fail("tma_load_im2col (%s:%d): (w, h) = (%d, %d) is not in the bounding box (%d, %d) to (%d, %d)", file, line,
             w, h, left, top, right - 1, bottom - 1);
    if (s > 255 || r > 255) fail("tma_load_im2col (%s:%d): the offsets (%d, %d) are beyond 255", file, line, s, r);
    Copy copy(barrier, c, tensor);
    for (int pixel = 0; pixel < tensor.pixels; pixel++) {
        const long long index[] = {w + s, h + r, n};
        copy.from.push_back(row_at(tensor, index));
        if (++w < right) continue;
        w = left;
        if (++h < bottom) continue;
        h = top, n++;
    }
    begin(std::move(copy), shared, file, line);
}
