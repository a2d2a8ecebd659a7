"""The products of warpgroups against those of NumPy, and what the threads of a warpgroup have to do for them."""

import numpy as np
import pytest

from npconvnet.kernels.cpu.bfloat16 import from_bfloat16, to_bfloat16


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


def factors(rng, rows, columns, length):
    return (to_bfloat16(rng.normal(size=(size, length)).astype("f4")) for size in (rows, columns))


@pytest.mark.parametrize("a_lies", [False, True])
@pytest.mark.parametrize("b_lies", [False, True])
def test_products(warpgroup_product, rng, backwards, a_lies, b_lies):
    """With columns and lengths that are no multiple of a tile's: the copies bring zeros."""
    for rows, columns, length in (128, 296, 8), (256, 256, 64), (128, 24, 328):
        a, b = factors(rng, rows, columns, length)
        expected = from_bfloat16(a).astype(float) @ from_bfloat16(b).T
        found = warpgroup_product(a, b, a_lies, b_lies)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
