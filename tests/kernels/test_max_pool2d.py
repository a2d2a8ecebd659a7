import numpy as np
import pytest
from hypothesis import given

from npconvnet import kernels
from npconvnet.kernels.shapes import place_windows
from tests.conftest import assert_adjoint, assert_close, assert_is_gradient, distinct, from_nchw, to_nchw
from tests.kernels.geometry import geometries, over_the_table

NAN = np.nan


def where(g):
    """The arguments that both directions take at their end."""
    return {"window": g.window, "stride": g.stride, "padding": g.padding, "rounding": g.rounding}


def image(*rows):
    return np.array(rows, dtype=np.float64).reshape(1, len(rows), len(rows[0]), 1)


def rows(x):
    return x[0, :, :, 0].tolist()


def max_pool_by_definition(x, g):
    """(y, switches), window by window; padding is pixels that are left out."""
    top, _, left, _ = g.padding
    p_count, q_count = place_windows(g.size, g.window, g.stride, g.padding, g.rounding).outputs
    y = np.zeros((len(x), p_count, q_count, x.shape[3]))
    switches = np.zeros(y.shape, int)
    for n, p, q, c in np.ndindex(y.shape):
        seen = {}
        for r, s in np.ndindex(g.window):
            i, j = p * g.stride - top + r, q * g.stride - left + s
            if 0 <= i < g.size[0] and 0 <= j < g.size[1]:
                seen[r * g.window[1] + s] = x[n, i, j, c]
        y[n, p, q, c] = max(seen.values())
        switches[n, p, q, c] = min(offset for offset, value in seen.items() if value == y[n, p, q, c])
    return y, switches


def test_by_hand():
    x = image([1, 5, 2, 0], [3, 4, 9, 8], [7, 6, 0, 1])
    y, switches = kernels.max_pool2d_forward(x, (2, 2), stride=2)
    assert rows(y) == [[5, 9]]
    assert rows(switches) == [[1, 2]]
    y, switches = kernels.max_pool2d_forward(x, (2, 2), stride=2, rounding="ceil")
    assert rows(y) == [[5, 9], [7, 1]]
    assert rows(switches) == [[1, 2], [0, 1]]

    dx = kernels.max_pool2d_backward(
        image([10, 20], [30, 40]), switches, x.shape, window=(2, 2), stride=2, rounding="ceil"
    )
    assert rows(dx) == [[0, 10, 0, 0], [0, 0, 20, 0], [30, 0, 0, 40]]


def test_overlapping_windows_add_up():
    x = image([0, 0, 0, 0, 0], [0, 0, 9, 0, 0], [0, 0, 0, 0, 0])
    y, switches = kernels.max_pool2d_forward(x, (3, 3), stride=2)
    assert rows(y) == [[9, 9]]
    assert rows(switches) == [[5, 3]]
    dx = kernels.max_pool2d_backward(image([10, 1]), switches, x.shape, (3, 3), stride=2)
    assert rows(dx) == [[0, 0, 0, 0, 0], [0, 0, 11, 0, 0], [0, 0, 0, 0, 0]]


def test_ties_go_to_the_first_maximum_in_scan_order():
    x = image([1, 7, 7], [7, 7, 7])
    y, switches = kernels.max_pool2d_forward(x, (2, 2), stride=1)
    assert rows(y) == [[7, 7]]
    assert rows(switches) == [[1, 0]]
    dx = kernels.max_pool2d_backward(image([1, 2]), switches, x.shape, (2, 2), stride=1)
    assert rows(dx) == [[0, 3, 0], [0, 0, 0]]


def test_padding_never_wins():
    x = image([-5, -6], [-7, -8])
    y, switches = kernels.max_pool2d_forward(x, (2, 2), stride=2, padding=(1, 0, 0, 1), rounding="ceil")
    assert rows(y) == [[-5], [-7]]
    assert rows(switches) == [[2], [0]]


def test_nan_is_the_maximum():
    x = image([1, NAN, 3], [4, 5, 6])
    y, switches = kernels.max_pool2d_forward(x, (2, 2), stride=1)
    np.testing.assert_array_equal(rows(y), [[NAN, NAN]])
    assert rows(switches) == [[1, 0]]
    dx = kernels.max_pool2d_backward(image([1, 2]), switches, x.shape, (2, 2), stride=1)
    assert rows(dx) == [[0, 3, 0], [0, 0, 0]]


def test_a_diverged_gradient_stays_where_the_switch_points():
    _, switches = kernels.max_pool2d_forward(image([1, 2], [4, 3]), (2, 2), stride=2)
    dx = kernels.max_pool2d_backward(image([np.inf]), switches, (1, 2, 2, 1), (2, 2), stride=2)
    assert rows(dx) == [[0, 0], [np.inf, 0]]


@over_the_table
def test_against_the_definition(rng, geometry):
    x = distinct(rng, (2, *geometry.size, 3))
    y, switches = kernels.max_pool2d_forward(x, **where(geometry))
    y_by_definition, switches_by_definition = max_pool_by_definition(x, geometry)
    np.testing.assert_array_equal(y, y_by_definition)
    np.testing.assert_array_equal(switches, switches_by_definition)


@given(geometries(padding_smaller_than_window=True))
def test_on_any_shape_with_ties(geometry):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (2, *geometry.size, 2)).astype(float)
    y, switches = kernels.max_pool2d_forward(x, **where(geometry))
    y_by_definition, switches_by_definition = max_pool_by_definition(x, geometry)
    np.testing.assert_array_equal(y, y_by_definition)
    np.testing.assert_array_equal(switches, switches_by_definition)

    # With its switches held, pooling is a linear map: it picks.
    dy = distinct(rng, y.shape)
    assert_adjoint(x, y, dy, kernels.max_pool2d_backward(dy, switches, x.shape, **where(geometry)))


@over_the_table
def test_backward_is_the_gradient(rng, geometry):
    x = distinct(rng, (2, *geometry.size, 3))
    y, switches = kernels.max_pool2d_forward(x, **where(geometry))
    dy = distinct(rng, y.shape)
    dx = kernels.max_pool2d_backward(dy, switches, x.shape, **where(geometry))
    assert_is_gradient(lambda x: kernels.max_pool2d_forward(x, **where(geometry))[0], x, dx, dy)


@over_the_table
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_like_pytorch(torch, rng, geometry, ties, dtype):
    shape = (2, *geometry.size, 3)
    x = rng.integers(0, 3, shape).astype(dtype) if ties else distinct(rng, shape, dtype)
    y, switches = kernels.max_pool2d_forward(x, **where(geometry))
    dy = distinct(rng, y.shape, dtype)

    x_torch = to_nchw(x, torch).requires_grad_()
    y_torch = torch_max_pool(torch, x_torch, geometry)
    y_torch.backward(to_nchw(dy, torch))
    assert_close(y, from_nchw(y_torch))
    assert_close(kernels.max_pool2d_backward(dy, switches, x.shape, **where(geometry)), from_nchw(x_torch.grad))


def torch_max_pool(torch, x, g):
    """PyTorch's own padding and rounding where it has them; asymmetric padding is −∞ put around the image."""
    if g.is_symmetric:
        top, _, left, _ = g.padding
        return torch.nn.functional.max_pool2d(
            x, g.window, g.stride, padding=(top, left), ceil_mode=g.rounding == "ceil"
        )
    windows = place_windows(g.size, g.window, g.stride, g.padding, g.rounding)
    top, bottom, left, right = windows.padding_and_overhang
    padded = torch.nn.functional.pad(x, (left, right, top, bottom), value=-torch.inf)
    return torch.nn.functional.max_pool2d(padded, g.window, g.stride)


def test_a_strided_pooling_is_a_subsampled_one(rng):
    x = distinct(rng, (2, 9, 8, 3))
    every, _ = kernels.max_pool2d_forward(x, (3, 2), stride=1)
    strided, _ = kernels.max_pool2d_forward(x, (3, 2), stride=2)
    np.testing.assert_array_equal(strided, every[:, ::2, ::2])


@pytest.mark.parametrize(("side", "switch_type"), [(3, np.uint8), (16, np.uint8), (17, np.uint16)])
def test_switches_are_as_small_as_the_window_allows_and_reach_its_last_pixel(side, switch_type):
    x = np.arange(side * side, dtype=np.float32).reshape(1, side, side, 1)
    y, switches = kernels.max_pool2d_forward(x, (side, side), stride=1)
    assert switches.dtype == switch_type
    assert (y.item(), switches.item()) == (side * side - 1, side * side - 1)


def test_a_window_that_could_hold_only_padding_is_refused():
    with pytest.raises(ValueError, match="smaller than its window"):
        kernels.max_pool2d_forward(np.zeros((1, 4, 4, 1)), (2, 2), stride=2, padding=(2, 0, 0, 0))


@pytest.mark.parametrize("parts_of", [1, 2, 3], ids="{} images".format)
@pytest.mark.parametrize("nan_images", [(), (0,), (1, 4)], ids=str)
@over_the_table
def test_the_parts_do_not_show(rng, monkeypatch, geometry, nan_images, parts_of, dtype):
    """Images that hold NaN stand beside clean ones, in a part of their own or not."""
    x = distinct(rng, (5, *geometry.size, 3), dtype)
    x[1] = np.round(2 * x[1])  # and one has ties
    for image in nan_images:
        x[image][rng.random(x.shape[1:]) < 0.3] = np.nan
    y, switches = kernels.max_pool2d_forward(x, **where(geometry))
    dy = distinct(rng, y.shape, dtype)
    dx = kernels.max_pool2d_backward(dy, switches, x.shape, **where(geometry))

    monkeypatch.setattr("npconvnet.kernels.cpu.windows.CACHE_BYTES", parts_of * x[0].nbytes)
    in_parts = kernels.max_pool2d_forward(x, **where(geometry))
    np.testing.assert_array_equal(in_parts[0], y)
    np.testing.assert_array_equal(in_parts[1], switches)
    np.testing.assert_array_equal(kernels.max_pool2d_backward(dy, switches, x.shape, **where(geometry)), dx)
    clean = [image for image in range(5) if image not in nan_images]
    np.testing.assert_array_equal(y[clean], max_pool_by_definition(x[clean], geometry)[0])
    np.testing.assert_array_equal(switches[clean], max_pool_by_definition(x[clean], geometry)[1])
