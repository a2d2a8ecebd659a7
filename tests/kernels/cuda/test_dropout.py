"""Dropout's CUDA kernels against their definition: the same bits, so one seed drops the same on either device."""

import numpy as np
import pytest

from npconvnet.backend import to_host, why_no_gpu
from npconvnet.kernels.cpu import dropout as definition
from npconvnet.kernels.cpu.bfloat16 import from_bfloat16, to_bfloat16
from npconvnet.kernels.cuda.dropout import draw_kept, dropout
from npconvnet.randomness import Chances, Purpose

#: Numbers of an image that are no multiple of four end in the midst of what a thread draws.
SHAPES = [(1, 1), (3, 2), (1, 3), (2, 4), (5, 7), (2, 3, 5, 11), (3, 341), (2, 1025), (6, 4096), (0, 5), (5, 0), (4,)]
#: The last one is so close to 1 that no word of 32 bits is kept.
RATES = [0.0, 0.3, 0.5, 2**-32, 1 - 2**-32, 1 - 2**-40]

over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def chances(count, epoch=5):
    """Of items whose upper half counts too, in a stream that is not the first."""
    items = np.random.default_rng(epoch).integers(0, 2**62, count)
    return Chances.of(items, 2**40, Purpose.DROPOUT, epoch).in_stream(2**32 - 3)


def on(xp, drawn):
    """The same chances as arrays on the device."""
    return Chances(xp.asarray(drawn.items), xp.asarray(drawn.key), drawn.stream)


def assert_same_bits(actual, expected):
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert actual.tobytes() == expected.tobytes()


@over_shapes
def test_what_is_kept_has_the_bits_of_the_definition(xp, shape):
    kept = draw_kept(xp.empty(shape, np.float32), chances(shape[0]), 0.4)
    assert_same_bits(to_host(kept), definition.draw_kept(np.empty(shape), chances(shape[0]), 0.4))


@pytest.mark.parametrize("rate", RATES)
def test_at_any_rate(xp, rate):
    kept = to_host(draw_kept(xp.empty((7, 1000), np.uint16), chances(7), rate))
    assert_same_bits(kept, definition.draw_kept(np.empty((7, 1000)), chances(7), rate))


def test_the_rate_is_exact(xp):
    """It decides between a word and its neighbours."""
    drawn, x = chances(1), np.empty((1, 4), np.float32)
    (word,) = (int(words[0]) for words in drawn.words(np.array([0]), np.array([0]))[:1])
    kept = [to_host(draw_kept(xp.asarray(x), drawn, limit / 2**32))[0, 0] for limit in (word, word + 1)]
    assert kept == [True, False]


def test_chances_on_the_device_are_read_anew_each_time(xp):
    x, first, second = xp.empty((3, 50), np.float32), chances(3, epoch=0), chances(3, epoch=1)
    drawn = on(xp, first)
    for now in (first, second):
        drawn.items[...], drawn.key[...] = xp.asarray(now.items), xp.asarray(now.key)
        assert_same_bits(to_host(draw_kept(x, drawn, 0.5)), definition.draw_kept(np.empty((3, 50)), now, 0.5))


def test_chances_on_the_device_have_parts_and_streams(xp):
    drawn = on(xp, chances(5))[1:4].in_stream(8)
    expected = definition.draw_kept(np.empty((3, 9)), chances(5)[1:4].in_stream(8), 0.5)
    assert_same_bits(to_host(draw_kept(xp.empty((3, 9), np.float32), drawn, 0.5)), expected)


@pytest.mark.parametrize("count", [1, 4])
def test_every_image_needs_its_chances(xp, count):
    with pytest.raises(ValueError, match=f"there are 3 images, and chances of {count}"):
        draw_kept(xp.empty((3, 5), np.float32), chances(count), 0.5)


def test_chances_of_other_types_are_refused(xp):
    x, drawn = xp.empty((3, 5), np.float32), chances(3)
    with pytest.raises(TypeError, match="items"):
        draw_kept(x, Chances(drawn.items.astype(np.int32), drawn.key), 0.5)
    with pytest.raises(TypeError, match="key"):
        draw_kept(x, Chances(drawn.items, drawn.key.astype(np.uint64)), 0.5)


# ---- what becomes of what is kept ------------------------------------------------------------------------------------


def numbers(rng, shape):
    """Some of them inf and NaN."""
    x = rng.standard_normal(shape, np.float32)
    x[rng.random(shape) < 0.05] = np.inf
    x[rng.random(shape) < 0.05] = np.nan
    return x


@over_shapes
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5])
def test_the_result_has_the_bits_of_the_definition(xp, rng, shape, rate):
    x, kept = numbers(rng, shape), rng.random(shape) < 0.5
    y = to_host(dropout(xp.asarray(x), xp.asarray(kept), rate))
    expected = definition.dropout(x, kept, rate)
    np.testing.assert_array_equal(y, expected)
    assert y.dtype == np.float32
    assert not y[~kept].view(np.uint32).any()  # 0, and not -0


@over_shapes
def test_words_are_scaled_in_float32_and_rounded(xp, rng, shape):
    words, kept = to_bfloat16(numbers(rng, shape)), rng.random(shape) < 0.5
    y = to_host(dropout(xp.asarray(words), xp.asarray(kept), 0.3))
    assert_same_bits(y, to_bfloat16(definition.dropout(from_bfloat16(words), kept, 0.3)))


def test_arrays_that_are_not_contiguous(xp, rng):
    x, kept = numbers(rng, (8, 12)), rng.random((12, 8)) < 0.5
    y = dropout(xp.asarray(x)[:, ::-1], xp.asarray(kept).T, 0.5)
    np.testing.assert_array_equal(to_host(y), definition.dropout(x[:, ::-1].copy(), kept.T.copy(), 0.5))


@pytest.mark.parametrize(
    ("dtype", "kept_dtype", "kept_shape"),
    [("f8", "?", (3, 5)), ("i2", "?", (3, 5)), ("f4", "u1", (3, 5)), ("f4", "?", (5, 3)), ("f4", "?", (15,))],
)
def test_other_arrays_are_refused(xp, dtype, kept_dtype, kept_shape):
    with pytest.raises(TypeError, match="dropout"):
        dropout(xp.zeros((3, 5), dtype), xp.zeros(kept_shape, kept_dtype), 0.5)


@pytest.mark.gpu
def test_more_numbers_than_an_int_counts():
    if reason := why_no_gpu():
        pytest.skip(reason)
    xp = pytest.importorskip("cupy")
    if xp.cuda.runtime.memGetInfo()[0] < 12 * 2**30:
        pytest.skip("needs 12 GiB of free memory on the GPU")
    shape, first = (3, 2**30 + 4), 2**30
    drawn = chances(3)
    kept = draw_kept(xp.broadcast_to(xp.zeros((), np.uint16), shape), drawn, 0.5)
    words = drawn.words(np.arange(3), np.full(3, first // 4))
    np.testing.assert_array_equal(to_host(kept[:, first:]), np.stack(words, axis=1) >= 2**31)
    x = xp.full(shape, 0x3F80, np.uint16)  # ones
    y = dropout(x, kept, 0.5)
    np.testing.assert_array_equal(to_host(y[2, -1000:]), np.where(to_host(kept[2, -1000:]), 0x4000, 0))
