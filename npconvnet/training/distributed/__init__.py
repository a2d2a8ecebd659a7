"""Many processes that train one network: MPI starts and connects them, and sums on CPUs; NCCL sums on GPUs."""
