"""Halves of a batch: the same gradients as the whole, the same bits every time, BLAS left as it was."""

import time
from functools import partial

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from npconvnet import kernels
from npconvnet.models import MODELS
from npconvnet.parallel import in_halves, two_at_once
from npconvnet.randomness import Purpose, generator
from npconvnet.training.step import loss_and_gradients


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.mark.parametrize(("count", "parts"), [(1, [1]), (2, [1, 1]), (5, [2, 3])])
def test_every_image_once_and_in_order(count, parts):
    halves = in_halves(lambda half, a, b: (half, a, b), np.arange(count), np.arange(count) * 10)
    assert [len(a) for _, a, _ in halves] == parts
    assert [half for half, _, _ in halves] == list(range(len(parts)))
    np.testing.assert_array_equal(np.concatenate([a for _, a, _ in halves]), np.arange(count))
    np.testing.assert_array_equal(np.concatenate([b for _, _, b in halves]), np.arange(count) * 10)


def test_blas_is_left_as_it_was():
    before = blas_threads()
    inside = in_halves(lambda _half, _a: blas_threads(), np.zeros(2))
    assert all(max(threads) <= max(before) for threads in inside)
    assert blas_threads() == before


def test_an_error_in_a_half_comes_out():
    def fail(half, _a):
        if half == 1:
            raise ValueError("second half")

    before = blas_threads()
    with pytest.raises(ValueError, match="second half"):
        in_halves(fail, np.zeros(2))
    assert blas_threads() == before


def test_two_at_once_keeps_the_order_and_holds_blas():
    found = two_at_once(lambda item: (item, max(blas_threads())), range(7))
    assert [item for item, _ in found] == list(range(7))
    assert {threads for _, threads in found} == {max(1, max(blas_threads()) // 2)}


def test_an_error_stops_what_has_not_begun():
    begun = []

    def fail(item):
        begun.append(item)
        time.sleep(0.01)
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item"):
        two_at_once(fail, range(100))
    assert len(begun) < 100


def test_arrays_on_a_gpu_stay_whole(cupy):
    (shape,) = in_halves(lambda _half, a: a.shape, cupy.asarray(np.zeros((4, 3))))
    assert shape == (4, 3)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_gradients_of_the_halves_are_those_of_the_batch(count):
    network = MODELS["tiny"](classes=4).astype(np.float64)
    rng = np.random.default_rng(0)
    network.initialize(rng)
    x, labels = rng.standard_normal((count, 64, 64, 3)), rng.integers(0, 4, count)
    loss, gradients = loss_and_gradients(network, x, labels)
    scores, trace = network.forward(x)
    expected, probabilities = kernels.softmax_cross_entropy_forward(scores, labels)
    _, whole = network.backward(trace, kernels.softmax_cross_entropy_backward(probabilities, labels))
    assert loss == pytest.approx(float(expected), rel=1e-12)
    assert gradients.keys() == whole.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, whole[name], rtol=0, atol=1e-12 * np.abs(whole[name]).max())


def test_same_bits_every_time_with_dropout():
    network = MODELS["tiny"](classes=4)
    rng = np.random.default_rng(0)
    network.initialize(rng)
    x, labels = rng.standard_normal((6, 64, 64, 3)).astype(np.float32), rng.integers(0, 4, 6)
    (loss, first), (again, second), (other, _) = (
        loss_and_gradients(network, x, labels, partial(generator, seed, Purpose.DROPOUT)) for seed in (1, 1, 2)
    )
    assert loss == again
    assert loss != other
    for name, gradient in first.items():
        assert gradient.tobytes() == second[name].tobytes()
