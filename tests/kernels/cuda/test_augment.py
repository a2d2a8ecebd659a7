"""Augmentation on the GPU against the definition, and the cells of it against the cells of what it makes."""

from dataclasses import replace

import numpy as np
import pytest

from npconvnet.backend import to_host
from npconvnet.kernels import Views
from npconvnet.kernels.cpu.augment import augment as definition
from npconvnet.kernels.cpu.bfloat16 import to_bfloat16
from npconvnet.kernels.cuda import augment as launcher
from npconvnet.kernels.cuda.augment import VIEW, augment, augment_cells, pack_views
from npconvnet.kernels.cuda.space_to_depth import Cells, image_cells
from tests.kernels.test_augment import MEAN, STD, draw

#: N, H, W, crop: one row of 96 numbers is what a block takes in one round.
SHAPES = [(1, 1, 1, 1), (3, 5, 9, 4), (2, 31, 40, 31), (2, 40, 32, 32), (2, 33, 33, 33), (1, 70, 70, 65)]
#: N, H, W, and the cells of the crops: the first convolutions of the models, and some that leave pixels out.
CELLS = {
    "paper": (3, 50, 44, Cells((43, 43), (11, 11), 4)),
    "paper, up": (2, 48, 49, Cells((46, 46), (11, 11), 4, rounding="ceil")),
    "alexnet": (2, 50, 44, Cells((43, 43), (11, 11), 4, (2, 2, 2, 2))),
    "tiny": (3, 21, 20, Cells((16, 16), (5, 5), 2)),
    "vgg": (2, 9, 10, Cells((8, 8), (3, 3), 1, (1, 1, 1, 1))),
    "squeezenet": (1, 15, 18, Cells((15, 15), (3, 3), 2)),
    "padded on one side": (2, 9, 9, Cells((7, 7), (4, 5), 3, (0, 3, 2, 0), "ceil")),
    "gaps between": (2, 12, 12, Cells((11, 11), (2, 2), 4)),
}

over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
over_means = pytest.mark.parametrize("mean_is_image", [False, True])
over_cells = pytest.mark.parametrize(("count", "height", "width", "cells"), CELLS.values(), ids=CELLS.keys())
over_types = pytest.mark.parametrize("dtype", [np.float32, np.uint16])


def check(xp, images, views, crop, mean, std):
    result = augment(xp.asarray(images), views, crop, xp.asarray(mean), xp.asarray(std))
    assert isinstance(result, xp.ndarray)
    expected = definition(images, views, crop, mean, std)
    assert result.dtype == expected.dtype
    np.testing.assert_allclose(to_host(result), expected, rtol=1e-6, atol=1e-7)


@over_shapes
@over_means
def test_it_computes_what_the_definition_does(xp, rng, shape, mean_is_image):
    check(xp, *draw(rng, shape, mean_is_image))


@over_means
def test_random_shapes(xp, rng, mean_is_image):
    for _ in range(30):
        crop = int(rng.integers(1, 40))
        height, width = rng.integers(crop, 50, 2)
        check(xp, *draw(rng, (int(rng.integers(1, 6)), height, width, crop), mean_is_image))


def test_no_pictures(xp, rng):
    check(xp, *draw(rng, (0, 8, 9, 4), True))


def test_arrays_that_are_not_contiguous(xp, rng):
    images, views, crop, mean, std = draw(rng, (4, 12, 14, 8), True)
    arrays = [xp.asarray(images)[:, :, ::-1], xp.asarray(mean).transpose(1, 0, 2), xp.asarray(std)[::-1]]
    result = augment(arrays[0], views, crop, *arrays[1:])
    expected = definition(images[:, :, ::-1], views, crop, mean.transpose(1, 0, 2), std[::-1])
    np.testing.assert_allclose(to_host(result), expected, rtol=1e-6, atol=1e-7)


def test_more_bytes_than_an_int_counts(xp, rng):
    """The last picture of 2.2 GB, which hold nothing else."""
    count, size, crop = 750, 1000, 1
    images, views, _, _, _ = draw(rng, (1, size, size, crop), False)
    many = xp.zeros((count, size, size, 3), np.uint8)
    assert many.nbytes > 2**31
    many[-1] = xp.asarray(images[0])
    all_views = Views.plain(*(np.repeat(x, count) for x in (views.top, views.left, views.reflect)))
    plain = replace(views, colour=np.zeros((1, 3), np.float32), erased=np.zeros((1, 4), int))
    expected = np.broadcast_to(-MEAN / STD, (count, crop, crop, 3)).copy()
    expected[-1:] = definition(images, plain, crop, MEAN, STD)

    mean, std = xp.asarray(MEAN), xp.asarray(STD)
    np.testing.assert_allclose(to_host(augment(many, all_views, crop, mean, std)), expected, rtol=1e-6)
    packed, cells = packed_on_device(xp, all_views, many, crop), Cells((1, 1), (1, 1))
    in_cells = to_host(augment_cells(many, packed, crop, mean, std, cells, np.float32))
    np.testing.assert_allclose(in_cells[..., :3], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda c: c["views"].top.__setitem__(1, 5), ValueError, "beyond"),
        (lambda c: c["views"].left.__setitem__(1, 7), ValueError, "beyond"),
        (lambda c: c["views"].left.__setitem__(0, -1), ValueError, "beyond"),
        (lambda c: c.update(crop=13, mean=c["std"]), ValueError, "beyond"),
        (lambda c: c.update(images=c["images"][:2]), ValueError, "3 views of 2"),
        (lambda c: c.update(crop=13), TypeError, "mean is float32"),
        (lambda c: c.update(images=c["images"][:, :, :, :1]), TypeError, "images is uint8"),
        (lambda c: c.update(images=c["images"].astype(np.float32)), TypeError, "images is float32"),
        (lambda c: c.update(mean=c["mean"][0]), TypeError, "mean is float32"),
        (lambda c: c.update(mean=c["mean"].astype(np.float64)), TypeError, "mean is float64"),
        (lambda c: c.update(std=c["std"][:2]), TypeError, "std is float32"),
    ],
)
def test_what_would_read_beside_its_arrays_is_refused(xp, rng, change, error, message):
    images, views, crop, mean, std = draw(rng, (3, 12, 14, 8), True)
    call = {"images": xp.asarray(images), "views": views, "crop": crop}
    call |= {"mean": xp.asarray(mean), "std": xp.asarray(std)}
    change(call)
    with pytest.raises(error, match=message):
        augment(**call)


# ---- cells -----------------------------------------------------------------------------------------------------------


def draw_on_device(xp, rng, count, height, width, cells, mean_is_image=False):
    """The arguments of `augment`, by their names, and what `augment_cells` takes in place of the views."""
    images, views, crop, mean, std = draw(rng, (count, height, width, cells.size[0]), mean_is_image)
    call = {"images": xp.asarray(images), "views": views, "crop": crop}
    call |= {"mean": xp.asarray(mean), "std": xp.asarray(std)}
    return call, {"views": packed_on_device(xp, views, call["images"], crop)}


def packed_on_device(xp, views, images, crop):
    count, height, width, _ = images.shape
    return xp.asarray(pack_views(views, count, (height - crop, width - crop)).view(np.uint8))


@over_types
@over_means
@over_cells
def test_cells_are_those_of_the_crops_to_the_bit(xp, rng, count, height, width, cells, mean_is_image, dtype):
    call, packed = draw_on_device(xp, rng, count, height, width, cells, mean_is_image)
    expected = to_host(image_cells(augment(**call), cells, dtype))
    result = augment_cells(**call | packed, cells=cells, dtype=dtype)
    assert (result.dtype, result.shape) == (dtype, cells.shape(count))
    np.testing.assert_array_equal(to_host(result), expected)
    assert (expected != 0).any()


def test_cells_are_those_of_the_definition(xp, rng):
    """What is erased, the padding and the channels that fill up a cell are 0, by hand in the one cell of one crop."""
    views = Views.plain([1], [2], [True])
    views.colour[0] = [1, 2, 3]
    views.erased[0] = [1, 0, 2, 1]
    images = rng.integers(0, 256, (1, 4, 5, 3), np.uint8)
    seen = (images[0, 1:3, 2:4][:, ::-1] + views.colour[0].astype(np.float64) - MEAN) / STD
    zero = np.zeros(3)
    cells = Cells((2, 2), (3, 3), 3, (1, 0, 1, 0))
    expected = np.concatenate([*[zero] * 4, *seen[0], zero, zero, seen[1, 1], np.zeros(5)])
    packed = packed_on_device(xp, views, images, 2)
    arguments = xp.asarray(images), packed, 2, xp.asarray(MEAN), xp.asarray(STD), cells
    np.testing.assert_allclose(to_host(augment_cells(*arguments, np.float32)).ravel(), expected, rtol=1e-6, atol=1e-7)
    words = to_host(augment_cells(*arguments, np.uint16)).ravel()
    np.testing.assert_array_equal(words, to_bfloat16(expected.astype(np.float32)))


def test_views_are_read_when_the_kernel_runs(xp, rng):
    """As a captured graph needs it: the same memory, filled anew."""
    cells = CELLS["tiny"][-1]
    call, packed = draw_on_device(xp, rng, *CELLS["tiny"])
    views = call["views"]
    others = Views.plain(views.top[::-1], views.left[::-1], ~views.reflect)
    packed["views"].set(to_host(packed_on_device(xp, others, call["images"], call["crop"])))
    expected = image_cells(augment(**call | {"views": others}), cells, np.uint16)
    result = augment_cells(**call | packed, cells=cells, dtype=np.uint16)
    np.testing.assert_array_equal(to_host(result), to_host(expected))


@over_types
def test_nothing_is_launched_for_no_cells(xp, rng, monkeypatch, dtype):
    monkeypatch.setattr(launcher, "kernel", lambda *args: pytest.fail("CUDA refuses a launch of no blocks"))
    cells = CELLS["paper"][-1]
    call, packed = draw_on_device(xp, rng, 0, 50, 44, cells)
    assert augment_cells(**call | packed, cells=cells, dtype=dtype).shape == cells.shape(0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda c: c.update(crop=42), ValueError, "do not fit"),
        (lambda c: c.update(views=c["views"][1:]), TypeError, "views is uint8"),
        (lambda c: c.update(images=c["images"][:2]), TypeError, "views is uint8"),
        (lambda c: c.update(images=c["images"].astype(np.float32)), TypeError, "images is float32"),
        (lambda c: c.update(mean=c["mean"][:2]), TypeError, "mean is float32"),
        (lambda c: c.update(std=c["std"].astype(np.float64)), TypeError, "std is float64"),
        (lambda c: c.update(dtype=np.float64), TypeError, "not float64"),
        (lambda c: c.update(std=to_host(c["std"])), TypeError, "std is on the CPU"),
    ],
)
def test_what_does_not_fit_to_the_cells_is_refused(xp, rng, change, error, message):
    cells = CELLS["paper"][-1]
    call, packed = draw_on_device(xp, rng, *CELLS["paper"])
    call |= packed | {"cells": cells, "dtype": np.uint16}
    change(call)
    with pytest.raises(error, match=message):
        augment_cells(**call)


def test_packed_views_hold_every_field(rng):
    _, views, *_ = draw(rng, (5, 12, 14, 8), False)
    packed = pack_views(views, 5, (4, 6))
    assert packed.dtype == VIEW
    for name in VIEW.names or ():
        np.testing.assert_array_equal(packed[name], getattr(views, name))
