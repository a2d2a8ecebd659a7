"""The random choices of training: in range, switchable one by one, and each image its own."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import chisquare, kstest, norm, uniform

from npconvnet.data.augment import Augmentation, ColourStatistics
from npconvnet.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(resize=73, crop=64)
COMPONENTS = np.diag([10.0, 5.0, 1.0])
PLACES = [(0, 0), (0, 1), (1, 0), (2**70, 0)]


def draw(augmentation, count=200, components=COMPONENTS):
    return augmentation.draw(0, 0, np.arange(count), PREPROCESSING, components)


def test_everything_varies_and_stays_in_range():
    views = draw(Augmentation())
    for start in (views.top, views.left):
        assert (start.min(), start.max()) == (0, 73 - 64)
    assert 60 < views.reflect.sum() < 140
    erased = (views.erased[:, 2] > views.erased[:, 0]).sum()
    assert 60 < erased < 140
    assert views.erased.min() >= 0
    assert views.erased.max() <= 64
    np.testing.assert_allclose(views.colour.std(axis=0), [1.0, 0.5, 0.1], rtol=0.2)


@pytest.mark.parametrize("name", ["crop", "reflect", "colour", "erase"])
def test_each_can_be_switched_off_and_leaves_the_others(name):
    everything = draw(Augmentation())
    without = draw(Augmentation(**{name: False}))
    still = {
        "crop": (without.top == 4).all() and (without.left == 4).all(),
        "reflect": not without.reflect.any(),
        "colour": not without.colour.any(),
        "erase": not without.erased.any(),
    }
    assert [key for key, value in still.items() if value] == [name]
    fields = {"crop": ("top", "left"), "reflect": ("reflect",), "colour": ("colour",), "erase": ("erased",)}
    for field in (f.name for f in dataclasses.fields(everything)):
        if field not in fields[name]:
            np.testing.assert_array_equal(getattr(without, field), getattr(everything, field))


def test_an_image_is_varied_in_the_same_way_in_any_batch():
    alone = Augmentation().draw(0, 0, np.array([7]), PREPROCESSING, COMPONENTS)
    together = draw(Augmentation(), 10)
    for field in (f.name for f in dataclasses.fields(alone)):
        np.testing.assert_array_equal(getattr(alone, field)[0], getattr(together, field)[7])


def test_chances_are_spread_as_they_should():
    views = draw(Augmentation(), 20_000)
    for start in (views.top, views.left):
        assert chisquare(np.bincount(start)).pvalue > 0.01
    erased = views.erased[views.erased[:, 2] > 0]
    for begin in (0, 1):
        sides = erased[:, begin + 2] - erased[:, begin]
        assert (sides.min(), sides.max()) == (6, 26)  # 10% and 40% of 64
        assert kstest((sides + np.linspace(-0.5, 0.5, len(sides))) / 64, uniform(0.1, 0.3).cdf).pvalue > 0.001
    colours = views.colour / np.sqrt(np.diag(np.cov(views.colour.T)))
    assert all(kstest(colour, norm.cdf).pvalue > 0.01 for colour in colours.T)
    np.testing.assert_allclose(np.corrcoef(colours.T), np.eye(3), atol=0.03)


def test_epochs_and_seeds_differ():
    drawn = [Augmentation().draw(seed, epoch, np.arange(9), PREPROCESSING, COMPONENTS) for seed, epoch in PLACES]
    assert len({views.top.tobytes() + views.colour.tobytes() for views in drawn}) == len(PLACES)


def test_colour_statistics():
    rng = np.random.default_rng(0)
    pixels = np.clip(rng.normal([100, 120, 140], [30, 20, 10], (50, 50, 3)), 0, 255).astype(np.uint8)
    statistics = ColourStatistics.of([pixels[:25], pixels[25:]])
    np.testing.assert_allclose(statistics.mean, pixels.reshape(-1, 3).mean(axis=0))
    np.testing.assert_allclose(statistics.std, pixels.reshape(-1, 3).std(axis=0))
    np.testing.assert_allclose(statistics.components @ statistics.components.T, statistics.covariance, atol=1e-9)
    normalised = statistics.normalising(PREPROCESSING)
    assert normalised.mean == tuple(statistics.mean)
    assert (normalised.resize, normalised.crop) == (73, 64)


def test_one_colour_alone_can_still_be_normalised():
    statistics = ColourStatistics.of([np.full((4, 4, 3), 9, np.uint8)])
    assert statistics.std.tolist() == [1, 1, 1]
