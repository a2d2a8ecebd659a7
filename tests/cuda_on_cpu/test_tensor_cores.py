"""The instructions for tensor cores against products of NumPy, fragment by fragment as the PTX manual has them."""

import numpy as np
import pytest

from npconvnet.kernels.cpu.bfloat16 import from_bfloat16, to_bfloat16

LANES = np.arange(32)
ROW, PAIR = LANES // 4, LANES % 4  # "groupID" and "threadID_in_group" of the manual


@pytest.fixture
def product(cupy, run):
    """a (32, 4) times b (32, 2), added to c (32, 4), by the instruction `name`; all in fragments of 32 lanes."""

    def product(name, a, b, c):
        sums = cupy.asarray(c)
        body = f"""
            const int lane = threadIdx.x;
            float sum[4];
            unsigned x[4], y[2];
            for (int i = 0; i < 4; i++) sum[i] = sums[lane * 4 + i], x[i] = a[lane * 4 + i];
            for (int i = 0; i < 2; i++) y[i] = b[lane * 2 + i];
            {name}(sum, x, y);
            for (int i = 0; i < 4; i++) sums[lane * 4 + i] = sum[i];
        """
        parameters = "const unsigned* a, const unsigned* b, float* sums"
        run(parameters, body, cupy.asarray(a), cupy.asarray(b), sums, block=(32,))
        return sums.get()

    return product


def sums_in_lanes(c):
    """(32, 4) of a matrix (16, 8)."""
    return np.stack([c[ROW + 8 * (i // 2), 2 * PAIR + i % 2] for i in range(4)], axis=1)


def pairs(low, high):
    return low.astype(np.uint32) | high.astype(np.uint32) << 16


def test_bfloat16(product, rng, backwards):
    a, b = to_bfloat16(rng.normal(size=(16, 16)).astype("f4")), to_bfloat16(rng.normal(size=(16, 8)).astype("f4"))
    c = rng.normal(size=(16, 8)).astype("f4")
    columns = 2 * PAIR
    a_lanes = [
        pairs(a[ROW, columns], a[ROW, columns + 1]),
        pairs(a[ROW + 8, columns], a[ROW + 8, columns + 1]),
        pairs(a[ROW, columns + 8], a[ROW, columns + 9]),
        pairs(a[ROW + 8, columns + 8], a[ROW + 8, columns + 9]),
    ]
    b_lanes = [pairs(b[columns, ROW], b[columns + 1, ROW]), pairs(b[columns + 8, ROW], b[columns + 9, ROW])]
    result = product("mma_m16n8k16", np.stack(a_lanes, 1), np.stack(b_lanes, 1), sums_in_lanes(c))
    expected = c + from_bfloat16(a).astype(float) @ from_bfloat16(b)
    np.testing.assert_allclose(result, sums_in_lanes(expected), rtol=1e-5, atol=1e-5)


def test_tf32(product, rng, backwards):
    """The 13 lowest bits are not looked at: the factors are cut off, not rounded."""
    a, b, c = (rng.normal(size=shape).astype("f4") for shape in [(16, 8), (8, 8), (16, 8)])
    a_lanes = np.stack([a[ROW, PAIR], a[ROW + 8, PAIR], a[ROW, PAIR + 4], a[ROW + 8, PAIR + 4]], 1)
    b_lanes = np.stack([b[PAIR, ROW], b[PAIR + 4, ROW]], 1)
    result = product("mma_m16n8k8_tf32", a_lanes.view(np.uint32), b_lanes.view(np.uint32), sums_in_lanes(c))
    a, b = ((x.view(np.uint32) & ~np.uint32(0x1FFF)).view("f4") for x in (a, b))
    np.testing.assert_allclose(result, sums_in_lanes(c + a.astype(float) @ b), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mma_m16n8k16", "mma_m16n8k8_tf32"])
def test_sums_are_added_to_and_nan_comes_through(product, name):
    nothing = np.zeros((32, 4), np.uint32)
    c = np.arange(128, dtype="f4").reshape(32, 4)
    np.testing.assert_array_equal(product(name, nothing, nothing[:, :2], c), c)
    poison = np.full((32, 4), 0xFFFFFFFF, np.uint32)
    assert np.isnan(product(name, poison, nothing[:, :2], c)).all()


@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(cupy, run, backwards, transposed):
    """Four matrices whose rows lie in no order: lane l points to row l % 8 of matrix l / 8."""
    rows = np.random.default_rng(0).permutation(32).astype(np.int32)
    x = np.arange(256, dtype=np.uint16).reshape(32, 8)
    out = cupy.zeros((32, 4), np.uint32)
    body = f"""
        unsigned short* shared = (unsigned short*)dynamic_shared();
        for (int i = 0; i < 8; i++) shared[threadIdx.x * 8 + i] = x[threadIdx.x * 8 + i];
        __syncwarp();
        unsigned fragment[4];
        ldmatrix_x4{"_trans" if transposed else ""}(fragment, shared + rows[threadIdx.x] * 8);
        for (int i = 0; i < 4; i++) out[threadIdx.x * 4 + i] = fragment[i];
    """
    parameters = "const unsigned short* x, const int* rows, unsigned* out"
    run(parameters, body, cupy.asarray(x), cupy.asarray(rows), out, block=(32,), shared_bytes=512)
    matrices = x[rows].reshape(4, 8, 8)
    if transposed:
        matrices = matrices.transpose(0, 2, 1)
    expected = pairs(matrices[:, ROW, 2 * PAIR], matrices[:, ROW, 2 * PAIR + 1]).T
    np.testing.assert_array_equal(out.get(), expected)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("dynamic_shared() + 8", "not a multiple of 16"),
        ("dynamic_shared() + 512", "not in shared memory"),
        ("x", "not in shared memory"),
    ],
)
def test_what_ldmatrix_refuses(cupy, run, row, message):
    x = cupy.zeros(128, np.uint16)
    with pytest.raises(RuntimeError, match=message):
        run("const unsigned short* x", f"unsigned f[4]; ldmatrix_x4(f, {row});", x, block=(32,), shared_bytes=512)


@pytest.mark.parametrize("call", ["ldmatrix_x4(a, dynamic_shared())", "mma_m16n8k16(c, a, b)"])
def test_they_take_whole_warps(run, call):
    body = f"float c[4] = {{}}; unsigned a[4] = {{}}, b[2] = {{}}; {call};"
    with pytest.raises(RuntimeError, match="all 32 threads of a warp"):
        run("", body, block=(31,), shared_bytes=16)
    with pytest.raises(RuntimeError, match="32 threads"):
        run("", f"if (threadIdx.x < 8) {{ {body} }}", block=(32,), shared_bytes=16)


def rounded(cupy, run, expression, x):
    bits = cupy.zeros(len(x), np.uint32)
    run("const float* x, unsigned* y", f"y[threadIdx.x] = {expression};", cupy.asarray(x), bits, block=(len(x),))
    return bits.get()


def test_to_tf32_rounds_to_nearest_and_halves_away_from_zero(cupy, run, rng):
    step = np.float32(2**-10)
    x = np.array([1, 1 + step / 2, 1 + step * 1.5, -1 - step / 2, 1 + step * 0.49, 1 + step * 0.51, 0, -0.0], "f4")
    expected = np.array([1, 1 + step, 1 + 2 * step, -1 - step, 1, 1 + step, 0, -0.0], "f4")
    assert rounded(cupy, run, "to_tf32(x[threadIdx.x])", x).tolist() == expected.view(np.uint32).tolist()
    many = rng.normal(size=1000).astype("f4")
    bits = rounded(cupy, run, "to_tf32(x[threadIdx.x])", many)
    assert not (bits & 0x1FFF).any()
    assert (np.abs(bits.view("f4") / many - 1) <= 2**-11).all()
    special = np.array([np.inf, -np.inf, np.nan], "f4")
    np.testing.assert_array_equal(rounded(cupy, run, "to_tf32(x[threadIdx.x])", special).view("f4"), special)


def test_pack_bfloat16(cupy, run, rng):
    x = np.concatenate([rng.normal(size=500), [1 + 2**-8, 1 + 3 * 2**-8, np.inf, -np.inf, 3.4e38, 0, -0.0]]).astype(
        "f4"
    )
    bits = rounded(cupy, run, "pack_bfloat16(x[threadIdx.x], -x[threadIdx.x])", x)
    np.testing.assert_array_equal(bits & 0xFFFF, to_bfloat16(x))
    np.testing.assert_array_equal(bits >> 16, to_bfloat16(-x))
    nan = rounded(cupy, run, "pack_bfloat16(x[threadIdx.x], 1)", np.array([np.nan], "f4"))
    assert np.isnan(from_bfloat16(np.array([nan[0] & 0xFFFF], np.uint16))).all()
