"""Saliency: what a pixel does to a class score."""

import numpy as np
import pytest

from npconvnet import kernels
from npconvnet.backend import to_host
from npconvnet.layers import Add, Concatenate, Conv2d, GlobalAveragePool2d, Linear, ReLU
from npconvnet.models import MODELS
from npconvnet.network import Network
from npconvnet.preprocessing import Preprocessing
from npconvnet.visualization.saliency import (
    class_gradients,
    explain,
    explain_classes,
    gradient_times_input,
    image_gradients,
    integrated_gradients,
    saliency_map,
    score_of,
    smooth_grad,
)
from tests.conftest import assert_close, assert_is_gradient, distinct
from tests.models.test_models import prepared, small


@pytest.fixture
def network():
    """A float64 convolutional network of 5 classes on 8×8 pixels."""
    rows = [
        ("conv1", Conv2d(3, 8, 3)),
        ("relu1", ReLU()),
        ("conv2", Conv2d(8, 5, 3)),
        ("relu2", ReLU()),
        ("pool2", GlobalAveragePool2d()),
    ]
    network = Network("test", rows, Preprocessing(resize=10, crop=8, mean=(100, 110, 120), std=(50, 60, 70)))
    network.initialize(np.random.default_rng(3))
    network.nodes[2].layer.initialize(np.random.default_rng(4))
    return network.astype(np.float64)


def linear(weights):
    """S_c = ⟨w_c, I⟩."""
    classes, height, width, _ = weights.shape
    network = Network("test", [("fc", Linear(weights[0].size, classes))], Preprocessing(resize=height, crop=width))
    network.load({"fc.weight": weights.reshape(classes, -1), "fc.bias": np.zeros(classes)})
    return network


def test_it_is_the_derivative_of_the_class_score(network, rng):
    x = distinct(rng, (1, 8, 8, 3))
    gradients, scores = image_gradients(network, x, score_of(2))
    assert scores.shape == (1, 5)
    assert_is_gradient(lambda x: network.scores(x)[:, 2:3], x, gradients, np.ones((1, 1)))


def test_each_image_may_have_its_own_target(network, rng):
    x = rng.standard_normal((5, 8, 8, 3))
    together, _ = image_gradients(network, x, score_of([4, 0, 1, 2, 3]))
    apart = [image_gradients(network, x[n : n + 1], score_of(target))[0] for n, target in enumerate([4, 0, 1, 2, 3])]
    assert_close(together, np.concatenate(apart))


@pytest.mark.parametrize("rule", ["gradient", "deconvnet", "guided"])
def test_the_rule_reaches_the_network(rule, network, rng):
    x = rng.standard_normal((3, 8, 8, 3))
    found, scores = image_gradients(network, x, score_of(1), rule)
    scores, trace = network.forward(x)
    expected, _ = network.backward(trace, score_of(1)(scores), relu_rule=rule, parameter_gradients=False)
    assert_close(found, expected)


def test_the_map_is_the_maximum_magnitude_over_colours():
    gradients = np.array([[[[1.0, -3.0, 2.0], [0.5, 0.0, -0.25]]]])
    np.testing.assert_array_equal(saliency_map(gradients), [[[3.0, 0.5]]])


def test_of_a_linear_score_the_gradient_is_the_weights_everywhere(rng):
    weights = rng.standard_normal((2, 4, 4, 3))
    network, x = linear(weights), rng.standard_normal((1, 4, 4, 3))
    assert_close(image_gradients(network, x, score_of(1))[0][0], weights[1])
    assert_close(smooth_grad(network, x, 1, rng.standard_normal((3, 1, 4, 4, 3)))[0], weights[1])
    assert_close(integrated_gradients(network, x, 1, steps=3), weights[1] * x)
    attribution = gradient_times_input(image_gradients(network, x, score_of(1))[0], x)
    assert attribution.sum() == pytest.approx(network.scores(x)[0, 1])


def test_smooth_grad_averages_over_noise(network, rng):
    x, noise = rng.standard_normal((2, 8, 8, 3)), rng.standard_normal((4, 2, 8, 8, 3))
    expected = np.mean([image_gradients(network, x + sample, score_of(0))[0] for sample in noise], axis=0)
    assert_close(smooth_grad(network, x, 0, noise), expected)


def test_integrated_gradients_add_up_to_the_rise_of_the_score(network, rng):
    x, baseline = rng.standard_normal((2, 8, 8, 3)), rng.standard_normal((2, 8, 8, 3))
    attribution = integrated_gradients(network, x, 3, baseline, steps=100)
    rise = network.scores(x)[:, 3] - network.scores(baseline)[:, 3]
    np.testing.assert_allclose(attribution.sum(axis=(1, 2, 3)), rise, atol=0.01)  # the path has kinks


# -- classes alone ---------------------------------------------------------------------------------------------------


def assert_like_the_whole(network, x, targets, rule="gradient"):
    """Gradients and scores of the targets are those of a network that computes the scores of all classes."""
    expected, scores = image_gradients(network, x, score_of(targets), rule)
    found, of_targets = class_gradients(network, x, targets, rule)
    assert expected.any()
    assert_close(found, expected)
    assert_close(of_targets, scores[np.arange(len(x)), targets])


@pytest.mark.parametrize("model", MODELS)
def test_of_every_architecture_a_class_can_be_asked_for_alone(model, dtype, rng):
    network, x = prepared(small(model), dtype.name, rng)
    scores = network.scores(x)
    best = scores[0].argmax()
    assert_like_the_whole(network, x, best)
    assert_like_the_whole(network, x, [best, scores[1].argsort()[-2]])


@pytest.mark.parametrize("rule", ["gradient", "deconvnet", "guided"])
@pytest.mark.parametrize("targets", [2, [4, 0, 1, 0, 3], [3], np.array([1, 1, 1, 4, 1])], ids=str)
def test_targets_in_any_order_with_repeats(targets, rule, network, rng):
    assert_like_the_whole(network, rng.standard_normal((5, 8, 8, 3)), targets, rule)


@pytest.mark.parametrize(
    "end", [("both", Concatenate(), ("left", "right", "left")), ("sum", Add(), ("left", "right"))], ids=["both", "sum"]
)
def test_where_classes_cannot_be_computed_apart(end, rng):
    branches = [("left", Linear(144, 4)), ("right", Linear(144, 4), ("relu",))]
    rows = [("conv", Conv2d(3, 4, 3)), ("relu", ReLU()), *branches, end]
    network, x = prepared(Network("test", rows, Preprocessing(resize=10, crop=8)), "float64", rng)
    assert_like_the_whole(network, x, [3, 1])


def test_no_other_class_is_computed(network, rng, monkeypatch):
    filters: list[int] = []
    original = kernels.conv2d_forward

    def counting(x, w, *args):
        filters.append(len(w))
        return original(x, w, *args)

    monkeypatch.setattr(kernels, "conv2d_forward", counting)
    x = rng.standard_normal((1, 8, 8, 3))
    class_gradients(network, x, 2)
    smooth_grad(network, x, [2], x[None])
    integrated_gradients(network, x, 2, steps=1)
    assert filters == 3 * [8, 1]
    filters.clear()
    class_gradients(network, np.concatenate([x, x, x]), [2, 4, 2])
    assert sorted(filters) == [2, 2, 8, 8]  # in two pieces


@pytest.mark.parametrize("target", [-1, 5, [0, 5]])
def test_a_class_that_does_not_exist(target, network, rng):
    x = rng.standard_normal((2, 8, 8, 3))
    asked = [lambda: class_gradients(network, x, target), lambda: integrated_gradients(network, x, target)]
    for ask in [*asked, lambda: smooth_grad(network, x, target, x[None])]:
        with pytest.raises(ValueError, match=r"no class (-1|5): test has classes 0 to 4"):
            ask()


# -- photos ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(rng):
    return [rng.integers(0, 256, size, np.uint8) for size in [(12, 17, 3), (30, 20, 3), (8, 8, 3)]]


def test_of_many_photos_each_is_explained_as_if_alone(network, photos):
    network.astype(np.float32)
    for together, photo in zip(explain(network, photos), photos, strict=True):
        (alone,) = explain(network, [photo])
        assert together.target == alone.target
        assert together.map.shape == photo.shape[:2]
        assert together.gradients.shape == together.inputs.shape == (10, 8, 8, 3)
        assert_close(together.map, alone.map)
        assert_close(together.scores, alone.scores)


def test_without_a_target_it_is_the_top_class_by_mean_probability(network, photos):
    for found in explain(network, photos):
        odds = np.exp(found.scores)
        assert found.target == (odds / odds.sum(axis=1, keepdims=True)).mean(axis=0).argmax()
        assert found.score == pytest.approx(found.scores[:, found.target].mean())


def test_several_classes_of_one_photo(network, photos):
    network.astype(np.float32)
    (best,) = explain(network, photos[:1])
    ranked = explain_classes(network, photos[0], top=2, more=[best.target, 4, 0])
    targets = [found.target for found in ranked]
    assert targets[0] == best.target
    assert len(targets) == len(set(targets)) == len({*targets[:2], 0, 4})
    odds = np.exp(best.scores) / np.exp(best.scores).sum(axis=1, keepdims=True)
    assert targets[:2] == np.argsort(-odds.mean(axis=0))[:2].tolist()
    for found in ranked:
        (expected,) = explain(network, photos[:1], found.target)
        np.testing.assert_array_equal(found.map, expected.map)


def test_the_raw_numbers_are_what_the_map_is_made_of(network, photos):
    (found,) = explain(network.astype(np.float32), photos[:1], target=3, views=1)
    gradients, scores = image_gradients(network, found.inputs, score_of(3))
    np.testing.assert_array_equal(found.gradients, gradients)
    np.testing.assert_array_equal(found.scores, scores)
    assert 0 < found.map.max() <= np.abs(found.gradients).max()
    assert set(found.arrays()) == {"target", "map", "inputs", "gradients", "scores"}


def test_a_mirrored_photo_has_the_mirrored_map(network, photos):
    network.astype(np.float32)
    plain, mirrored = explain(network, [photos[1], photos[1][:, ::-1]], target=1)
    assert_close(mirrored.map, plain.map[:, ::-1])


def test_on_the_gpu_the_numbers_come_back_to_the_host(network, photos, cupy):
    network.astype(np.float32)
    (expected,) = explain(network, photos[:1])
    (found,) = explain(network.to("gpu"), photos[:1])
    assert network.device == "gpu"
    assert isinstance(found.gradients, np.ndarray)
    assert_close(found.map, expected.map)
    x = cupy.asarray(expected.inputs)
    noise = cupy.asarray(np.ones((2, *expected.inputs.shape), np.float32))
    gradients, scores = class_gradients(network, x, expected.target)
    assert_close(to_host(gradients), expected.gradients)
    assert_close(to_host(scores), expected.scores[:, expected.target])
    for result in (smooth_grad(network, x, 0, noise), integrated_gradients(network, x, 0, steps=2)):
        assert not isinstance(result, np.ndarray)
        assert to_host(result).shape == expected.inputs.shape
