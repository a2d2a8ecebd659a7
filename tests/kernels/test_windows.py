import numpy as np
from hypothesis import given

from npconvnet.kernels.cpu.windows import offsets, pad_images, unpad_images
from npconvnet.kernels.shapes import place_windows
from tests.conftest import assert_adjoint, distinct
from tests.kernels.geometry import geometries

PADDING = (1, 2, 0, 3)


def test_padding_by_hand():
    x = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    padded = pad_images(x, (1, 0, 0, 2), value=9)
    assert padded[0, :, :, 0].tolist() == [[9, 9, 9, 9], [1, 2, 9, 9], [3, 4, 9, 9]]
    assert unpad_images(padded, (1, 0, 0, 2)).tolist() == x.tolist()


def test_without_padding_nothing_is_copied(rng, dtype):
    x = distinct(rng, (2, 3, 4, 2), dtype)
    assert pad_images(x, (0, 0, 0, 0)) is x
    assert np.shares_memory(unpad_images(x, (0, 0, 0, 0)), x)
    assert pad_images(x, PADDING).dtype == dtype


def test_unpad_is_the_adjoint_of_pad(rng):
    x = distinct(rng, (2, 3, 4, 2))
    padded = pad_images(x, PADDING)
    y = distinct(rng, padded.shape)
    assert_adjoint(x, padded, y, unpad_images(y, PADDING))


@given(geometries())
def test_every_window_sees_its_pixels(geometry):
    windows = place_windows(geometry.size, geometry.window, geometry.stride, geometry.padding, geometry.rounding)
    x = distinct(np.random.default_rng(0), (2, *geometry.size, 3))
    padded = pad_images(x, windows.padding_and_overhang)
    scanned = []
    for r, s, index in offsets(geometry.window, windows.outputs, geometry.stride):
        scanned.append((r, s))
        for p, q in np.ndindex(windows.outputs):
            seen = padded[:, p * geometry.stride + r, q * geometry.stride + s]
            np.testing.assert_array_equal(padded[index][:, p, q], seen)
    assert scanned == list(np.ndindex(geometry.window))
