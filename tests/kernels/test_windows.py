import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npconvnet.kernels.cpu import windows as kernel_windows
from npconvnet.kernels.cpu.windows import in_cache, offsets, pad_images, unpad_images
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


@given(st.integers(0, 20), st.integers(1, 6), st.integers(1, 70))
def test_parts_that_fit_into_the_cache(images, pixels, cache_bytes):
    x = np.zeros((images, pixels, 2), np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_windows, "CACHE_BYTES", cache_bytes)
        parts = [range(images)[part] for part in in_cache(x)]
    assert [row for part in parts for row in part] == list(range(images))  # each once, in order
    assert all(part for part in parts)
    row_bytes = 8 * pixels
    assert all(len(part) * row_bytes <= cache_bytes or len(part) == 1 for part in parts)
    assert all((len(part) + 1) * row_bytes > cache_bytes for part in parts[:-1])  # as many as fit


def test_without_images_there_are_no_parts():
    assert list(in_cache(np.zeros((0, 5, 3)))) == []


def test_images_without_pixels_are_one_part():
    x = np.zeros((4, 0, 3))
    assert [range(len(x))[part] for part in in_cache(x)] == [range(4)]


def test_a_gpu_takes_all_at_once(cupy, monkeypatch):
    monkeypatch.setattr(kernel_windows, "CACHE_BYTES", 1)
    assert [range(6)[part] for part in in_cache(cupy.zeros((6, 3)))] == [range(6)]
