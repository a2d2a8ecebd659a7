"""The convolutions of the tensor cores against the definition in float64, on the numbers that they multiply."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npconvnet.backend import to_host
from npconvnet.kernels.cpu import conv2d as definition
from npconvnet.kernels.cpu.bfloat16 import from_bfloat16, to_bfloat16
from npconvnet.kernels.cpu.max_pool2d import max_pool2d_forward
from npconvnet.kernels.cuda import compile, convolution_tile
from npconvnet.kernels.cuda import conv2d_tensor_core as tensor_core
from npconvnet.kernels.cuda.conv2d_tensor_core import LARGE, SMALL, TILES
from npconvnet.kernels.cuda.convolution_tile import DGRAD, FPROP, POOLED_FPROP, WGRAD, Matrices, parts_of_sums
from npconvnet.kernels.shapes import Padding, Pooling, Rounding, place_windows
from tests.cuda_on_cpu import emulator
from tests.kernels.geometry import TABLE, Geometry

BFLOAT16, TF32 = np.dtype(np.uint16), np.dtype(np.float32)  # the elements; results of TF32 are float32
Placement = tuple[int, Padding, int, Rounding]
#: ‖result − expected‖ / ‖expected‖, of results of each type.
ERRORS = {BFLOAT16: 3e-3, np.dtype(np.float32): 1e-5}

#: What a block may have of it on sm_86, sm_89 and sm_120.
LITTLE_SHARED = 99 * 1024

over_elements = pytest.mark.parametrize("element", [BFLOAT16, TF32], ids=["bfloat16", "tf32"])
#: Without those of 121 weights, which take long here; with as many pixels between windows.
GEOMETRIES = {name: geometry for name, geometry in TABLE.items() if geometry.window != (11, 11)} | {
    "5x6 by 4, down": Geometry((13, 11), (5, 6), 4),
    "5x6 by 4, up": Geometry((13, 11), (5, 6), 4, (0, 2, 1, 0), "ceil"),
}
over_geometries = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """For most of the tests: they compile fast, and small shapes take several of them."""
    for problem in (FPROP, DGRAD, WGRAD):
        monkeypatch.setitem(TILES, problem, (SMALL,))


def as_elements(x, element):
    x = x.astype(np.float32)
    return to_bfloat16(x) if element == BFLOAT16 else x


def numbers(x):
    """What the tensor cores take the elements for, in float64."""
    if x.dtype == BFLOAT16:
        return from_bfloat16(x).astype(np.float64)
    rounded = (x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)  # to 10 bits behind the point
    return np.where(np.isfinite(x), rounded.view(np.float32), x).astype(np.float64)


def result_of(y):
    y = to_host(y)
    return (from_bfloat16(y) if y.dtype == BFLOAT16 else y).astype(np.float64)


def draw(rng, element, *shapes):
    return [as_elements(rng.standard_normal(shape), element) for shape in shapes]


def assert_agrees(result, expected):
    """In the mean within the error of its type, and nowhere off by more than ten times that."""
    assert result.shape == expected.shape
    difference = np.abs(result_of(result) - expected)  # a NaN stays one, and is not below anything
    error = ERRORS[result.dtype]
    assert np.linalg.norm(difference) <= error * np.linalg.norm(expected)
    assert not difference.size or difference.max() <= 10 * error * np.abs(expected).max()


def check(xp, x, w, dy, **where):
    """All three problems."""
    on_device = [xp.asarray(each) for each in (x, w, dy)]
    doubled_x, doubled_w, doubled_dy = (numbers(each) for each in (x, w, dy))
    y = tensor_core.conv2d_forward(*on_device[:2], **where)
    dx = tensor_core.conv2d_backward_input(on_device[2], on_device[1], x.shape, **where)
    dw = tensor_core.conv2d_backward_filters(on_device[2], on_device[0], w.shape, **where)
    assert [array.dtype.name for array in (y, dx, dw)] == [x.dtype.name, x.dtype.name, "float32"]
    assert_agrees(y, definition.conv2d_forward(doubled_x, doubled_w, **where))
    assert_agrees(dx, definition.conv2d_backward_input(doubled_dy, doubled_w, x.shape, **where))
    expected = definition.conv2d_backward_filters(doubled_dy, doubled_x, w.shape, **where)
    assert_agrees(dw, expected)


def shapes(images, geometry, channels, filters, groups=1):
    """Of x, w and dy, with so many channels and filters in a group."""
    where = (geometry.window, geometry.stride, geometry.padding, geometry.rounding)
    outputs = place_windows(geometry.size, *where).outputs
    x_shape, dy_shape = (images, *geometry.size, channels * groups), (images, *outputs, filters * groups)
    return x_shape, (filters * groups, *geometry.window, channels), dy_shape


def placed(geometry, groups=1):
    return {
        "stride": geometry.stride,
        "padding": geometry.padding,
        "rounding": geometry.rounding,
        "groups": groups,
    }


# ---- fprop, dgrad and wgrad ------------------------------------------------------------------------------------------


@over_geometries
@over_elements
def test_all_three_are_the_definition(xp, rng, geometry, element):
    check(xp, *draw(rng, element, *shapes(2, geometry, 16, 8)), **placed(geometry))


@pytest.mark.parametrize(("channels", "filters", "groups"), [(8, 16, 3), (24, 8, 2), (8, 72, 2)])
@over_elements
def test_groups(xp, rng, element, channels, filters, groups):
    geometry = GEOMETRIES["asymmetric, up"]
    check(xp, *draw(rng, element, *shapes(2, geometry, channels, filters, groups)), **placed(geometry, groups))


@pytest.mark.parametrize(
    ("channels", "filters", "groups"), [(72, 72, 1), (128, 65, 1), (1, 200, 1), (200, 1, 1), (3, 10, 2), (66, 30, 2)]
)
@over_elements
def test_any_number_of_channels_and_filters(xp, rng, element, channels, filters, groups):
    geometry = Geometry((5, 4), (3, 2), 2, (1, 0, 1, 1), "ceil")
    check(xp, *draw(rng, element, *shapes(3, geometry, channels, filters, groups)), **placed(geometry, groups))


def test_tf32_is_near_float32(xp, rng):
    x, w = draw(rng, TF32, (64, 200), (64, 200))
    expected = x.astype(np.float64) @ w.T.astype(np.float64)
    y = tensor_core.linear_forward(xp.asarray(x), xp.asarray(w))
    assert np.linalg.norm(result_of(y) - expected) <= 3e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("tile", [tile for tile in TILES[FPROP] if tile != SMALL], ids=str)
def test_no_bit_depends_on_the_tile(xp, rng, monkeypatch, tile):
    geometry = Geometry((17, 19), (3, 3), 1, (1, 1, 1, 1))
    x, w, dy = (xp.asarray(each) for each in draw(rng, BFLOAT16, *shapes(1, geometry, 24, 136)))

    def results():
        yield tensor_core.conv2d_forward(x, w, padding=geometry.padding)
        yield tensor_core.conv2d_backward_input(dy, w, x.shape, padding=geometry.padding)
        yield tensor_core.conv2d_backward_filters(dy, x, w.shape, padding=geometry.padding)

    expected = [to_host(result) for result in results()]
    for problem in (FPROP, DGRAD, WGRAD):
        if tile in ORIGINAL[problem]:
            monkeypatch.setitem(TILES, problem, (tile,))
    for result, bits in zip(results(), expected, strict=True):
        np.testing.assert_array_equal(to_host(result), bits)


ORIGINAL = dict(TILES)


@over_elements
def test_sums_in_parts(xp, rng, element):
    """Enough of the reduction of each problem, and few enough sums, that it is split."""
    geometry = Geometry((16, 15), (3, 3), 1, (1, 1, 1, 1))
    x, w, dy = draw(rng, element, *shapes(4, geometry, 8, 8))
    assert parts_of_sums(TILES[WGRAD], Matrices(8, 72, 30 * element.itemsize // 4)) > 1
    check(xp, x, w, dy, padding=geometry.padding)
    x, w, dy = draw(rng, element, (5, 1600), (7, 1600), (5, 7))
    check(xp, x.reshape(5, 1, 1, -1), w.reshape(7, 1, 1, -1), dy.reshape(5, 1, 1, -1))
    check(xp, dy.reshape(5, 1, 1, -1), w.T.reshape(1600, 1, 1, -1), x.reshape(5, 1, 1, -1))


@over_elements
def test_reruns_have_the_same_bits(xp, rng, element):
    x, w, dy = (xp.asarray(each) for each in draw(rng, element, (40, 1, 1, 640), (48, 1, 1, 640), (40, 1, 1, 48)))
    for run in (
        lambda: tensor_core.conv2d_forward(x, w),
        lambda: tensor_core.conv2d_backward_input(dy, w, x.shape),
        lambda: tensor_core.conv2d_backward_filters(dy, x, w.shape),
    ):
        np.testing.assert_array_equal(to_host(run()), to_host(run()))


@over_elements
def test_no_images(xp, element):
    x, w, dy = (xp.asarray(np.zeros(shape, element)) for shape in [(0, 5, 5, 8), (8, 3, 3, 8), (0, 3, 3, 8)])
    assert tensor_core.conv2d_forward(x, w).shape == dy.shape
    assert tensor_core.conv2d_backward_input(dy, w, x.shape).shape == x.shape
    assert not to_host(tensor_core.conv2d_backward_filters(dy, x, w.shape)).any()
    y, switches = tensor_core.conv2d_pool_forward(x, w, xp.zeros(8, np.float32), *PLAIN, Pooling((2, 2), 1))
    assert y.shape == switches.shape == (0, 2, 2, 8)
    assert tensor_core.linear_forward(x[:, 0, 0], w[:, 0, 0]).shape == (0, 8)


# ---- what follows the sums -------------------------------------------------------------------------------------------

PLAIN: Placement = (1, (0, 0, 0, 0), 1, "floor")


@pytest.mark.parametrize("filters", [10, 72])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("length", [24, 1600], ids=["at once", "in parts"])
@over_elements
def test_bias_and_relu(xp, rng, element, length, relu, filters):
    x, w = draw(rng, element, (5, length), (filters, length))
    bias = 10 * rng.standard_normal(filters).astype(np.float32)
    expected = numbers(x) @ numbers(w).T + bias
    expected = np.maximum(expected, 0) if relu else expected
    dtype: Any
    for dtype in [BFLOAT16, TF32, None]:
        y = tensor_core.linear_forward(xp.asarray(x), xp.asarray(w), bias=xp.asarray(bias), relu=relu, dtype=dtype)
        assert y.dtype == (dtype or element)
        assert_agrees(y, expected)


@over_elements
def test_a_nan_stays_one(xp, rng, element):
    x, w = draw(rng, element, (1, 4, 4, 8), (8, 3, 3, 8))
    x[0, 3, 3, 5] = as_elements(np.array(np.nan), element)
    bias = xp.zeros(8, np.float32)
    y = result_of(tensor_core.conv2d_forward(xp.asarray(x), xp.asarray(w), bias=bias, relu=True))
    assert np.isnan(y[0, 1, 1]).all()
    assert not np.isnan(y[0, :, 0]).any()


def integers(rng, element, *shapes):
    """Few different ones, so that sums are exact, and many windows have several maxima."""
    return [as_elements(rng.integers(-1, 2, shape), element) for shape in shapes]


POOLINGS = {
    "3x3 by 2": Pooling((3, 3), 2),
    "3x3 by 2, up": Pooling((3, 3), 2, rounding="ceil"),
    "2x2 by 2": Pooling((2, 2), 2),
    "padded": Pooling((3, 2), 2, (1, 2, 1, 0), "ceil"),
    "with gaps": Pooling((1, 2), 3, rounding="ceil"),
    "overlapping": Pooling((4, 5), 1, (3, 0, 0, 4)),
}


@pytest.mark.parametrize("pool", POOLINGS.values(), ids=POOLINGS.keys())
@pytest.mark.parametrize(("filters", "groups"), [(72, 1), (9, 2)])
@over_elements
def test_maxima_and_switches(xp, rng, monkeypatch, element, filters, groups, pool):
    monkeypatch.setitem(TILES, POOLED_FPROP, (tensor_core.NARROW,))
    geometry = Geometry((21, 26), (3, 2), 1, (1, 0, 1, 1))
    check_pooling(xp, rng, element, geometry, pool, 8, filters, groups)


def test_maxima_on_large_tiles_and_with_strides(xp, rng, monkeypatch):
    monkeypatch.setitem(TILES, POOLED_FPROP, (LARGE,))
    geometry = Geometry((47, 40), (3, 3), 2, (0, 1, 2, 0), "ceil")
    check_pooling(xp, rng, BFLOAT16, geometry, Pooling((3, 3), 2, rounding="ceil"), 8, 136, 1)


def check_pooling(xp, rng, element, geometry, pool, channels, filters, groups):
    x, w = integers(rng, element, *shapes(2, geometry, channels, filters, groups)[:2])
    x[1, 7, 5, 3] = as_elements(np.array(np.nan), element)
    bias = rng.integers(-3, 3, len(w)).astype(np.float32)
    where: Placement = (geometry.stride, geometry.padding, groups, geometry.rounding)
    with np.errstate(invalid="ignore"):
        convolved = np.maximum(definition.conv2d_forward(numbers(x), numbers(w), *where) + bias, 0)
    expected = max_pool2d_forward(convolved, pool.window, pool.stride, pool.padding, pool.rounding)
    y, switches = tensor_core.conv2d_pool_forward(xp.asarray(x), xp.asarray(w), xp.asarray(bias), *where, pool)
    assert [y.dtype.name, switches.dtype.name] == [np.dtype(element).name, "uint8"]
    np.testing.assert_array_equal(result_of(y), expected[0])
    np.testing.assert_array_equal(to_host(switches), expected[1])


def test_windows_that_no_small_tile_can_see(cupy):
    x, w = cupy.zeros((1, 20, 20, 8), np.uint16), cupy.zeros((8, 1, 1, 8), np.uint16)
    with pytest.raises(ValueError, match="does not fit into every tile"):
        tensor_core.conv2d_pool_forward(x, w, cupy.zeros(8, np.float32), *PLAIN, Pooling((13, 10), 1))


# ---- linear layers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "inputs", "outputs"), [(1, 8, 8), (70, 136, 72), (3, 13, 10)])
@over_elements
def test_linear_layers(xp, rng, element, images, inputs, outputs):
    x, w, dy = draw(rng, element, (images, inputs), (outputs, inputs), (images, outputs))
    doubled_x, doubled_w, doubled_dy = (numbers(each) for each in (x, w, dy))
    x, w, dy = (xp.asarray(each) for each in (x, w, dy))
    assert_agrees(tensor_core.linear_forward(x, w), doubled_x @ doubled_w.T)
    assert_agrees(tensor_core.linear_backward_input(dy, w), doubled_dy @ doubled_w)
    out = xp.empty((outputs, inputs), np.float32)
    assert tensor_core.linear_backward_weights(dy, x, out=out) is out
    assert_agrees(out, doubled_dy.T @ doubled_x)


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "filters"), [(8, 16), (5, 3)])
def test_filters_gradient_in_memory_that_is_given(xp, rng, channels, filters):
    """Anywhere: gradients lie one behind the other."""
    x, dy = draw(rng, BFLOAT16, (2, 4, 4, channels), (2, 2, 2, filters))
    shape = filters, 3, 3, channels
    everything = xp.zeros(math.prod(shape) + 2, np.float32)
    out = everything[1:-1].reshape(shape)
    assert tensor_core.conv2d_backward_filters(xp.asarray(dy), xp.asarray(x), shape, out=out) is out
    expected = definition.conv2d_backward_filters(numbers(dy), numbers(x), shape)
    assert_agrees(everything[1:-1].reshape(shape), expected)
    assert not to_host(everything)[[0, -1]].any()


@over_elements
def test_arrays_that_begin_anywhere_or_have_strides(xp, rng, element):
    geometry = Geometry((4, 5), (3, 2))
    arrays = draw(rng, element, *shapes(2, geometry, 8, 8))
    expected = [to_host(result) for result in all_three(*(xp.asarray(each) for each in arrays))]
    shifted = [xp.asarray(np.insert(each, 0, 0))[1:].reshape(each.shape) for each in arrays]
    strided = [xp.asarray(np.repeat(each, 2, axis=1))[:, ::2] for each in arrays]
    for given in (shifted, strided):
        for result, bits in zip(all_three(*given), expected, strict=True):
            np.testing.assert_array_equal(to_host(result), bits)


def all_three(x, w, dy, **where):
    yield tensor_core.conv2d_forward(x, w, **where)
    yield tensor_core.conv2d_backward_input(dy, w, x.shape, **where)
    yield tensor_core.conv2d_backward_filters(dy, x, w.shape, **where)


def test_other_arrays_are_refused(cupy):
    def zeros(*shape, dtype=np.uint16):
        return cupy.zeros(shape, dtype)

    x, w, dy = zeros(2, 5, 5, 8), zeros(16, 3, 3, 8), zeros(2, 3, 3, 16)
    floats = zeros(16, dtype=np.float32)
    no_bias: Any = None
    refused = [
        lambda: tensor_core.conv2d_forward(x.astype(np.float64), w),
        lambda: tensor_core.conv2d_forward(x, w.astype(np.float32)),
        lambda: tensor_core.conv2d_forward(x, zeros(16, 3, 3, 4)),
        lambda: tensor_core.conv2d_forward(x, w, bias=floats[:8]),
        lambda: tensor_core.conv2d_forward(x, w, bias=zeros(16)),
        lambda: tensor_core.conv2d_backward_input(dy, w, (2, 6, 5, 8)),
        lambda: tensor_core.conv2d_backward_input(dy.astype(np.float32), w, x.shape),
        lambda: tensor_core.conv2d_backward_filters(dy, x, (8, 3, 3, 8)),
        lambda: tensor_core.conv2d_backward_filters(dy, x, w.shape, out=w),
        lambda: tensor_core.linear_forward(x, w),
        lambda: tensor_core.linear_backward_input(dy[:, 0, 0], w[:, 0, 0, :4].T),
        lambda: tensor_core.linear_backward_weights(dy[:, 0, 0], x[:1, 0, 0]),
        lambda: tensor_core.linear_backward_weights(dy[:, 0, 0], x[:, 0, 0], out=zeros(8, 16, dtype=np.float32).T),
    ]
    for call in refused:
        with pytest.raises(TypeError):
            call()
    with pytest.raises(TypeError, match=r"bias is None, and has to be float32 \(16\)"):
        tensor_core.conv2d_pool_forward(x, w, no_bias, *PLAIN, Pooling((2, 2), 1))
    with pytest.raises(TypeError, match="w is on the CPU, and has to be on the GPU"):
        tensor_core.conv2d_forward(x, to_host(w))
    with pytest.raises(ValueError, match="groups"):
        tensor_core.conv2d_forward(zeros(1, 5, 5, 24), w, groups=3)


# ---- the choice of tiles and parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", {tile for tiles in ORIGINAL.values() for tile in tiles}, ids=str)
def test_a_tile_fits_into_the_shared_memory_of_an_sm_80(tile):
    assert tile.shared_bytes <= emulator.MOST_SHARED


@pytest.mark.parametrize("problem", ORIGINAL)
def test_every_problem_has_a_tile_for_gpus_with_little_shared_memory(problem):
    assert min(tile.shared_bytes for tile in ORIGINAL[problem]) <= LITTLE_SHARED


def test_pooling_where_there_is_little_shared_memory(cupy, rng, monkeypatch):
    monkeypatch.setitem(cupy.cuda.Device.attributes, "MaxSharedMemoryPerBlockOptin", LITTLE_SHARED)
    monkeypatch.setitem(TILES, POOLED_FPROP, ORIGINAL[POOLED_FPROP])
    monkeypatch.setattr(convolution_tile, "_gpu", convolution_tile._gpu.__wrapped__)
    launch, launched = tensor_core._launch, []

    def recording(problem, tile, *args, **kwargs):
        launched.append(tile.shared_bytes)
        launch(problem, tile, *args, **kwargs)

    monkeypatch.setattr(tensor_core, "_launch", recording)
    geometry = Geometry((13, 14), (3, 3), 1, (1, 1, 1, 1))
    check_pooling(cupy, rng, BFLOAT16, geometry, Pooling((3, 3), 2, rounding="ceil"), 8, 136, 1)
    assert launched
    assert max(launched) <= LITTLE_SHARED


def test_every_part_has_stages():
    for steps in range(200):
        parts = parts_of_sums(ORIGINAL[WGRAD], Matrices(64, 64, steps))
        of_part = -(-steps // parts)
        assert parts == max(1, -(-steps // max(of_part, 1)))


def test_the_rectangle_of_a_pooling_fits_into_the_tile():
    for rows in (64, 256):
        for size in range(1, 30):
            for pool in POOLINGS.values():
                high, wide = tensor_core._rectangle(rows, (size, 31 - size), pool)
                seen = [(n - 1) * pool.stride + window for n, window in zip((high, wide), pool.window, strict=True)]
                assert 1 <= high <= size
                assert 1 <= wide <= 31 - size
                assert math.prod(seen) <= rows


# ---- bugs that must be found -----------------------------------------------------------------------------------------

BUGS = {
    "no wait": ("cp_async_wait<STAGES - 2>();", ""),
    "no barrier in the loop": ("__syncthreads();  // now", "// now"),
    "no barrier before the sums": ("__syncthreads();  // all have left", "// all have left"),
    "no barrier behind the sums": ("__syncthreads();  // all have written", "// all have written"),
    "no group behind the last stage": ("        cp_async_commit();", "        if (step < steps) cp_async_commit();"),
    "fragments of b like those of a": ("BTile::template load<B>", "BTile::template load<A>"),
    "pixels of the next row": ("is_inside(w[i] + s, of.W)", "true"),
    "weights of the next filter": ("row < rows && position < weights", "row < rows"),
}


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
def test_planted_bugs_are_found(cupy, rng, monkeypatch, bug):
    written_out = compile.written_out
    assert written_out(Path(tensor_core.__file__).with_name(tensor_core.SOURCE)).count(bug[0]) == 1
    monkeypatch.setattr(compile, "written_out", lambda path: written_out(path).replace(*bug))
    monkeypatch.setattr(tensor_core, "kernel", compile.kernel.__wrapped__)
    geometry = Geometry((9, 8), (3, 3), 1, (1, 1, 1, 1))
    x, w, _ = draw(rng, BFLOAT16, *shapes(1, geometry, 32, 15))  # the sums overwrite the last stage
    expected = definition.conv2d_forward(numbers(x), numbers(w), padding=geometry.padding)
    wrong = []
    for backwards in (False, True):
        monkeypatch.setattr(emulator, "backwards", backwards)
        try:
            y = tensor_core.conv2d_forward(cupy.asarray(x), cupy.asarray(w), padding=geometry.padding)
            assert_agrees(y, expected)
        except (AssertionError, RuntimeError):
            wrong.append(backwards)
    assert wrong
