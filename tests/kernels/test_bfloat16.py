"""bfloat16 against PyTorch's, and against its definition."""

import numpy as np
import pytest

from npconvnet.kernels import from_bfloat16, sum_of_words, to_bfloat16

CORNERS = np.array([0, 1, 0x7F7F, 0x7F80, 0x7FC0, 0x8000, 0xFF80, 0x3F80, 0x0001, 0x007F], np.uint32) << 16


def numbers(rng):
    """Numbers of all sizes, and around every corner: just below, at and above ties."""
    near = np.concatenate([CORNERS + offset for offset in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    return np.concatenate([near, rng.integers(0, 2**32, 100_000, np.uint64)]).astype(np.uint32).view(np.float32)


def parts_of_all_kinds(rng, rows, columns):
    """Words to be added up: any at all, such that float32 rounds their sums, and −0."""
    any_at_all = rng.integers(2**16, size=(rows, columns), dtype=np.uint16)
    sizes = rng.integers(-14, 14, (rows, columns)).astype(np.float32)
    alike = to_bfloat16(rng.standard_normal((rows, columns), np.float32) * np.exp2(sizes))
    alike[-1] = alike[0] ^ 0x8000  # takes the first away again, so that what the others lost beside it is missing
    negative_zeros = np.full((rows, columns), 0x8000, np.uint16)
    return np.choose(rng.integers(3, size=columns), [any_at_all, alike, negative_zeros])


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


def test_exact_sums_are_rounded_to_the_nearest(rng):
    parts = rng.integers(-255, 256, (9, 10_000)).astype(np.float32)
    np.testing.assert_array_equal(sum_of_words(to_bfloat16(parts)), to_bfloat16(parts.sum(axis=0)))


SUMS = {
    "rounded once": ([1, 2**-8, 2**-8], 1 + 2**-7),  # twice, it would be 1
    "in float32": ([1, 2**-24, 2**-24, 2**-8], 1),  # in float64, above the tie
    "from the first row": ([2**24, 1, -(2**24)], 0),
    "to the last": ([2**24, -(2**24), 1], 1),
    "of two zeros": ([-0.0, 0.0], 0.0),
    "of negative zeros": ([-0.0, -0.0], -0.0),
    "of one": ([-0.0], -0.0),
    "of subnormals": ([2**-130, 2**-130], 2**-129),
    "too large": ([2**127, 2**127], np.inf),
    "of infinities": ([np.inf, -np.inf], np.nan),
}


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered in add")
@pytest.mark.parametrize(("column", "expected"), SUMS.values(), ids=SUMS)
def test_sums(column, expected):
    words = to_bfloat16(np.array(column, np.float32))[:, None]
    assert sum_of_words(words) == to_bfloat16(np.array([expected], np.float32))
