// Concatenation of channels, as in ../cpu/concatenate.py: copies a part of y from x, or a part of dy to dx.
//     to[row, to_first + column] = from[row, from_first + column]
// The columns are counted in units: runs of 16 bytes, or single words or floats where a part has no whole runs.
// Every unit of the part is overwritten, by the one thread that copies it. Nothing else is written.
#include "bfloat16.cuh"
#include "elementwise.cuh"

struct Part {  // PART in concatenate.py
    long long columns, from_pitch, from_first, to_pitch, to_first;
};

template <class Unit>
__device__ void copy_units(const Unit* from, Unit* to, const Part& part, long long count) {
    const long long i = element();
    if (i >= count) return;
    const long long row = i / part.columns, column = i % part.columns;
    to[row * part.to_pitch + part.to_first + column] = from[row * part.from_pitch + part.from_first + column];
}

template <class Element>
__device__ void copy(const Element* from, Element* to, const Part& part, bool in_chunks, long long count) {
    if (in_chunks)
        copy_units(reinterpret_cast<const Chunk*>(from), reinterpret_cast<Chunk*>(to), part, count);
    else
        copy_units(from, to, part, count);
}

extern "C" __global__ void copy_words(const unsigned short* __restrict__ from, unsigned short* __restrict__ to,
                                      Part part, bool in_chunks, long long count) {
    copy(from, to, part, in_chunks, count);
}

extern "C" __global__ void copy_floats(const float* __restrict__ from, float* __restrict__ to, Part part,
                                       bool in_chunks, long long count) {
    copy(from, to, part, in_chunks, count);
}
