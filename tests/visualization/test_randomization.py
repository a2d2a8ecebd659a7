"""The randomisation check: what is drawn anew, what is left alone, and what the measure says."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from npconvnet.errors import InputError
from npconvnet.layers import Conv2d, GlobalAveragePool2d, Linear, ReLU
from npconvnet.network import Network
from npconvnet.preprocessing import Preprocessing
from npconvnet.visualization import randomization
from npconvnet.visualization.deconvnet import RULES
from npconvnet.visualization.randomization import (
    RUNS,
    class_maps,
    randomize,
    randomize_often,
    rank_correlation,
    stage_names,
    summarize,
)
from npconvnet.visualization.saliency import image_gradients, saliency_map, score_of


@pytest.fixture
def network(rng):
    rows = [
        ("conv1", Conv2d(3, 6, 3)),
        ("relu1", ReLU()),
        ("conv2", Conv2d(6, 8, 3)),
        ("relu2", ReLU()),
        ("fc3", Linear(4 * 4 * 8, 8)),
        ("relu3", ReLU()),
        ("fc4", Linear(8, 4)),
    ]
    network = Network("small", rows, Preprocessing(resize=8, crop=8))
    network.initialize(rng)
    return network


@pytest.fixture
def x(rng):
    return rng.standard_normal((1, 8, 8, 3), np.float32)


def test_stages_go_from_the_scores_down(network):
    assert stage_names(network) == ("another class", "fc4", "fc3", "conv2", "conv1")


def test_maps_are_those_of_the_class(network, x):
    for rule, found in class_maps(network, x, 2).items():
        expected = saliency_map(image_gradients(network, x, score_of(2), rule)[0])[0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_layers_are_randomised_one_after_the_other(network, x, monkeypatch):
    """At each stage one more layer, from the last up to then, differs from the trained network."""
    trained = {name: value.copy() for name, value in network.parameters.items()}
    seen = []

    def watching(network, x, target):
        changed = [name for name, value in network.parameters.items() if (value != trained[name]).any()]
        seen.append((target, [name.removesuffix(".weight") for name in changed]))
        return {}

    monkeypatch.setattr(randomization, "class_maps", watching)
    assert len(list(randomize(network, x, 1, np.random.default_rng(5)))) == 5
    layers = stage_names(network)[1:]
    assert seen[0][0] != 1
    assert seen[0][1] == []
    for count, (target, changed) in enumerate(seen[1:], start=1):
        assert target == 1
        assert set(changed) == set(layers[:count])


def test_the_network_of_the_caller_stays_as_it_is(network, x):
    before = {name: value.copy() for name, value in network.parameters.items()}
    list(randomize(network, x, 0, np.random.default_rng(0)))
    for name, value in network.parameters.items():
        np.testing.assert_array_equal(value, before[name])


def test_the_other_class_is_another_class(network, x, monkeypatch):
    targets = []
    monkeypatch.setattr(randomization, "class_maps", lambda network, x, target: targets.append(target))
    for seed in range(40):
        next(randomize(network, x, 3, np.random.default_rng(seed)))
    assert set(targets) == {0, 1, 2}


def test_the_same_seed_gives_the_same_bits_and_runs_differ(network, x):
    first, second = (list(randomize_often(network, x, 0, seed=7)) for _ in range(2))
    assert len(first) == RUNS * 5
    for a, b in zip(first, second, strict=True):
        for rule in RULES:
            np.testing.assert_array_equal(a[rule], b[rule])
    assert (first[4]["gradient"] != first[9]["gradient"]).any()


def test_a_network_of_one_class_cannot_be_checked(x):
    network = Network("one", [("fc", Linear(192, 1))], Preprocessing(resize=8, crop=8))
    with pytest.raises(InputError, match="one class only"):
        next(randomize(network, x, 0, np.random.default_rng(0)))


# -- the measure -----------------------------------------------------------------------------------------------------


def test_rank_correlation_is_scipys(rng):
    a, b = rng.integers(0, 9, (2, 20, 30)).astype(np.float32)  # with many equals
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)
    assert rank_correlation(a, 3 * a + 1) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)


def test_a_map_that_is_zero_everywhere_has_no_correlation(rng):
    blank = np.zeros((4, 4), np.float32)
    assert math.isnan(rank_correlation(blank, rng.random((4, 4), np.float32)))
    assert math.isnan(rank_correlation(blank, blank))


def test_runs_are_told_apart_and_averaged_where_defined():
    ramp = np.arange(6, dtype=np.float32).reshape(2, 3)
    blank = np.zeros_like(ramp)

    def maps(picture):
        return {rule: picture if rule == "gradient" else ramp for rule in RULES}

    check = summarize(("a", "b", "c"), maps(ramp), map(maps, [ramp, -ramp, blank, ramp, blank, blank]))
    np.testing.assert_allclose(check.correlations["gradient"], [[1, -1, math.nan], [1, math.nan, math.nan]])
    np.testing.assert_allclose(check.mean("gradient"), [1, -1, math.nan])
    np.testing.assert_allclose(check.mean("guided"), [1, 1, 1])
    np.testing.assert_array_equal(check.maps["gradient"], [ramp, ramp, -ramp, blank])
    *_, last, undefined = check.table().splitlines()
    assert last.split() == ["c", "-", "1.000", "1.000"]
    assert undefined.split()[-3:] == ["3", "0", "0"]
    assert check.to_arrays()["stages"].tolist() == ["a", "b", "c"]


def test_a_class_whose_last_relu_is_closed_leaves_a_gap_and_deconvnet_does_not_notice(rng):
    network = Network(
        "closed",
        [
            ("conv1", Conv2d(3, 4, 3)),
            ("relu1", ReLU()),
            ("conv2", Conv2d(4, 2, 1)),
            ("relu2", ReLU()),
            ("pool", GlobalAveragePool2d()),
        ],
        Preprocessing(resize=8, crop=8),
    )
    network.initialize(rng)
    network.parameters["conv2.bias"][...] = -1000
    maps = class_maps(network, rng.standard_normal((1, 8, 8, 3), np.float32), 0)
    assert [bool(maps[rule].any()) for rule in RULES] == [False, True, False]


def test_the_map_of_a_linear_score_is_its_weights():
    linear = Network("linear", [("fc", Linear(12, 2))], Preprocessing(resize=2, crop=2))
    linear.initialize(np.random.default_rng(1))
    image = np.ones((1, 2, 2, 3), np.float32)
    trained = class_maps(linear, image, 0)
    np.testing.assert_allclose(trained["guided"], abs(linear.parameters["fc.weight"][0]).reshape(2, 2, 3).max(axis=-1))
    _, randomised = randomize(linear, image, 0, np.random.default_rng(2))
    assert (randomised["gradient"] != trained["gradient"]).any()
    np.testing.assert_array_equal(randomised["gradient"], randomised["deconvnet"])
