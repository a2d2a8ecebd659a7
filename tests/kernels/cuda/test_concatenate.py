import numpy as np
import pytest

from npconvnet.backend import to_host
from npconvnet.kernels.cpu import concatenate as definition
from npconvnet.kernels.cuda.concatenate import concatenate_backward, concatenate_forward
from npconvnet.kernels.cuda.relu import relu_forward
from npconvnet.layers import Concatenate
from tests.kernels.cuda.capturing import replayed

over_types = pytest.mark.parametrize("dtype", [np.float32, np.uint16])
over_channels = pytest.mark.parametrize("channels", [(5,), (1, 2), (8, 16, 24), (7, 8), (4, 12), (3, 0, 2)], ids=str)
over_sizes = pytest.mark.parametrize("size", [(2, 3, 5), (300,), (0, 2)], ids=str)


def draw(rng, dtype, *shapes):
    return [rng.integers(0, 2**16, shape).astype(dtype) for shape in shapes]


@over_types
@over_channels
@over_sizes
def test_it_gives_the_numbers_of_the_definition(xp, rng, dtype, channels, size):
    *xs, dy = draw(rng, dtype, *((*size, c) for c in channels), (*size, sum(channels)))
    y = concatenate_forward([xp.asarray(x) for x in xs])
    assert y.dtype == dtype
    np.testing.assert_array_equal(to_host(y), definition.concatenate_forward(xs))
    parts = concatenate_backward(xp.asarray(dy), channels)
    for part, expected in zip(parts, definition.concatenate_backward(dy, channels), strict=True):
        assert part.dtype == dtype
        assert part.flags.c_contiguous
        np.testing.assert_array_equal(to_host(part), expected)


@over_types
def test_arrays_that_begin_anywhere(xp, rng, dtype):
    """Not at a multiple of 16 bytes, or in strides."""
    (whole,) = draw(rng, dtype, 1 + 2 * 3 * 16)
    images = whole[1:].reshape(2, 3, 16)
    shifted = xp.asarray(whole)[1:].reshape(2, 3, 16)
    y = concatenate_forward([shifted, shifted[:, ::-1, :8]])
    np.testing.assert_array_equal(to_host(y), np.concatenate([images, images[:, ::-1, :8]], axis=-1))
    for dy, theirs in (shifted, images), (shifted[:, ::-1], images[:, ::-1]):
        first, second = concatenate_backward(dy, [8, 8])
        np.testing.assert_array_equal(to_host(first), theirs[..., :8])
        np.testing.assert_array_equal(to_host(second), theirs[..., 8:])


def test_a_captured_step_concatenates(xp, rng):
    """And computes with the parts of the derivative."""
    *xs, dy = draw(rng, np.float32, (2, 3, 3, 4), (2, 3, 3, 8), (2, 3, 3, 12))
    on_gpu, dy_on_gpu, layer = [xp.asarray(x) for x in xs], xp.asarray(dy - 30000), Concatenate()

    def step():
        y, saved = layer.forward(*on_gpu)
        dxs, _ = layer.backward(dy_on_gpu, saved)
        return y, *(relu_forward(dx) for dx in dxs)

    y, first, second = map(to_host, replayed(xp, step))
    np.testing.assert_array_equal(y, np.concatenate(xs, axis=-1))
    np.testing.assert_array_equal(np.concatenate([first, second], axis=-1), np.maximum(dy - 30000, 0))


def test_other_arrays_are_refused(cupy):
    x, words = cupy.zeros((2, 3), np.float32), cupy.zeros((2, 3), np.uint16)
    for xs in (
        [x, words],
        [words, x],
        [x, x[:1]],
        [x, cupy.zeros((2, 3), np.float64)],
        [x, np.zeros((2, 3), np.float32)],
    ):
        with pytest.raises(TypeError, match=r"concatenate_forward: xs\[1\] is"):
            concatenate_forward(xs)
    with pytest.raises(TypeError, match="concatenate_backward: dy is float32"):
        concatenate_backward(x, [1, 1])
