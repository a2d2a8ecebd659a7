"""The CUDA kernel against the definition, on the CPU; on a GPU too where there is one."""

from dataclasses import replace

import numpy as np
import pytest

from npconvnet.backend import to_host, why_no_gpu
from npconvnet.kernels import Views
from npconvnet.kernels.cpu.augment import augment as definition
from npconvnet.kernels.cuda.augment import augment
from tests.cuda_on_cpu import emulator
from tests.kernels.test_augment import MEAN, STD, draw

#: N, H, W, crop: one row of 96 numbers is what a block takes in one round.
SHAPES = [(1, 1, 1, 1), (3, 5, 9, 4), (2, 31, 40, 31), (2, 40, 32, 32), (2, 33, 33, 33), (1, 70, 70, 65)]

both_orders = pytest.mark.parametrize("backwards", [False, True])
over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
over_means = pytest.mark.parametrize("mean_is_image", [False, True])


def check(cupy, images, views, crop, mean, std):
    result = augment(cupy.asarray(images), views, crop, cupy.asarray(mean), cupy.asarray(std))
    assert isinstance(result, cupy.ndarray)
    expected = definition(images, views, crop, mean, std)
    assert result.dtype == expected.dtype
    np.testing.assert_allclose(to_host(result), expected, rtol=1e-6, atol=1e-7)


@both_orders
@over_shapes
@over_means
def test_it_computes_what_the_definition_does(cupy, rng, monkeypatch, backwards, shape, mean_is_image):
    monkeypatch.setattr(emulator, "backwards", backwards)
    check(cupy, *draw(rng, shape, mean_is_image))


@pytest.mark.gpu
@over_shapes
@over_means
def test_it_does_so_on_a_gpu(rng, shape, mean_is_image):
    if reason := why_no_gpu():
        pytest.skip(reason)
    check(pytest.importorskip("cupy"), *draw(rng, shape, mean_is_image))


@over_means
def test_random_shapes(cupy, rng, mean_is_image):
    for _ in range(30):
        crop = int(rng.integers(1, 40))
        height, width = rng.integers(crop, 50, 2)
        check(cupy, *draw(rng, (int(rng.integers(1, 6)), height, width, crop), mean_is_image))


@both_orders
def test_no_pictures(cupy, rng, monkeypatch, backwards):
    monkeypatch.setattr(emulator, "backwards", backwards)
    check(cupy, *draw(rng, (0, 8, 9, 4), True))


def test_arrays_that_are_not_contiguous(cupy, rng):
    images, views, crop, mean, std = draw(rng, (4, 12, 14, 8), True)
    arrays = [cupy.asarray(images)[:, :, ::-1], cupy.asarray(mean).transpose(1, 0, 2), cupy.asarray(std)[::-1]]
    result = augment(arrays[0], views, crop, *arrays[1:])
    expected = definition(images[:, :, ::-1], views, crop, mean.transpose(1, 0, 2), std[::-1])
    np.testing.assert_allclose(to_host(result), expected, rtol=1e-6, atol=1e-7)


def test_more_bytes_than_an_int_counts(cupy, rng):
    """Of 2.2 GB, which are never written, the last picture; the system lends no memory for the others."""
    count, size, crop = 11_000, 256, 1
    images, views, _, _, _ = draw(rng, (1, size, size, crop), False)
    many = cupy.zeros((count, size, size, 3), np.uint8)
    assert many.nbytes > 2**31
    many[-1] = cupy.asarray(images[0])
    all_views = Views.plain(*(np.repeat(x, count) for x in (views.top, views.left, views.reflect)))
    result = to_host(augment(many, all_views, crop, cupy.asarray(MEAN), cupy.asarray(STD)))
    plain = replace(views, colour=np.zeros((1, 3), np.float32), erased=np.zeros((1, 4), int))
    np.testing.assert_allclose(result[-1:], definition(images, plain, crop, MEAN, STD), rtol=1e-6)
    np.testing.assert_allclose(result[:-1], np.broadcast_to(-MEAN / STD, result[:-1].shape), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["views"].top.__setitem__(1, 5), "beyond"),
        (lambda c: c["views"].left.__setitem__(1, 7), "beyond"),
        (lambda c: c["views"].left.__setitem__(0, -1), "beyond"),
        (lambda c: c.update(crop=13), "do not fit"),
        (lambda c: c.update(crop=13, mean=c["std"]), "beyond"),
        (lambda c: c.update(images=c["images"][:2]), "3 views of 2"),
        (lambda c: c.update(images=c["images"][:, :, :, :1]), "uint8"),
        (lambda c: c.update(images=c["images"].astype(np.float32)), "uint8"),
        (lambda c: c.update(mean=c["mean"][0]), "do not fit"),
        (lambda c: c.update(std=c["std"][:2]), "do not fit"),
    ],
)
def test_what_would_read_beside_its_arrays_is_refused(cupy, rng, change, message):
    images, views, crop, mean, std = draw(rng, (3, 12, 14, 8), True)
    call = {"images": cupy.asarray(images), "views": views, "crop": crop}
    call |= {"mean": cupy.asarray(mean), "std": cupy.asarray(std)}
    change(call)
    with pytest.raises(ValueError, match=message):
        augment(**call)
