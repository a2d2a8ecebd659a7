"""bfloat16 against PyTorch's, and against its definition."""

import numpy as np
import pytest

from npconvnet.kernels import from_bfloat16, to_bfloat16

CORNERS = np.array([0, 1, 0x7F7F, 0x7F80, 0x7FC0, 0x8000, 0xFF80, 0x3F80, 0x0001, 0x007F], np.uint32) << 16


def numbers(rng):
    """Numbers of all sizes, and around every corner: just below, at and above ties."""
    near = np.concatenate([CORNERS + offset for offset in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    return np.concatenate([near, rng.integers(0, 2**32, 100_000, np.uint64)]).astype(np.uint32).view(np.float32)


def test_like_torch(rng):
    torch = pytest.importorskip("torch")
    x = numbers(rng)
    expected = torch.from_numpy(x).to(torch.bfloat16)
    there = to_bfloat16(x)
    known = ~np.isnan(x)
    np.testing.assert_array_equal(there[known], expected.view(torch.int16).numpy().view(np.uint16)[known])
    np.testing.assert_array_equal(from_bfloat16(there), expected.float().numpy())


def test_every_word_comes_back():
    words = np.arange(2**16, dtype=np.uint16)
    back = to_bfloat16(from_bfloat16(words))
    is_nan = (words & 0x7FFF) > 0x7F80
    np.testing.assert_array_equal(back[~is_nan], words[~is_nan])
    assert np.isnan(from_bfloat16(back[is_nan])).all()


def test_rounds_to_the_nearest(rng):
    x = rng.standard_normal(10_000, np.float32)
    assert (abs(from_bfloat16(to_bfloat16(x)) - x) <= abs(x) * 2**-8).all()
