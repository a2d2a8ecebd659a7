"""Against the definitions one after the other, in float64: LRN and max pool, and back through them and the ReLU."""

from dataclasses import astuple, dataclass

import numpy as np
import pytest

from npconvnet.backend import to_host
from npconvnet.kernels.cpu import lrn as lrn_definition
from npconvnet.kernels.cpu import max_pool2d as pool_definition
from npconvnet.kernels.cpu.bfloat16 import from_bfloat16, to_bfloat16
from npconvnet.kernels.cpu.bias import bias_backward
from npconvnet.kernels.cpu.relu import relu_backward
from npconvnet.kernels.cpu.windows import offsets, pad_images
from npconvnet.kernels.cuda import lrn_max_pool2d as launchers
from npconvnet.kernels.cuda.lrn_max_pool2d import LRNConstants
from npconvnet.kernels.shapes import Pooling
from tests.kernels.cuda.agreement import assert_agrees

WORDS, FLOAT32 = np.uint16, np.float32
#: Of the results, as tests/kernels/cuda/agreement.py has it.
ERROR = {WORDS: 1e-2, FLOAT32: 1e-5}
RULES = ["gradient", "deconvnet", "guided"]
PAPER_POOL = Pooling((3, 3), 2, rounding="ceil")


@dataclass
class Case:
    """alpha is large, so that a mistake in its term shows."""

    dtype: type
    lrn: LRNConstants | None
    pool: Pooling | None
    shapes: list[tuple[int, int, int, int]]


CASES = {
    "paper, words": Case(WORDS, LRNConstants(5, 0.5, 0.75, 2), PAPER_POOL, [(2, 17, 10, 64), (1, 8, 7, 72)]),
    "paper, float32": Case(FLOAT32, LRNConstants(5, 0.5, 0.75, 2), PAPER_POOL, [(3, 6, 19, 8), (2, 5, 4, 24)]),
    "one channel": Case(WORDS, LRNConstants(3, 1.0, 1.0, 1), PAPER_POOL, [(2, 9, 8, 1), (1, 9, 8, 13)]),
    "overlap by 2": Case(FLOAT32, LRNConstants(7, 0.3, 0.5, 1), Pooling((3, 3), 1, (1, 1, 1, 1)), [(2, 9, 6, 8)]),
    "asymmetric": Case(
        FLOAT32, LRNConstants(4, 0.7, 0.75, 1), Pooling((3, 2), 2, (0, 2, 1, 1), "ceil"), [(3, 6, 7, 5)]
    ),
    "gaps between": Case(WORDS, LRNConstants(1, 0.3, 0.75, 1), Pooling((2, 2), 3), [(2, 9, 8, 16), (1, 4, 13, 8)]),
    "pool, words": Case(WORDS, None, Pooling((3, 3), 2, (1, 0, 1, 0), "ceil"), [(2, 13, 9, 64), (1, 5, 5, 520)]),
    "pool, float32": Case(FLOAT32, None, Pooling((5, 4), 2, (1, 2, 0, 3)), [(2, 7, 9, 5), (1, 20, 6, 3)]),
    "lrn, words": Case(WORDS, LRNConstants(2, 0.5, 0.75, 2), None, [(2, 3, 5, 72), (1, 1, 1, 8)]),
    "lrn, float32": Case(FLOAT32, LRNConstants(6, 0.5, 0.75, 2), None, [(2, 3, 5, 5), (1, 2, 2, 601)]),
}
over_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
over_types = pytest.mark.parametrize("dtype", [WORDS, FLOAT32], ids=["words", "float32"])


def forward(*args):
    return launchers.lrn_max_pool2d_forward(*args)


def backward(*args, **kwargs):
    return launchers.lrn_max_pool2d_backward(*args, **kwargs)


def backward_from_pooled(*args):
    return launchers.relu_max_pool2d_backward(*args)


def narrow(x, dtype):
    return to_bfloat16(x.astype(np.float32)) if dtype == WORDS else x.astype(np.float32)


def wide(x):
    return (from_bfloat16(x) if x.dtype == WORDS else x).astype(np.float64)


def numbers(rng, shape, dtype):
    return narrow(2 * rng.standard_normal(shape, np.float32), dtype)


def where(pool):
    return pool.window, pool.stride, pool.padding, pool.rounding


def normalised(x, lrn):
    return lrn_definition.lrn_forward(x, *astuple(lrn))[0] if lrn else x


def forward_by_definition(x, lrn, pool):
    y = normalised(x, lrn)
    return pool_definition.max_pool2d_forward(y, *where(pool)) if pool else (y, None)


def backward_by_definition(dy, x, switches, lrn, pool, rule):
    dz = pool_definition.max_pool2d_backward(dy, switches, x.shape, *where(pool)) if pool else dy
    if lrn:
        _, s = lrn_definition.lrn_forward(x, *astuple(lrn))
        dz = lrn_definition.lrn_backward(dz, x, s, lrn.size, lrn.alpha_per_element, lrn.beta)
    if rule:
        dz = relu_backward(dz, x, rule)
    return dz


def assert_dtype_and_agrees(result, expected, dtype):
    result = to_host(result)
    assert result.dtype == dtype
    assert_agrees(wide(result).astype(np.float32), expected, ERROR[dtype])


def assert_is_sum(db, dz):
    """Within what float32 loses where numbers of either sign nearly cancel."""
    db, numbers = to_host(db), dz.reshape(-1, dz.shape[-1])
    assert (db.dtype, db.shape) == (np.float32, numbers.shape[1:])
    assert np.linalg.norm(db - bias_backward(numbers)) <= 2e-6 * np.linalg.norm(np.abs(numbers).sum(axis=0))


def assert_pooled_alike(switches, x, lrn, pool):
    """The same switches wherever the maximum is clear of what rounding does to it."""
    y, expected = forward_by_definition(x, lrn, pool)
    windows = pool.place(x.shape[1:3])
    padded = pad_images(normalised(x, lrn), windows.padding_and_overhang, -np.inf)
    nearly = sum(padded[index] > y - 1e-5 * y for _, _, index in offsets(pool.window, windows.outputs, pool.stride))
    clear = (nearly == 1) | (y == 0) | (lrn is None)
    assert clear.mean() > 0.9
    assert to_host(switches).dtype == np.uint8
    np.testing.assert_array_equal(to_host(switches)[clear], expected[clear])


@over_cases
def test_forward(xp, rng, case):
    for shape in case.shapes:
        x = np.maximum(wide(numbers(rng, shape, case.dtype)), 0)
        y, switches = forward(xp.asarray(narrow(x, case.dtype)), case.lrn, case.pool)
        assert_dtype_and_agrees(y, forward_by_definition(x, case.lrn, case.pool)[0], case.dtype)
        if case.pool:
            assert_pooled_alike(switches, x, case.lrn, case.pool)
        else:
            assert switches is None


@over_cases
def test_backward(xp, rng, case):
    for shape in case.shapes:
        x = np.maximum(wide(numbers(rng, shape, case.dtype)), 0)
        y, switches = forward_by_definition(x, case.lrn, case.pool)
        check_backward(xp, rng, numbers(rng, y.shape, case.dtype), narrow(x, case.dtype), switches, case.lrn, case.pool)


def check_backward(xp, rng, dy, x, switches, lrn, pool, rules=(*RULES, None)):
    on_device = [None if array is None else xp.asarray(array) for array in (dy, x, switches)]
    for rule in rules:
        dz, db = backward(*on_device, lrn, pool, rule)
        expected = backward_by_definition(wide(dy), wide(x), switches, lrn, pool, rule)
        assert_dtype_and_agrees(dz, expected, x.dtype.type)
        assert_is_sum(db, expected)


@over_types
@pytest.mark.parametrize("shape", [(3, 4, 5, 16), (3, 4, 5, 5), (70, 7), (9, 2056), (1, 3, 1, 300)], ids=str)
def test_the_relu_alone(xp, rng, dtype, shape):
    dy, x = numbers(rng, shape, dtype), numbers(rng, shape, dtype)
    check_backward(xp, rng, dy, x, None, None, None)


@over_types
def test_without_anything_the_derivative_is_returned_with_its_sum(xp, rng, dtype):
    dy = numbers(rng, (5, 3, 24), dtype)
    given = xp.asarray(dy)
    dz, db = backward(given, None, None, None, None, None)
    assert dz is given
    np.testing.assert_array_equal(to_host(dz), dy)
    assert_is_sum(db, wide(dy))


@over_types
@pytest.mark.parametrize(("shape", "pool"), [((2, 9, 8, 16), PAPER_POOL), ((3, 6, 7, 5), Pooling((2, 2), 2))], ids=str)
def test_where_only_the_pooled_image_was_kept(xp, rng, dtype, shape, pool):
    x = np.maximum(wide(numbers(rng, shape, dtype)), 0)
    y, switches = forward_by_definition(x, None, pool)
    dy = numbers(rng, y.shape, dtype)
    on_device = [xp.asarray(array) for array in (dy, narrow(y, dtype), switches)]
    for rule in RULES:
        dz, db = backward_from_pooled(*on_device, shape, pool, rule)
        expected = backward_by_definition(wide(dy), x, switches, None, pool, rule)
        assert_dtype_and_agrees(dz, expected, dtype)
        assert_is_sum(db, expected)


# ---- corners, on what is compiled by now -----------------------------------------------------------------------------

PAPER = CASES["paper, words"]


def paper_arrays(rng, shape=(2, 17, 10, 64)):
    """dy and x, in words, and switches."""
    x = np.maximum(wide(numbers(rng, shape, WORDS)), 0)
    y, switches = forward_by_definition(x, PAPER.lrn, PAPER.pool)
    return numbers(rng, y.shape, WORDS), narrow(x, WORDS), switches


def test_the_sign_of_what_arrives_at_the_relu_decides(xp):
    """The LRN turns it round: dy is positive, and so are all x, but dx of x = 1 is not, since it dims x = 9."""
    lrn = LRNConstants(6, 0.01, 0.75, 2)
    x, dy = np.full((1, 1, 1, 9), 1.0), np.zeros((1, 1, 1, 9))
    x[..., 3], dy[..., 3] = 9, 1
    dx = backward_by_definition(dy, x, None, lrn, None, None)
    assert (dx[..., 3] > 0).all()
    assert (dx[..., 2] < 0).all()
    case = [xp.asarray(narrow(array, FLOAT32)) for array in (dy, x)]
    for rule in RULES:
        dz, _ = backward(*case, None, lrn, None, rule)
        np.testing.assert_array_equal(to_host(dz) != 0, dx > 0 if rule != "gradient" else dx != 0)


def test_few_blocks_that_do_a_lot(xp, rng, monkeypatch):
    monkeypatch.setattr(launchers, "PARTIAL_SUMS", 2)
    dy, x, switches = paper_arrays(rng)
    check_backward(xp, rng, dy, x, switches, PAPER.lrn, PAPER.pool, RULES[:1])


def test_many_partial_sums(xp, rng):
    dy = rng.standard_normal((9000, 33), np.float32)
    _, db = backward(xp.asarray(dy), None, None, None, None, None)
    assert_is_sum(db, dy.astype(np.float64))


def test_the_same_bits_again(xp, rng):
    arrays = [xp.asarray(array) for array in paper_arrays(rng)]
    first, again = ([*forward(arrays[1], PAPER.lrn, PAPER.pool)] for _ in range(2))
    first += backward(*arrays, PAPER.lrn, PAPER.pool)
    again += backward(*arrays, PAPER.lrn, PAPER.pool)
    assert [to_host(a).tobytes() for a in first] == [to_host(a).tobytes() for a in again]


def test_db_into_an_array_that_is_there_or_not_at_all(xp, rng):
    arrays = [xp.asarray(array) for array in paper_arrays(rng)]
    dz, db = backward(*arrays, PAPER.lrn, PAPER.pool)
    whole = xp.zeros((3, 64), np.float32)
    _, returned = backward(*arrays, PAPER.lrn, PAPER.pool, out=(out := whole[1]))
    assert returned is out
    np.testing.assert_array_equal(to_host(whole)[1], to_host(db))
    assert not to_host(whole)[::2].any()
    same, nothing = backward(*arrays, PAPER.lrn, PAPER.pool, bias_gradient=False)
    assert nothing is None
    np.testing.assert_array_equal(to_host(same), to_host(dz))


def test_no_images(xp):
    y, switches = forward(xp.zeros((0, 17, 10, 64), WORDS), PAPER.lrn, PAPER.pool)
    assert y.shape == switches.shape == (0, 8, 5, 64)
    x = xp.zeros((0, 17, 10, 64), WORDS)
    for result in (
        backward(y, x, switches, PAPER.lrn, PAPER.pool),
        backward_from_pooled(y, y, switches, x.shape, PAPER.pool),
        backward(x, x, None, None, None),
    ):
        assert result[0].shape == (0, 17, 10, 64)
        assert to_host(result[1]).tolist() == [0] * 64


def test_nan_is_the_maximum_and_stays_with_its_pixel(xp, rng):
    dy, x, _ = paper_arrays(rng, (1, 8, 7, 64))
    x[0, 4, 2, 9] = 0x7FC0
    y, switches = (to_host(a) for a in forward(xp.asarray(x), PAPER.lrn, PAPER.pool))
    with_nan = np.isnan(normalised(wide(x), PAPER.lrn))
    assert with_nan.sum() == 5  # its neighbours have it in their windows
    pooled, expected = forward_by_definition(wide(x), PAPER.lrn, PAPER.pool)
    np.testing.assert_array_equal(np.isnan(wide(y)), np.isnan(pooled))
    np.testing.assert_array_equal(switches[np.isnan(pooled)], expected[np.isnan(pooled)])

    dz, _ = backward(xp.asarray(dy), xp.asarray(x), xp.asarray(expected), PAPER.lrn, PAPER.pool, None)
    assert np.isnan(wide(to_host(dz)))[0, 4, 2, 9]
    assert not np.isnan(wide(to_host(dz)))[~with_nan.any(axis=-1)].any()


def test_a_diverged_derivative_stays_where_the_switch_points(xp):
    x, switches = np.ones((1, 3, 3, 8), np.float32), np.full((1, 1, 1, 8), 2, np.uint8)
    dy = np.full((1, 1, 1, 8), np.inf, np.float32)
    arrays = [xp.asarray(array) for array in (dy, x, switches)]
    dz, _ = backward(*arrays, None, PAPER_POOL)
    assert to_host(dz)[..., 0].ravel().tolist() == [0, 0, np.inf, 0, 0, 0, 0, 0, 0]


def test_arrays_that_begin_anywhere(xp, rng):
    """8 channels, but not at a multiple of 16 bytes: one by one, with the same bits."""
    x = np.maximum(rng.standard_normal((2, 6, 7, 8), np.float32), 0)
    line = xp.asarray(np.concatenate([np.zeros(1, np.float32), x.ravel()]))
    moved = line[1:].reshape(x.shape)
    assert moved.data.ptr % 16
    for a, b in zip(*(forward(a, None, PAPER_POOL) for a in (moved, xp.asarray(x))), strict=True):
        np.testing.assert_array_equal(to_host(a), to_host(b))


def test_what_would_read_beside_its_arrays_is_refused(cupy):
    x, y, switches = (
        cupy.zeros((1, 5, 5, 8), WORDS),
        cupy.zeros((1, 2, 2, 8), WORDS),
        cupy.zeros((1, 2, 2, 8), np.uint8),
    )
    with pytest.raises(TypeError, match=r"lrn_max_pool2d_forward: x is float64 \(1, 5, 5, 8\)"):
        forward(cupy.zeros((1, 5, 5, 8), np.float64), None, PAPER_POOL)
    with pytest.raises(ValueError, match="nothing to compute"):
        forward(x, None, None)
    with pytest.raises(ValueError, match="more of them than a switch"):
        forward(cupy.zeros((1, 17, 17, 1), WORDS), None, Pooling((16, 17), 1))
    with pytest.raises(TypeError, match=r"x is uint16 .*has to be float32"):
        backward(cupy.zeros((1, 2, 2, 8), np.float32), x, switches, None, PAPER_POOL)
    with pytest.raises(TypeError, match=r"dy is .*has to be uint16 \(1, 2, 2, 8\)"):
        backward(x, x, switches, None, PAPER_POOL)
    with pytest.raises(TypeError, match="switches is None"):
        backward(y, x, None, None, PAPER_POOL)
    with pytest.raises(TypeError, match="switches is uint16"):
        backward(y, x, y, None, PAPER_POOL)
    with pytest.raises(TypeError, match="x is None"):
        backward(y, None, None, None, None)
    with pytest.raises(TypeError, match="out is float32"):
        backward(y, y, None, None, None, out=cupy.zeros(7, np.float32))
    with pytest.raises(TypeError, match="contiguous"):
        backward(y, y, None, None, None, out=cupy.zeros((8, 2), np.float32)[:, 0])
    with pytest.raises(ValueError, match="no ReLU rule 'leaky'"):
        backward(y, y, None, None, None, "leaky")
    with pytest.raises(TypeError, match="y is float32"):
        backward_from_pooled(y, cupy.zeros((1, 2, 2, 8), np.float32), switches, x.shape, PAPER_POOL)
