import numpy as np
import pytest

from npconvnet import kernels
from npconvnet.kernels.cpu import conv2d, conv2d_by_shape
from npconvnet.kernels.cpu.conv2d_by_shape import best_tile
from npconvnet.kernels.shapes import place_windows
from npconvnet.layers import Conv2d
from npconvnet.models import MODELS
from tests.conftest import assert_close, distinct
from tests.kernels.geometry import Geometry

CHANNELS, FILTERS = 96, 96
#: All of these go to Winograd's algorithm in float32, with as many channels and filters.
WITH_TILES = {
    "3x3": Geometry((12, 13), (3, 3)),
    "3x3, padded": Geometry((12, 13), (3, 3), padding=(1, 1, 1, 1)),
    "oblong, padded on two sides": Geometry((14, 12), (3, 5), padding=(0, 2, 3, 0)),
    "5x5 by 2, down": Geometry((24, 23), (5, 5), stride=2),
    "5x5 by 2, padded, up": Geometry((24, 23), (5, 5), stride=2, padding=(2, 2, 2, 2), rounding="ceil"),
    "6x5 by 2, padded on two sides, up": Geometry((21, 24), (6, 5), stride=2, padding=(0, 1, 3, 0), rounding="ceil"),
    "8x9 by 3, up": Geometry((29, 30), (8, 9), stride=3, padding=(1, 1, 0, 1), rounding="ceil"),
    "11x11 by 4, down": Geometry((50, 47), (11, 11), stride=4),
}

over_geometries = pytest.mark.parametrize("geometry", WITH_TILES.values(), ids=WITH_TILES.keys())


def tile(g, channels=CHANNELS, filters=FILTERS):
    outputs = place_windows(g.size, g.window, g.stride, g.padding, g.rounding).outputs
    return best_tile(outputs, g.window, g.stride, channels, filters)


def results(module, xwdy, g, groups=1):
    """(y, dx, dw) by the functions of `module`, and (dx, dw) again by the one for both."""
    x, w, dy = xwdy
    where = g.stride, g.padding, groups, g.rounding
    return (
        module.conv2d_forward(x, w, *where),
        module.conv2d_backward_input(dy, w, x.shape, *where),
        module.conv2d_backward_filters(dy, x, w.shape, *where),
        *module.conv2d_backward(dy, x, w, *where),
    )


def operands(rng, g, dtype, images=2, groups=1):
    """(x, w, dy)"""
    outputs = place_windows(g.size, g.window, g.stride, g.padding, g.rounding).outputs
    x = distinct(rng, (images, *g.size, CHANNELS), dtype)
    w = distinct(rng, (FILTERS, *g.window, CHANNELS // groups), dtype)
    return x, w, distinct(rng, (images, *outputs, FILTERS), dtype)


def assert_like_the_definition(xwdy, g):
    """That is, like the definition in float64."""
    exact = results(conv2d, [a.astype(np.float64) for a in xwdy], g)
    for actual, expected in zip(results(conv2d_by_shape, xwdy, g), exact, strict=True):
        assert_close(actual, expected.astype(np.float32))


@over_geometries
@pytest.mark.parametrize(
    ("dtype", "images", "groups"),
    [(np.float64, 2, 1), (np.float32, 2, 2), (np.float32, 1, 1)],
    ids=["float64", "groups", "a single image"],
)
def test_what_is_left_to_the_definition_is_so_to_the_bit(rng, geometry, dtype, images, groups):
    assert tile(geometry, CHANNELS // groups) is not None  # it is not the shape that decides
    xwdy = operands(rng, geometry, dtype, images, groups)
    expected = results(conv2d, xwdy, geometry, groups)
    for a, b in zip(results(conv2d_by_shape, xwdy, geometry, groups), expected, strict=True):
        np.testing.assert_array_equal(a, b)


@over_geometries
def test_with_tiles(rng, geometry):
    assert tile(geometry) is not None
    xwdy = operands(rng, geometry, np.float32)
    assert_like_the_definition(xwdy, geometry)
    by_definition = results(conv2d, xwdy, geometry)
    for a, b in zip(results(conv2d_by_shape, xwdy, geometry), by_definition, strict=True):
        assert not np.array_equal(a, b)  # other sums are rounded in another way


@over_geometries
def test_nothing_is_written_over(rng, geometry):
    xwdy = operands(rng, geometry, np.float32)
    for a in xwdy:
        a.flags.writeable = False  # writing raises ValueError
    results(conv2d_by_shape, xwdy, geometry)


def test_the_layout_in_memory_does_not_matter(rng):
    for geometry in (WITH_TILES["3x3, padded"], WITH_TILES["5x5 by 2, padded, up"]):
        spread = [np.repeat(a, 2, axis=3)[..., ::2] for a in operands(rng, geometry, np.float32)]
        assert not any(a.flags.c_contiguous for a in spread)
        assert_like_the_definition(spread, geometry)


@pytest.mark.parametrize("images", [1, 2])
def test_a_filter_larger_than_the_image_is_refused(images):
    with pytest.raises(ValueError, match="does not fit"):
        conv2d_by_shape.conv2d_forward(np.zeros((images, 2, 2, 1), np.float32), np.zeros((1, 3, 3, 1), np.float32))


def convolutions(model):
    """The distinct convolutions of a model: {(geometry, channels, filters): the name of the first such layer}."""
    network = MODELS[model]()
    found: dict[tuple[Geometry, int, int], str] = {}
    for node in network.nodes:
        if isinstance(layer := node.layer, Conv2d):
            height, width, channels = network.shapes[node.inputs[0]]
            geometry = Geometry((height, width), layer.window, layer.stride, layer.padding, layer.rounding)
            found.setdefault((geometry, channels, network.shapes[node.name][2]), f"{model} {node.name}")
    return found


#: Each once, though the paper's are vgg_f's as well.
CONVOLUTIONS = {
    key: name for model in ("vgg_f", "squeezenet", "tiny", "paper") for key, name in convolutions(model).items()
}
over_convolutions = pytest.mark.parametrize(
    ("geometry", "channels", "filters"), CONVOLUTIONS.keys(), ids=CONVOLUTIONS.values()
)


@over_convolutions
def test_the_convolutions_of_the_networks(rng, geometry, channels, filters):
    """Filters as they are drawn at first, images and derivatives as ReLUs leave them."""
    outputs = place_windows(
        geometry.size, geometry.window, geometry.stride, geometry.padding, geometry.rounding
    ).outputs
    x = np.maximum(rng.standard_normal((2, *geometry.size, channels), np.float32), 0)
    spread = np.float32(np.sqrt(2 / (geometry.window[0] * geometry.window[1] * channels)))
    w = spread * rng.standard_normal((filters, *geometry.window, channels), np.float32)
    dy = rng.standard_normal((2, *outputs, filters), np.float32) * (rng.random((2, *outputs, filters)) < 0.5)
    assert_like_the_definition((x, w, dy), geometry)


def test_all_of_the_papers_convolutions_go_to_winograd():
    tiles = {name: tile(*key) for key, name in convolutions("paper").items()}
    assert len(tiles) == 3  # the last three are alike
    assert None not in tiles.values()


POINTWISE = {key: name for key, name in CONVOLUTIONS.items() if key[0].window == (1, 1)}


@pytest.mark.parametrize(("geometry", "channels", "filters"), POINTWISE.keys(), ids=POINTWISE.values())
def test_a_window_of_one_pixel_is_not_transformed(rng, monkeypatch, geometry, channels, filters):
    """Winograd's algorithm takes as many multiplications there, and the transforms come on top."""
    for name in ("winograd_forward", "winograd_backward_input", "winograd_backward_filters", "winograd_backward"):
        monkeypatch.setattr(conv2d_by_shape, name, None)  # calling it raises TypeError
    x = distinct(rng, (2, *geometry.size, channels), np.float32)
    w = distinct(rng, (filters, 1, 1, channels), np.float32)
    dy = distinct(rng, (2, *geometry.size, filters), np.float32)
    by_definition = results(conv2d, (x, w, dy), geometry)
    for a, b in zip(results(conv2d_by_shape, (x, w, dy), geometry), by_definition, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(b).max())


@pytest.mark.parametrize("lit", [[], [3], [0, 11], list(range(12))], ids=str)
@pytest.mark.parametrize("channels", [5, 300])
def test_a_window_of_one_pixel_with_some_filters_lit(rng, channels, lit):
    """As where one class score is sent back."""
    geometry = Geometry((6, 7), (1, 1))
    dy = np.zeros((2, 6, 7, 12), np.float32)
    dy[..., lit] = distinct(rng, (2, 6, 7, 12), np.float32)[..., lit]
    dy[0, :, 2] = 0
    x, w = distinct(rng, (2, 6, 7, channels), np.float32), distinct(rng, (12, 1, 1, channels), np.float32)
    assert_like_the_definition((x, w, dy), geometry)


@pytest.mark.parametrize(
    "geometry",
    [Geometry((8, 9), (1, 1), stride=2), Geometry((8, 9), (1, 1), padding=(1, 0, 0, 2)), Geometry((9, 7), (2, 1))],
    ids=["1x1 by 2", "1x1, padded", "2x1"],
)
@pytest.mark.parametrize("images", [1, 2])
def test_windows_that_are_almost_one_pixel(rng, geometry, images):
    assert_like_the_definition(operands(rng, geometry, np.float32, images), geometry)


@pytest.mark.parametrize("rows", [13, 15])
def test_a_dy_of_another_size_is_refused(rows):
    x, w = np.zeros((2, 16, 16, 32), np.float32), np.zeros((32, 3, 3, 32), np.float32)
    dy = np.zeros((2, rows, 14, 32), np.float32)
    for backward in (
        lambda: kernels.conv2d_backward_input(dy, w, x.shape),
        lambda: kernels.conv2d_backward_filters(dy, x, w.shape),
        lambda: kernels.conv2d_backward(dy, x, w),
    ):
        with pytest.raises(ValueError, match=r"dy is .* \(14, 14\) outputs"):
            backward()


def test_one_operand_in_float64_keeps_its_precision(rng):
    x, w = rng.standard_normal((2, 16, 16, 32), np.float32), rng.standard_normal((32, 3, 3, 32))
    y = kernels.conv2d_forward(x, w)
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, conv2d.conv2d_forward(x, w))
    assert kernels.linear_forward(x[:, 0, 0], w[:, 0, 0]).dtype == np.float64
