// One thread for each element of the result: which one this thread's is.
//     i = the number of the thread in the whole launch
// The last block may have threads left over, so a kernel returns where i is not below the number of elements.

__device__ long long element() {
    return (long long)blockIdx.x * blockDim.x + threadIdx.x;
}
