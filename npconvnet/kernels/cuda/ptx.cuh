// The instructions of sm_80 and later that CUDA C++ has no words for, by the names that PTX gives them (PTX ISA, 9.7).
//     shared = global[valid],  fragment = shared,  sum = a b + sum,  word = rounded(x)
// Each overwrites its first argument or returns its result. The emulator of the tests has its own of the same names.

#ifdef __CUDACC__

__device__ inline unsigned shared_address(const void* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// The block's dynamic shared memory.
__device__ inline unsigned char* dynamic_shared() {
    extern __shared__ __align__(128) unsigned char memory[];
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

#endif
