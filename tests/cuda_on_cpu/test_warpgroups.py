"""What the threads of a warpgroup have to do for a product.

Products themselves are compared with those of NumPy in tests/kernels/cuda/test_conv2d_wgmma.py, on a GPU too.
"""

import pytest


def test_a_warpgroup_has_128_threads(run_90):
    body = "float sum[128] = {}; wgmma_fence(sum); wgmma_m64n256k16<false, false>(sum, 0, 0);"
    for threads in 64, 96:
        with pytest.raises(RuntimeError, match="wgmma_fence takes 128 threads"):
            run_90("", body, block=(threads,), shared_bytes=1024)


@pytest.mark.parametrize(
    ("a", "message"),
    [
        ("0", "0 is no descriptor"),
        ("descriptor(dynamic_shared(), 1, 1024) | 1ull << 63", "is no descriptor of a tile whose rows have 128 bytes"),
        ("descriptor(dynamic_shared(), 1, 1024) | 1ull << 49", "is no descriptor"),
        ("descriptor(dynamic_shared() + 25 * 1024, 1, 1024)", "not in dynamic shared memory"),
        ("descriptor(dynamic_shared(), 1, 1024) + threadIdx.x / 64 * 2", "warps of a warpgroup bring different"),
        ("descriptor(dynamic_shared(), 1, 1024) + threadIdx.x % 2 * 2", "threads of a warp bring different"),
        ("descriptor(&sum, 1, 1024)", "not in dynamic shared memory"),
    ],
)
def test_what_is_wrong_with_descriptors(run_90, a, message):
    body = f"""
        float sum[128] = {{}};
        wgmma_fence(sum);
        wgmma_m64n256k16<false, false>(sum, {a}, descriptor(dynamic_shared(), 1, 1024));
        wgmma_commit();
        wgmma_wait<0>(sum);
    """
    with pytest.raises(RuntimeError, match=message):
        run_90("", body, block=(128,), shared_bytes=32 << 10)
