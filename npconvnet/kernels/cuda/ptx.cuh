// The instructions of sm_80 to sm_90a that CUDA C++ has no words for, by the names that PTX gives them (PTX ISA, 9.7).
//     shared = global[valid],  fragment = shared,  sum = a b + sum,  word = rounded(x)
// Each overwrites its first argument or returns its result. The emulator of the tests has its own of the same names.

#ifdef __CUDACC__

__device__ inline unsigned shared_address(const void* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// The block's dynamic shared memory.
__device__ inline unsigned char* dynamic_shared() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) unsigned char memory[];
#else
    extern __shared__ __align__(128) unsigned char memory[];
#endif
    return memory;
}

// Begins to copy 16 bytes, past the registers and past the L1 cache; zeros where not valid: global is not read then.
__device__ inline void cp_async(void* shared, const void* global, bool valid) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

// What this thread has begun to copy since the last commit is one group; a group may be empty.
__device__ inline void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until all groups of this thread but the last N have arrived. Other threads see them after a __syncthreads().
template <int N>
__device__ inline void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Four matrices of 8 rows of 16 bytes: thread t of the warp points to row t % 8 of matrix t / 8, and gets from every
// matrix i, in fragment[i], the t % 4-th 4 bytes of row t / 4.
__device__ inline void ldmatrix_x4(unsigned (&fragment)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same of the transposed matrices of 8 x 8 words.
__device__ inline void ldmatrix_x4_trans(unsigned (&fragment)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// sum (16 x 8, float32) += a (16 x 16) b (16 x 8), bfloat16, by the 32 threads of a warp. With g = t / 4 and i = t % 4,
// thread t holds of sum: (g, 2i) (g, 2i + 1) (g + 8, 2i) (g + 8, 2i + 1); of a, two words each: (g, 2i) (g + 8, 2i)
// (g, 2i + 8) (g + 8, 2i + 8); of b, two words each, one below the other: (2i, g) (2i + 8, g).
__device__ inline void mma_m16n8k16(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// sum (16 x 8, float32) += a (16 x 8) b (8 x 8), TF32. Thread t holds sum as above; of a: (g, i) (g + 8, i) (g, i + 4)
// (g + 8, i + 4); of b: (i, g) (i + 4, g).
__device__ inline void mma_m16n8k8_tf32(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The bits of x with 10 of the 23 bits of its fraction, rounded to nearest, ties away from zero.
__device__ inline unsigned to_tf32(float x) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
}

// Two words, rounded to nearest, ties to even; a NaN stays one. low is the one at the lower address.
__device__ inline unsigned pack_bfloat16(float low, float high) {
    unsigned words;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(words) : "f"(high), "f"(low));
    return words;
}

// ---- Copies of boxes of a tensor by the hardware, and barriers, for sm_90

// What the driver makes of an array and of the box that is copied at once. A kernel takes it by value, as a
// `const __grid_constant__ TensorMap`.
struct alignas(64) TensorMap {
    unsigned long long words[16];
};

// In shared memory. A phase ends when so many threads have arrived, and all bytes that were expected have been copied.
using Barrier = unsigned long long;

__device__ inline void barrier_init(Barrier* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// By the thread that has begun barriers, before the __syncthreads() after which others and copies use them.
__device__ inline void fence_barrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void barrier_arrive(Barrier* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives, and has this phase wait for so many bytes more.
__device__ inline void barrier_expect(Barrier* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}

// Waits until the phase of this parity has ended: that of the first phase is 0, and a new barrier is past parity 1.
__device__ inline void barrier_wait(Barrier* barrier, int parity) {
    asm volatile(
        "{\n"
        ".reg .pred ended;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n"
        "@!ended bra again;\n"
        "}" ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
}

// Begins to fetch a map, for copies that would wait for it.
__device__ inline void tma_prefetch(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// Begins to copy the box whose first element is {c, row}; what of it is outside the tensor is zeros, and counts as
// copied. The 16-byte chunks of each 128 bytes change places: bits 4 to 6 of an address are XORed with bits 7 to 9. So
// `shared` has to be a multiple of 1024.
__device__ inline void tma_load(void* shared, const TensorMap& map, Barrier* barrier, int c, int row) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
        ::"r"(shared_address(shared)), "l"(&map), "r"(shared_address(barrier)), "r"(c), "r"(row)
        : "memory");
}

// The same of three axes.
__device__ inline void tma_load(void* shared, const TensorMap& map, Barrier* barrier, int c, int i, int j) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
        "[%2];" ::"r"(shared_address(shared)),
        "l"(&map), "r"(shared_address(barrier)), "r"(c), "r"(i), "r"(j)
        : "memory");
}

// The same of as many pixels of images (N, H, W, C) as the map says, from channel c on. They follow one another as the
// outputs of a convolution do: from (w, h, n) on through the rows of the map's bounding box, and through those of the
// next images. Of each, the pixel s to the right and r below is copied. Both are 255 at most.
__device__ inline void tma_load_im2col(void* shared, const TensorMap& map, Barrier* barrier, int c, int w, int h, int n,
                                       unsigned short s, unsigned short r) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], "
        "[%1, {%3, %4, %5, %6}], [%2], {%7, %8};" ::"r"(shared_address(shared)),
        "l"(&map), "r"(shared_address(barrier)), "r"(c), "r"(w), "r"(h), "r"(n), "h"(s), "h"(r)
        : "memory");
}

// ---- Products of a warpgroup of 128 threads, for sm_90a

// A tile in shared memory, as wgmma takes it: rows of 128 bytes, whose chunks have changed places as above.
// An upright tile has 64 numbers of the reduction in a row; groups of 8 rows are `stride_bytes` apart, and
// `leading_bytes` says nothing. A lying one has 64 rows (or columns) of the product in each row; steps of 8 of the
// reduction are `stride_bytes` apart, and every 64 rows of the product `leading_bytes`.
__device__ inline unsigned long long descriptor(const void* tile, int leading_bytes, int stride_bytes) {
    constexpr unsigned long long SWIZZLE_128_BYTES = 1ull << 62;
    return SWIZZLE_128_BYTES | static_cast<unsigned long long>(stride_bytes >> 4) << 32 |
           static_cast<unsigned long long>(leading_bytes >> 4) << 16 | (shared_address(tile) & 0x3FFFF) >> 4;
}

// Keeps what other instructions do with sums on its side of this place: the compiler does not know what a wait is for.
template <int SIZE>
__device__ inline void pin(float (&sum)[SIZE]) {
#pragma unroll
    for (int i = 0; i < SIZE; i++) asm volatile("" : "+f"(sum[i])::"memory");
}

// Before products that follow anything else, or a wait. Names the sums that other instructions have used: not those
// that products under way are added to, or the compiler makes one product after the other.
template <int... SIZES>
__device__ inline void wgmma_fence(float (&... sums)[SIZES]) {
    (pin(sums), ...);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// What this warpgroup has begun to multiply since the last commit is one group.
__device__ inline void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until all groups but the last N are done, whose tiles may be overwritten then. Names the sums that other
// instructions may use now: those that none of the N is added to.
template <int N, int... SIZES>
__device__ inline void wgmma_wait(float (&... sums)[SIZES]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
    (pin(sums), ...);
}

#define SUMS_8(i)                                                                                                  \
    "+f"(sum[i]), "+f"(sum[i + 1]), "+f"(sum[i + 2]), "+f"(sum[i + 3]), "+f"(sum[i + 4]), "+f"(sum[i + 5]),        \
        "+f"(sum[i + 6]), "+f"(sum[i + 7])
#define SUMS_32(i) SUMS_8(i), SUMS_8(i + 8), SUMS_8(i + 16), SUMS_8(i + 24)

// sum (64 x 256, float32) += a (64 x 16) b (16 x 256), bfloat16, from the tiles of two descriptors. With w = t / 32,
// g = t % 32 / 4 and i = t % 4, thread t of the warpgroup holds in sum[4 j] to sum[4 j + 3]:
// (16 w + g, 8 j + 2 i) (16 w + g, 8 j + 2 i + 1) (16 w + g + 8, 8 j + 2 i) (16 w + g + 8, 8 j + 2 i + 1).
template <bool A_LYING, bool B_LYING>
__device__ inline void wgmma_m64n256k16(float (&sum)[128], unsigned long long a, unsigned long long b) {
    // Behind the tiles: whether the sums are added to (they are), two signs, and whether a and b lie.
    asm volatile(
        "{\n"
        ".reg .pred add;\n"
        "setp.eq.b32 add, 0, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
        "}, %128, %129, add, 1, 1, %130, %131;\n"
        "}"
        : SUMS_32(0), SUMS_32(32), SUMS_32(64), SUMS_32(96)
        : "l"(a), "l"(b), "n"(int(A_LYING)), "n"(int(B_LYING)));
}

#undef SUMS_8
#undef SUMS_32

#endif
