"""Convolutions by wgmma against the definition in float64, through the functions of conv2d_tensor_core.py."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from npconvnet.backend import to_host
from npconvnet.kernels import Views
from npconvnet.kernels.cpu import conv2d as definition
from npconvnet.kernels.cpu import linear
from npconvnet.kernels.cuda import compile, conv2d_wgmma, convolution_tile
from npconvnet.kernels.cuda import conv2d_tensor_core as tensor_core
from npconvnet.kernels.cuda.conv2d_tensor_core import SMALL
from npconvnet.kernels.cuda.conv2d_wgmma import TALL, WIDE
from npconvnet.kernels.cuda.convolution_tile import DGRAD, FPROP, WGRAD, Matrices, parts_of_sums
from npconvnet.models import MODELS
from npconvnet.preprocessing import Preprocessing
from npconvnet.randomness import Chances, Purpose
from npconvnet.training.captured_step import CapturedStep
from npconvnet.training.optimizer import SGD
from tests.cuda_on_cpu import emulator
from tests.cuda_on_cpu.warpgroup_product import warpgroup_product
from tests.kernels.cuda.capturing import replayed
from tests.kernels.cuda.test_conv2d_tensor_core import (
    BFLOAT16,
    all_three,
    assert_agrees,
    draw,
    numbers,
    shapes,
)
from tests.kernels.geometry import TABLE, Geometry

#: Bytes of shared memory that a block of an sm_90 may have.
MOST_SHARED = 227 << 10

GEOMETRIES = {name: geometry for name, geometry in TABLE.items() if geometry.stride == 1} | {
    "several tiles of rows": Geometry((19, 15), (3, 2), padding=(1, 0, 0, 1)),
    "more padding than window": Geometry((3, 4), (2, 1), padding=(4, 3, 2, 5)),
}
over_geometries = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())


@pytest.fixture(autouse=True)
def launched(monkeypatch):
    """The problems that were multiplied by wgmma: all that may be."""
    planned, problems = conv2d_wgmma.planned, []

    def recording(problem, *args):
        problems.append(problem)
        return planned(problem, *args)

    monkeypatch.setattr(conv2d_wgmma, "planned", recording)
    for problem in conv2d_wgmma.PROBLEMS:
        monkeypatch.setitem(tensor_core.TILES, problem, (SMALL,))  # of the others, which compile fast so
    with tensor_core.using_wgmma():
        yield problems


@pytest.fixture
def left(monkeypatch):
    """The problems that were left to the other kernel: it has tests of its own, and here leaves results as they are."""
    problems = []

    def recording(problem, *args):
        problems.append(problem)
        return 1, lambda **arrays: None

    monkeypatch.setattr(tensor_core, "_planned", recording)
    return problems


@pytest.fixture
def xp(xp):
    if not conv2d_wgmma.runs_on(xp):
        pytest.skip("this GPU is not of compute capability 9.0")
    return xp


def only(tile, monkeypatch):
    for problem in (FPROP, DGRAD):
        monkeypatch.setitem(conv2d_wgmma.TILES, problem, (tile,))


NAMES, TILE_NAMES = {FPROP: "fprop", DGRAD: "dgrad", WGRAD: "wgrad"}, {WIDE: "wide", TALL: "tall"}
over_problems = pytest.mark.parametrize("problem", NAMES, ids=NAMES.values())
over_variants = pytest.mark.parametrize(
    ("problem", "tile"),
    [
        pytest.param(problem, tile, id=f"{NAMES[problem]}-{TILE_NAMES[tile]}")
        for problem, tiles in conv2d_wgmma.TILES.items()
        for tile in tiles
    ],
)


def solve(problem, by, x, w, dy, **where):
    """One problem alone, by the functions of the module `by`: `definition` and `tensor_core` have the same."""
    if problem == FPROP:
        return by.conv2d_forward(x, w, **where)
    if problem == DGRAD:
        return by.conv2d_backward_input(dy, w, x.shape, **where)
    return by.conv2d_backward_filters(dy, x, w.shape, **where)


def check(xp, problem, *arrays, **where):
    result = solve(problem, tensor_core, *(xp.asarray(each) for each in arrays), **where)
    assert result.dtype == (np.float32 if problem == WGRAD else BFLOAT16)
    assert_agrees(result, solve(problem, definition, *(numbers(each) for each in arrays), **where))


# ---- the instructions alone ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("b_lies", [False, True], ids=["b stands", "b lies"])
@pytest.mark.parametrize("a_lies", [False, True], ids=["a stands", "a lies"])
def test_products_of_matrices(xp, rng, a_lies, b_lies):
    """By a small kernel that has boxes copied, and no columns of pixels: the same descriptors, barriers and products.

    With columns and lengths that are no multiple of a tile's: the copies bring zeros.
    """
    for rows, columns, length in (128, 296, 8), (256, 256, 64), (128, 24, 328):
        a, b = draw(rng, BFLOAT16, (rows, length), (columns, length))
        assert_agrees(warpgroup_product(xp, a, b, a_lies, b_lies), numbers(a) @ numbers(b).T)


# ---- fprop, dgrad and wgrad ------------------------------------------------------------------------------------------


@over_variants
@over_geometries
def test_each_is_the_definition(xp, rng, monkeypatch, launched, geometry, problem, tile):
    only(tile, monkeypatch)
    check(xp, problem, *draw(rng, BFLOAT16, *shapes(2, geometry, 16, 8)), padding=geometry.padding)
    assert launched == [problem]


@over_variants
@pytest.mark.parametrize(("channels", "filters"), [(64, 128), (72, 264), (264, 8), (3, 70), (65, 1)])
def test_any_number_of_channels_and_filters(xp, rng, monkeypatch, launched, channels, filters, problem, tile):
    only(tile, monkeypatch)
    geometry = Geometry((5, 4), (3, 2), padding=(1, 0, 1, 1))
    check(xp, problem, *draw(rng, BFLOAT16, *shapes(3, geometry, channels, filters)), padding=geometry.padding)
    assert launched == [problem]


@pytest.mark.parametrize("problem", [FPROP, DGRAD], ids=["fprop", "dgrad"])
@pytest.mark.parametrize("channels", [24, 72])
def test_no_bit_depends_on_the_tile(xp, rng, monkeypatch, channels, problem):
    geometry = Geometry((12, 11), (3, 3), padding=(1, 1, 1, 1))
    arrays = [xp.asarray(each) for each in draw(rng, BFLOAT16, *shapes(1, geometry, channels, 264))]

    def result(tile):
        only(tile, monkeypatch)
        return to_host(solve(problem, tensor_core, *arrays, padding=geometry.padding))

    np.testing.assert_array_equal(result(WIDE), result(TALL))


@over_problems
def test_sums_in_parts(xp, rng, launched, problem):
    """The reduction of each is long in one of these."""
    geometry = Geometry((16, 15), (3, 3), 1, (1, 1, 1, 1))
    assert parts_of_sums(conv2d_wgmma.TILES[WGRAD], Matrices(8, 9 * 64, 15)) > 1
    check(xp, problem, *draw(rng, BFLOAT16, *shapes(4, geometry, 8, 8)), padding=geometry.padding)
    x, w, dy = draw(rng, BFLOAT16, (5, 1600), (7, 1600), (5, 7))
    check(xp, problem, x.reshape(5, 1, 1, -1), w.reshape(7, 1, 1, -1), dy.reshape(5, 1, 1, -1))
    check(xp, problem, dy.reshape(5, 1, 1, -1), w.T.reshape(1600, 1, 1, -1), x.reshape(5, 1, 1, -1))
    assert launched == 3 * [problem]


@over_problems
def test_reruns_have_the_same_bits(xp, rng, problem):
    arrays = [xp.asarray(each) for each in draw(rng, BFLOAT16, (40, 1, 1, 640), (48, 1, 1, 640), (40, 1, 1, 48))]
    first, second = (to_host(solve(problem, tensor_core, *arrays)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@over_problems
@pytest.mark.parametrize(("images", "inputs", "outputs"), [(1, 8, 8), (200, 136, 72), (3, 13, 10)])
def test_linear_layers(xp, rng, launched, images, inputs, outputs, problem):
    x, w, dy = draw(rng, BFLOAT16, (images, inputs), (outputs, inputs), (images, outputs))
    name, a, b = {
        FPROP: ("linear_forward", x, w),
        DGRAD: ("linear_backward_input", dy, w),
        WGRAD: ("linear_backward_weights", dy, x),
    }[problem]
    result = getattr(tensor_core, name)(xp.asarray(a), xp.asarray(b))
    assert_agrees(result, getattr(linear, name)(numbers(a), numbers(b)))
    assert launched == [problem]


@pytest.mark.parametrize(("filters", "relu"), [(10, True), (72, False), (72, True)])
@pytest.mark.parametrize("length", [24, 1600], ids=["at once", "in parts"])
def test_bias_and_relu(xp, rng, launched, length, filters, relu):
    x, w = draw(rng, BFLOAT16, (5, length), (filters, length))
    bias = 10 * rng.standard_normal(filters).astype(np.float32)
    expected = numbers(x) @ numbers(w).T + bias
    expected = np.maximum(expected, 0) if relu else expected
    for dtype in [np.uint16, np.float32]:
        y = tensor_core.linear_forward(xp.asarray(x), xp.asarray(w), bias=xp.asarray(bias), relu=relu, dtype=dtype)
        assert y.dtype == dtype
        assert_agrees(y, expected)
    assert launched == [FPROP, FPROP]


# ---- what it is for --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", conv2d_wgmma.PROBLEMS)
def test_which_convolutions_it_is_for(problem):
    def suits(geometry, groups=1, element=BFLOAT16):
        x_shape, w_shape, _ = shapes(2, geometry, 8, 8, groups)
        where = geometry.stride, geometry.padding, groups, geometry.rounding
        return conv2d_wgmma.suits(problem, tensor_core._fields(x_shape, w_shape, *where), element)

    assert suits(Geometry((27, 27), (5, 5), padding=(2, 2, 2, 2)))
    assert suits(Geometry((1, 1), (1, 1)))
    assert not suits(Geometry((27, 27), (5, 5), stride=2))
    assert not suits(Geometry((27, 27), (5, 5)), groups=2)
    assert not suits(Geometry((27, 27), (5, 5)), element=np.dtype(np.float32))
    assert suits(Geometry((2, 130), (128, 128), padding=(128, 127, 0, 0)))  # all that an im2col map can say
    assert not suits(Geometry((2, 2), (2, 1), padding=(0, 131, 0, 0)))
    assert not suits(Geometry((2, 130), (2, 129)))


def test_no_images(xp, launched, left):
    """There is no map of none."""
    arrays = (xp.zeros(shape, np.uint16) for shape in [(0, 5, 5, 8), (8, 3, 3, 8), (0, 3, 3, 8)])
    list(all_three(*arrays))
    assert left == [WGRAD]  # which is zeros
    assert not launched


def test_other_gpus_are_left_to_the_other_kernel(cupy, monkeypatch, launched, left):
    monkeypatch.setattr(convolution_tile, "_gpu", convolution_tile._gpu.__wrapped__)
    monkeypatch.setattr(cupy.cuda.Device, "compute_capability", "100")
    arrays = (cupy.zeros(shape, np.uint16) for shape in shapes(2, Geometry((4, 4), (2, 2)), 8, 8))
    list(all_three(*arrays))
    assert (launched, left) == ([], [FPROP, DGRAD, WGRAD])


def test_nothing_is_multiplied_so_unless_asked(xp, launched, left):
    arrays = [xp.zeros(shape, np.uint16) for shape in shapes(2, Geometry((4, 4), (2, 2)), 8, 8)]
    with tensor_core.using_wgmma({DGRAD}):
        list(all_three(*arrays))
    assert (launched, left) == ([DGRAD], [FPROP, WGRAD])
    with tensor_core.using_wgmma(()):
        list(all_three(*arrays))
    assert (launched, left) == ([DGRAD], [FPROP, WGRAD, FPROP, DGRAD, WGRAD])


# ---- memory ----------------------------------------------------------------------------------------------------------


@over_problems
def test_arrays_that_begin_anywhere_or_have_strides(xp, rng, problem):
    arrays = draw(rng, BFLOAT16, *shapes(2, Geometry((4, 5), (3, 2)), 8, 8))
    plain = [xp.asarray(each) for each in arrays]
    shifted = [xp.asarray(np.insert(each, 0, 0))[1:].reshape(each.shape) for each in arrays]
    strided = [xp.asarray(np.repeat(each, 2, axis=1))[:, ::2] for each in arrays]
    bits, *others = (to_host(solve(problem, tensor_core, *given)) for given in (plain, shifted, strided))
    for other in others:
        np.testing.assert_array_equal(other, bits)


def test_a_captured_graph(xp, rng):
    """The maps are parameters, and so in the graph."""
    x, w = (xp.asarray(each) for each in draw(rng, BFLOAT16, (6, 72), (8, 72)))
    expected = to_host(tensor_core.linear_forward(x, w))
    np.testing.assert_array_equal(to_host(replayed(xp, lambda: tensor_core.linear_forward(x, w))), expected)


def test_captured_training_steps(cupy, launched):
    """The first has its launches one by one, the second is a graph's, and the third shows what the graph has learnt."""
    picture_size, count = 73, 2
    rng = np.random.default_rng(1)
    squares = cupy.asarray(rng.integers(0, 256, (count, picture_size, picture_size, 3), np.uint8))
    views, chances = Views.plain([3, 9], [0, 5], [True, False]), Chances.of(np.arange(count), 0, Purpose.DROPOUT, 0)

    def losses():
        network = MODELS["tiny"]()
        network.preprocessing = Preprocessing(picture_size, 64, (120, 120, 120), (60, 60, 60))
        network.initialize(np.random.default_rng(0))
        network.to("gpu")
        step = CapturedStep(network.fused("bfloat16"), SGD(network, 0.9, 5e-4), count)
        return np.array([float(step(squares, views, np.array([1, 2]), chances, 0.001)) for _ in range(3)])

    by_wgmma = losses()
    assert Counter(launched) == {FPROP: 2 * 7, DGRAD: 2 * 7, WGRAD: 2 * 8}  # conv5 is pooled, conv1 has no dgrad
    with tensor_core.using_wgmma(()):
        by_mma = losses()
    np.testing.assert_allclose(by_wgmma, by_mma, rtol=2**-8)
    assert (by_mma[1:] < 0.9 * by_mma[:-1]).all()


@pytest.mark.parametrize("tile", TILE_NAMES, ids=TILE_NAMES.values())
def test_a_tile_fits_into_the_shared_memory_of_an_sm_90(tile):
    assert conv2d_wgmma.shared_bytes(tile) <= MOST_SHARED


# ---- bugs that must be found -----------------------------------------------------------------------------------------
# Those of this kernel alone; others of its protocol are planted in tests/cuda_on_cpu/test_planted_bugs_90.py.

LEAVE = "barrier_arrive(&barriers().empty[(step - 1) % STAGES])"
BUGS = {
    "stages are left one step too early": (FPROP, LEAVE, "barrier_arrive(&barriers().empty[stage])"),
    "stages are left by one warpgroup": (FPROP, "CONSUMERS / 32);", "CONSUMERS / 64);"),
    "sums over operands in use": (FPROP, "    meet(0);", "    barrier_arrive(&barriers().all_consumers);"),
    "sums that are not there yet": (FPROP, "    meet(1);", ""),
    "both warpgroups multiply the same rows": (FPROP, "threadIdx.x / 128 * (A_PANELS / 2)", "0"),
    "steps of a lying tile as of an upright one": (DGRAD, "LYING ? 16 * 128 : 32", "32"),
    "filters are not turned": (DGRAD, "of.S - 1 - tap.s, of.R - 1 - tap.r", "tap.s, tap.r"),
    "panels beyond the last are stored": (WGRAD, "panel.r < of.R ? of.C - c : 0", "of.C - c"),
    "channels of the last panel are left out": (WGRAD, "(of.C + 63) / 64", "of.C / 64"),
}


@pytest.mark.parametrize(("problem", "right", "wrong"), BUGS.values(), ids=BUGS.keys())
def test_planted_bugs_are_found(cupy, rng, monkeypatch, problem, right, wrong):
    written_out = compile.written_out
    assert written_out(Path(conv2d_wgmma.__file__).with_name(conv2d_wgmma.SOURCE)).count(right) == 1
    monkeypatch.setattr(compile, "written_out", lambda path: written_out(path).replace(right, wrong))
    monkeypatch.setattr(conv2d_wgmma, "kernel", compile.kernel.__wrapped__)
    only(WIDE, monkeypatch)
    geometry = Geometry((9, 16), (3, 3), 1, (1, 1, 1, 1))
    arrays = draw(rng, BFLOAT16, *shapes(1, geometry, 72, 72))
    with pytest.raises((AssertionError, RuntimeError)):
        for backwards in (False, True):
            monkeypatch.setattr(emulator, "backwards", backwards)
            check(cupy, problem, *arrays, padding=geometry.padding)
