"""Tensor maps: what is asked of the driver, by one that only writes it down, and what those of emulator and GPU say."""

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from npconvnet.kernels.cuda import tensor_map
from npconvnet.kernels.cuda.tensor_map import im2col, tiled

POINTER, INT, UINT32 = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32
UINT64S, UINT32S, INTS = (ctypes.POINTER(number) for number in (ctypes.c_uint64, UINT32, INT))
#: The driver's functions, by their declarations in cuda.h. Enumerations are ints.
BEGIN, END = (POINTER, INT, UINT32, POINTER, UINT64S, UINT64S), (UINT32S, INT, INT, INT, INT)
TILED = ctypes.CFUNCTYPE(INT, *BEGIN, UINT32S, *END)
IM2COL = ctypes.CFUNCTYPE(INT, *BEGIN, INTS, INTS, UINT32, UINT32, *END)


@pytest.fixture
def asked(cupy, monkeypatch):
    """What the driver has been asked for, as a list of calls. It accepts what it is asked for."""
    calls: list[Any] = []

    def tiled(address, kind, rank, data, sizes, strides, box, steps, *modes):
        calls.append((kind, data, sizes[:rank], strides[: rank - 1], box[:rank], steps[:rank], modes))
        ctypes.memset(address, 7, 128)
        return 0

    def im2col(address, kind, rank, data, sizes, strides, lower, upper, channels, pixels, steps, *modes):
        box = lower[: rank - 2], upper[: rank - 2], channels, pixels
        calls.append((kind, data, sizes[:rank], strides[: rank - 1], box, steps[:rank], modes))
        return 0

    functions = SimpleNamespace(cuTensorMapEncodeTiled=TILED(tiled), cuTensorMapEncodeIm2col=IM2COL(im2col))
    monkeypatch.setattr(tensor_map, "driver", lambda: functions)
    return calls


#: BFLOAT16; no interleaving, swizzled by 128 bytes, 256 bytes at a time into L2, zeros outside.
BFLOAT16, MODES = 9, (0, 3, 3, 0)


def test_a_tiled_map(cupy, asked):
    x = cupy.zeros((5, 7, 24), np.uint16)
    found = tiled(x, (2, 3, 64))
    assert asked == [(BFLOAT16, x.data.ptr, [24, 7, 5], [48, 336], [64, 3, 2], [1, 1, 1], MODES)]
    assert (found.shape, found.nbytes) == ((1,), 128)
    assert found.ctypes.data % 64 == 0
    assert found.tobytes() == bytes([7] * 128)


def test_a_map_of_images(cupy, asked):
    x = cupy.zeros((5, 6, 7, 8), np.uint16)
    im2col(x, (-1, -2), (-3, 4), 128)
    box = [-2, -1], [4, -3], 64, 128  # the width first
    assert asked == [(BFLOAT16, x.data.ptr, [8, 7, 6, 5], [16, 112, 672], box, [1, 1, 1, 1], MODES)]


def test_strides_where_a_size_is_1(cupy, asked):
    x = cupy.zeros((3, 2, 8), np.uint16)[:1, :1]
    assert x.flags.c_contiguous
    assert x.strides == (32, 16, 2)
    tiled(x, (1, 1, 64))
    assert asked[0][3] == [16, 16]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda xp: xp.zeros((8, 8), np.float32), r"tensor_map.tiled: x is float32 \(8, 8\), and has to be uint16"),
        (lambda xp: xp.zeros((8, 8, 8), np.uint16), r"x is uint16 \(8, 8, 8\), and has to be uint16 \(any, any\)"),
        (lambda xp: xp.zeros((8, 16), np.uint16)[:, :8], r"x has strides \(32, 2\), and has to be contiguous"),
        (lambda xp: np.zeros((8, 8), np.uint16), "x is on the CPU"),
    ],
)
def test_other_arrays_are_refused(cupy, asked, make, message):
    with pytest.raises(TypeError, match=message):
        tiled(make(cupy), (8, 64))
    assert not asked


def test_images_have_four_axes(cupy, asked):
    with pytest.raises(TypeError, match=r"tensor_map.im2col: x is uint16 \(8, 8\), and has to be"):
        im2col(cupy.zeros((8, 8), np.uint16), (0, 0), (0, 0), 64)


def test_where_there_is_no_driver(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(RuntimeError, match=r"NVIDIA's driver, which cannot be loaded: libcuda\.so\.1: cannot open"):
        tensor_map.driver.__wrapped__()


def test_a_driver_that_is_too_old(cupy, monkeypatch):
    monkeypatch.setattr(tensor_map, "driver", SimpleNamespace)
    with pytest.raises(RuntimeError, match="driver has no cuTensorMapEncodeTiled: it is older than CUDA 12"):
        tiled(cupy.zeros((8, 8), np.uint16), (8, 64))


@pytest.fixture
def real(xp):
    """cupy, with the driver that belongs to it."""
    if int(xp.cuda.Device().compute_capability) < 90:
        pytest.skip("this GPU has no tensor maps")
    return xp


def test_what_drivers_accept(real):
    for shape, box in (((300, 72), (256, 64)), ((4, 9, 8), (256, 1, 64)), ((1, 8), (64, 64))):
        assert tiled(real.zeros(shape, np.uint16), box).tobytes() != bytes(128)
    x = real.zeros((2, 13, 13, 256), np.uint16)
    for lower, upper in (((-1, -1), (-1, -1)), ((0, 0), (0, 0)), ((-128, -128), (127, 127))):
        assert im2col(x, lower, upper, 256).tobytes() != bytes(128)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (
            lambda x: tiled(x[0, 0], (257, 64)),
            r"Tiled: error 1, for boxes of \(257, 64\) of uint16 \(13, 256\) at",
        ),
        (lambda x: tiled(x[0, 0], (64, 65)), "Tiled: error 1"),
        (lambda x: tiled(x.reshape(-1)[1:257].reshape(1, 256), (64, 64)), "Tiled: error 1"),
        (lambda x: tiled(x.reshape(-1)[: 12 * 12].reshape(12, 12), (64, 64)), "Tiled: error 1"),
        (
            lambda x: im2col(x, (-129, 0), (0, 0), 64),
            r"Im2col: error 1, for columns of 64 pixels between \(-129, 0\)",
        ),
        (lambda x: im2col(x, (0, 0), (0, 0), 1025), "Im2col: error 1"),
    ],
)
def test_what_drivers_refuse(real, refused, message):
    with pytest.raises(RuntimeError, match=message):
        refused(real.zeros((2, 13, 13, 256), np.uint16))
