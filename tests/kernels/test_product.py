import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npconvnet.kernels.cpu.product import product
from tests.conftest import assert_close, distinct


@st.composite
def stacks(draw):
    """a (..., M, L) and b (..., L, N), each as it is or turned in memory, and how many multiplications are few."""
    stack = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    m, length, n = (draw(st.integers(1, 70)) for _ in range(3))
    rng = np.random.default_rng(0)
    a, b = (
        distinct(rng, (*stack, *reversed(shape))).swapaxes(-1, -2)
        if draw(st.booleans())
        else distinct(rng, (*stack, *shape))
        for shape in ((m, length), (length, n))
    )
    return a, b, draw(st.sampled_from([1, 10**4, 10**5, 10**6]))


@given(stacks())
def test_like_matmul_however_small_the_pieces_are(operands):
    a, b, small = operands
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("npconvnet.kernels.cpu.product.SMALL", small)
        assert_close(product(a, b), a @ b)
        out = np.full((*a.shape[:-1], b.shape[-1]), np.nan)
        assert product(a, b, out) is out
        assert_close(out, a @ b)


@pytest.mark.parametrize(("m", "length", "n"), [(12769, 27, 64), (36, 36, 3136), (845, 512, 1000), (3, 5, 2)])
def test_with_pieces_as_they_come(rng, m, length, n, dtype):
    a, b = distinct(rng, (m, length), dtype), distinct(rng, (length, n), dtype)
    assert_close(product(a, b), (a.astype(np.float64) @ b.astype(np.float64)).astype(dtype))


def test_the_result_has_the_precision_of_both(rng):
    a, b = rng.standard_normal((3, 4), np.float32), rng.standard_normal((4, 5))
    assert product(a, b).dtype == np.float64


@pytest.mark.parametrize(
    "shapes", [((0, 3, 4), (0, 4, 2)), ((0, 4), (4, 2)), ((3, 0), (0, 5)), ((3, 4), (4, 0))], ids=str
)
def test_of_nothing(shapes):
    a, b = (np.ones(shape) for shape in shapes)
    np.testing.assert_array_equal(product(a, b), a @ b)
