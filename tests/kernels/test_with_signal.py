"""Filters without a signal are left out where most are; what is sent back does not change."""

import numpy as np
import pytest

from npconvnet import kernels
from npconvnet.kernels.cpu import with_signal
from npconvnet.layers import BackwardOptions, Conv2d
from tests.conftest import assert_close, distinct

LOOK, FILTERS = 8, 12


@pytest.fixture(autouse=True)
def look(monkeypatch):
    monkeypatch.setattr(with_signal, "LOOK", LOOK)


def sent_to(lit, rng, images=2):
    """dy (N, 5, 4, K) that is zero but for the filters `lit`."""
    dy = np.zeros((images, 5, 4, FILTERS))
    dy[..., lit] = distinct(rng, dy.shape)[..., lit]
    return dy


@pytest.mark.parametrize("lit", [[3], [0, 11], [1, 2, 4, 8, 10]], ids=str)
def test_the_filters_with_a_signal_stay(rng, lit):
    dy, y, w = sent_to(lit, rng), rng.standard_normal((2, 5, 4, FILTERS)), rng.standard_normal((FILTERS, 1, 1, LOOK))
    for own, whole, axis in zip(kernels.with_signal(dy, y, w), (dy, y, w), (3, 3, 0), strict=True):
        np.testing.assert_array_equal(own, whole.take(lit, axis))
    assert kernels.with_signal(dy, None, w)[1] is None


@pytest.mark.parametrize("lit", [[], list(range(6)), list(range(FILTERS))], ids=str)
def test_all_stay_where_half_of_them_have_one_or_none_has(rng, lit):
    arrays = sent_to(lit, rng), sent_to([0], rng), rng.standard_normal((FILTERS, 1, 1, LOOK))
    assert all(own is whole for own, whole in zip(kernels.with_signal(*arrays), arrays, strict=True))


def test_nobody_looks_where_there_are_few_channels_or_filters_or_on_a_gpu(rng, cupy):
    dy = sent_to([3], rng)
    for filters, channels in ((FILTERS, LOOK - 1), (LOOK - 1, LOOK)):
        w = rng.standard_normal((filters, 1, 1, channels))
        assert kernels.with_signal(dy[..., :filters], None, w)[2] is w
    on_gpu = cupy.asarray(dy)
    assert kernels.with_signal(on_gpu, None, cupy.asarray(rng.standard_normal((FILTERS, 1, 1, LOOK))))[0] is on_gpu


@pytest.mark.parametrize("lit", [[], [3], [2, 7]], ids=str)
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("rule", ["gradient", "deconvnet", "guided"])
@pytest.mark.parametrize("window", [1, 3])
def test_a_convolution_sends_the_same_back(rng, lit, images, rule, window):
    conv = Conv2d(LOOK, FILTERS, window, padding=window // 2).with_relu()
    for parameter in conv.parameters.values():
        parameter[...] = rng.standard_normal(parameter.shape)
    conv.parameters = {key: value.astype(np.float64) for key, value in conv.parameters.items()}
    _, saved = conv.forward(rng.standard_normal((images, 5, 4, LOOK)))
    dy = sent_to(lit, rng, images)
    dx, gradients = conv.backward(dy, saved, BackwardOptions(parameter_gradients=False, relu_rule=rule))
    expected, _ = conv.backward(dy, saved, BackwardOptions(relu_rule=rule))
    assert not gradients
    assert_close(dx, expected)


def test_groups_of_filters_stay_together(rng):
    conv = Conv2d(2 * LOOK, FILTERS, 1, groups=2)
    conv.parameters["weight"][...] = rng.standard_normal(conv.parameters["weight"].shape)
    dy = sent_to([3], rng).astype(np.float32)
    _, saved = conv.forward(rng.standard_normal((2, 5, 4, 2 * LOOK), np.float32))
    dx, _ = conv.backward(dy, saved, BackwardOptions(parameter_gradients=False))
    assert_close(dx, conv.backward(dy, saved)[0])
