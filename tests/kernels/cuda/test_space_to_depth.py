"""Cells on the GPU against the definitions; of integers, which bfloat16 holds, so that all must be equal to the bit."""

import numpy as np
import pytest

from npconvnet.backend import to_host
from npconvnet.kernels.cpu import conv2d
from npconvnet.kernels.cpu import space_to_depth as definition
from npconvnet.kernels.cpu.bfloat16 import from_bfloat16, to_bfloat16
from npconvnet.kernels.cuda import space_to_depth
from npconvnet.kernels.cuda.space_to_depth import (
    THREADS,
    Cells,
    filter_cells,
    filters_of_cells,
    image_cells,
    images_of_cells,
)
from tests.conftest import assert_adjoint
from tests.kernels import test_space_to_depth

ODD = {name: Cells(g.size, g.window, g.stride, g.padding, g.rounding) for name, g in test_space_to_depth.TABLE.items()}
#: The first convolutions of the models, on smaller images.
MODELS = {
    "paper": Cells((31, 39), (11, 11), 4),
    "paper, up": Cells((32, 37), (11, 11), 4, rounding="ceil"),
    "alexnet": Cells((31, 39), (11, 11), 4, (2, 2, 2, 2)),
    "tiny": Cells((16, 15), (5, 5), 2),
    "vgg": Cells((9, 8), (3, 3), 1, (1, 1, 1, 1)),
    "squeezenet": Cells((15, 14), (3, 3), 2),
}
LARGE = {
    "a row of more cells than a block has threads": Cells((3, 2 * THREADS + 5), (3, 3), 1, (1, 1, 1, 1)),
    "fewer than all threads": Cells((40, 43), (16, 16), 16),
    "a cell of more channels than a block has threads for": Cells((24, 60), (23, 24), 23, (0, 0, 1, 0)),
}
TABLE = ODD | MODELS | LARGE

over_the_table = pytest.mark.parametrize("cells", TABLE.values(), ids=TABLE.keys())
over_models = pytest.mark.parametrize("cells", MODELS.values(), ids=MODELS.keys())
over_types = pytest.mark.parametrize("dtype", [np.float32, np.uint16])


def integers(rng, *shape):
    return rng.integers(-9, 10, shape).astype(np.float32)


def reals(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def numbers(array):
    """On the host, in float64."""
    array = to_host(array)
    return (from_bfloat16(array) if array.dtype == np.uint16 else array).astype(np.float64)


def of_type(xp, array, dtype):
    return xp.asarray(to_bfloat16(array) if dtype == np.uint16 else array)


@over_types
@over_the_table
def test_the_stride_is_gone(xp, rng, cells, dtype):
    """The convolution and both backwards, through the cells, are those of the definition."""
    x, w = integers(rng, 2, *cells.size, 3), integers(rng, 4, *cells.window, 3)
    dy = integers(rng, 2, *cells.windows.outputs, 4)
    where = {"stride": cells.stride, "padding": cells.padding, "rounding": cells.rounding}
    of_x = numbers(image_cells(xp.asarray(x), cells, dtype))
    of_w = numbers(filter_cells(xp.asarray(w), cells, dtype))

    np.testing.assert_array_equal(conv2d.conv2d_forward(of_x, of_w), conv2d.conv2d_forward(x, w, **where))

    dx_cells = conv2d.conv2d_backward_input(dy, of_w, of_x.shape).astype(np.float32)
    dx = images_of_cells(xp.asarray(dx_cells), x.shape, cells)
    np.testing.assert_array_equal(to_host(dx), conv2d.conv2d_backward_input(dy, w, x.shape, **where))

    dw_cells = conv2d.conv2d_backward_filters(dy, of_x, of_w.shape).astype(np.float32)
    dw = filters_of_cells(xp.asarray(dw_cells), w.shape, cells)
    np.testing.assert_array_equal(to_host(dw), conv2d.conv2d_backward_filters(dy, x, w.shape, **where))


@over_types
@over_the_table
def test_cells_are_those_of_the_definition_and_zeros(xp, rng, cells, dtype):
    x, w = reals(rng, 2, *cells.size, 3), reals(rng, 3, *cells.window, 3)
    of_x, of_w = image_cells(xp.asarray(x), cells, dtype), filter_cells(xp.asarray(w), cells, dtype)
    check(of_x, definition.image_cells(x, cells.window, cells.stride, cells.windows), cells.shape(2), dtype)
    check(of_w, definition.filter_cells(w, cells.stride), cells.of_filters.shape(3), dtype)


def check(actual, expected, shape, dtype):
    filled = np.pad(expected, [*[(0, 0)] * 3, (0, -expected.shape[3] % 8)])
    np.testing.assert_array_equal(to_host(actual), to_bfloat16(filled) if dtype == np.uint16 else filled)
    assert (actual.dtype, actual.shape) == (dtype, shape)


@over_types
@over_the_table
def test_the_maps_are_adjoint(xp, rng, cells, dtype):
    """⟨A x, y⟩ = ⟨x, Aᵀ y⟩, whatever stands in the channels that fill up the cells."""
    x, w = integers(rng, 2, *cells.size, 3), integers(rng, 3, *cells.window, 3)
    dx_cells, dw_cells = integers(rng, *cells.shape(2)), integers(rng, *cells.of_filters.shape(3))
    dx = images_of_cells(of_type(xp, dx_cells, dtype), x.shape, cells)
    dw = filters_of_cells(of_type(xp, dw_cells, dtype), w.shape, cells)
    assert dx.dtype == dw.dtype == np.float32
    assert_adjoint(numbers(x), numbers(image_cells(xp.asarray(x), cells, dtype)), numbers(dx_cells), numbers(dx))
    assert_adjoint(numbers(w), numbers(filter_cells(xp.asarray(w), cells, dtype)), numbers(dw_cells), numbers(dw))


@over_models
def test_the_gradient_of_the_filters_is_written_where_it_belongs(xp, rng, cells):
    dw_cells = xp.asarray(integers(rng, *cells.of_filters.shape(3)))
    out = xp.empty((3, *cells.window, 3), np.float32)
    assert filters_of_cells(dw_cells, out.shape, cells, out) is out
    np.testing.assert_array_equal(to_host(out), to_host(filters_of_cells(dw_cells, out.shape, cells)))


@over_types
def test_nothing_is_launched_for_no_images(xp, monkeypatch, dtype):
    monkeypatch.setattr(space_to_depth, "kernel", lambda *args: pytest.fail("CUDA refuses a launch of no blocks"))
    cells = MODELS["paper"]
    none = image_cells(xp.zeros((0, *cells.size, 3), np.float32), cells, dtype)
    assert (none.dtype, none.shape) == (dtype, cells.shape(0))
    assert images_of_cells(none, (0, *cells.size, 3), cells).shape == (0, *cells.size, 3)


@over_types
def test_arrays_that_are_not_contiguous(xp, rng, dtype):
    cells, x = MODELS["tiny"], integers(rng, 2, 15, 16, 3).transpose(0, 2, 1, 3)
    of_x = image_cells(xp.asarray(x.transpose(0, 2, 1, 3).copy()).transpose(0, 2, 1, 3), cells, dtype)
    check(of_x, definition.image_cells(x, cells.window, cells.stride, cells.windows), cells.shape(2), dtype)
    back = images_of_cells(of_x[:, ::-1], x.shape, cells)
    np.testing.assert_array_equal(to_host(back), to_host(images_of_cells(of_x[:, ::-1].copy(), x.shape, cells)))


def test_shapes_by_hand():
    """224 − 11 = 53·4 + 1: 54 windows of 3 cells, and 55 rounded up; 48 channels, and 27 of them filled up to 32."""
    assert Cells((224, 224), (11, 11), 4).shape(256) == (256, 56, 56, 48)
    assert Cells((224, 224), (11, 11), 4, rounding="ceil").shape(1) == (1, 57, 57, 48)
    assert Cells((224, 200), (11, 7), 4).of_filters.shape(64) == (64, 3, 2, 48)
    assert Cells((10, 9), (3, 3), 3).shape(1) == (1, 3, 3, 32)
    with pytest.raises(ValueError, match="does not fit"):
        Cells((10, 10), (11, 11), 4).shape(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda xp, c: image_cells(xp.zeros((2, 31, 38, 3), np.float32), c, np.uint16), "image_cells: x is float32"),
        (lambda xp, c: image_cells(xp.zeros((2, 31, 39, 4), np.float32), c, np.uint16), "image_cells: x is float32"),
        (lambda xp, c: image_cells(xp.zeros((2, 31, 39, 3), np.float64), c, np.uint16), "image_cells: x is float64"),
        (lambda xp, c: image_cells(xp.zeros((2, 31, 39, 3), np.float32), c, np.float16), "not float16"),
        (lambda xp, c: filter_cells(xp.zeros((2, 11, 9, 3), np.float32), c, np.uint16), "filter_cells: w is"),
        (lambda xp, c: images_of_cells(xp.zeros((2, 8, 9, 48), np.int32), (2, 31, 39, 3), c), "dx_cells is int32"),
        (lambda xp, c: images_of_cells(xp.zeros((2, 8, 9, 48), np.uint16), (3, 31, 39, 3), c), "dx_cells is uint16"),
        (lambda xp, c: images_of_cells(xp.zeros((2, 8, 9, 48), np.uint16), (2, 31, 38, 3), c), "not of"),
        (lambda xp, c: filters_of_cells(xp.zeros((5, 3, 4, 48), np.float32), (5, 11, 11, 3), c), "dw_cells is"),
        (lambda xp, c: with_out(xp, c, xp.zeros((4, 11, 11, 3), np.float32)), "filters_of_cells: out is"),
        (lambda xp, c: with_out(xp, c, xp.zeros((5, 11, 11, 3), np.uint16)), "filters_of_cells: out is"),
        (lambda xp, c: with_out(xp, c, xp.zeros((5, 11, 22, 3), np.float32)[:, :, ::2]), "contiguous"),
    ],
)
def test_other_arrays_are_refused(xp, call, message):
    with pytest.raises(TypeError, match=message):
        call(xp, MODELS["paper"])


def with_out(xp, cells, out):
    filters_of_cells(xp.zeros((5, 3, 3, 48), np.float32), (5, 11, 11, 3), cells, out)
