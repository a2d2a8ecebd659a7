"""The fast version against the definition: the same bits."""

import numpy as np
import pytest

from npconvnet.kernels.cpu import bfloat16, bfloat16_in_parts
from tests.kernels.test_bfloat16 import numbers, parts_of_all_kinds

over_counts = pytest.mark.parametrize("count", [0, 1, 5, 2**16, 2**16 + 1, 100_000])


@over_counts
def test_same_bits(rng, count):
    x = numbers(rng)[:count]
    expected = bfloat16.to_bfloat16(x)
    words = bfloat16_in_parts.to_bfloat16(x)
    np.testing.assert_array_equal(words, expected)
    assert words.dtype == np.uint16


def test_any_shape(rng):
    x = rng.standard_normal((3, 4, 5), np.float32).transpose(2, 0, 1)
    np.testing.assert_array_equal(bfloat16_in_parts.to_bfloat16(x), bfloat16.to_bfloat16(np.ascontiguousarray(x)))


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered in add")
@over_counts
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_same_sums(rng, rows, count):
    parts = parts_of_all_kinds(rng, rows, count)
    sums = bfloat16_in_parts.sum_of_words(parts)
    np.testing.assert_array_equal(sums, bfloat16.sum_of_words(parts))
    assert sums.dtype == np.uint16
