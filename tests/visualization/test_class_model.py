"""The ascent on functions whose maximum is known, its regularisers against finite differences, and SqueezeNet."""

import json
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from npconvnet import kernels
from npconvnet.errors import InputError
from npconvnet.layers import LRN, AveragePool2d, Conv2d, Layer, Linear, ReLU
from npconvnet.models import MODELS
from npconvnet.network import Network
from npconvnet.outputs import require_outputs
from npconvnet.preprocessing import Preprocessing
from npconvnet.visualization.class_model import (
    Files,
    Recipe,
    ascend,
    blur_matrix,
    blurred,
    class_model,
    default_name,
    log_probability_of,
    record,
    to_arrays,
    total_variation_gradient,
)
from npconvnet.weights import bundled_network
from tests.conftest import assert_close, assert_is_gradient

GOOSE, DALMATIAN, POOL_TABLE = 99, 251, 736


@pytest.fixture(scope="module")
def squeezenet():
    return bundled_network()


@pytest.fixture
def linear(rng):
    """Two classes, S = w·x, on 4×4 pixels; the network divides grey levels by `std`."""
    network = Network("linear", [("scores", Linear(48, 2))], Preprocessing(4, 4, (100, 120, 140), (50, 60, 70)))
    network.load({"scores.weight": rng.standard_normal((2, 48), np.float32), "scores.bias": np.zeros(2, np.float32)})
    return network


@pytest.fixture
def tiny():
    network = MODELS["tiny"]()
    network.initialize(np.random.default_rng(0))
    network.preprocessing = Preprocessing(73, 64, (120, 120, 120), (60, 50, 40))
    return with_biases(network)


@pytest.fixture
def untied():
    """`tiny` in short, without max pools: its gradient at the zero image is the same on every processor.

    There a map is the same everywhere but for rounding, which would pick the maximum, and another pixel is another
    picture. Where a ReLU decides, in the ascents below, its input is a thousand times larger than rounding errors.
    """
    layers: list[tuple[str, Layer]] = [
        ("conv1", Conv2d(3, 8, 5, stride=2)),
        ("relu1", ReLU()),
        ("norm1", LRN()),
        ("pool1", AveragePool2d(3, stride=2)),
        ("conv2", Conv2d(8, 16, 3, padding=1)),
        ("relu2", ReLU()),
        ("fc3", Linear(6 * 6 * 16, 10)),
    ]
    network = Network("untied", layers, Preprocessing(37, 32, (120, 120, 120), (60, 50, 40)))
    network.initialize(np.random.default_rng(0))
    return with_biases(network)


def with_biases(network):
    """As training leaves them: without any, every ReLU is shut at the zero image."""
    for name, parameter in network.parameters.items():
        if name.endswith("bias"):
            parameter[...] = 0.1
    return network


def rms(x):
    return float(np.sqrt((x.astype(np.float64) ** 2).mean()))


def last(images):
    *_, image = images
    return image


# -- the ascent ------------------------------------------------------------------------------------------------------


def test_a_linear_score_has_its_maximum_where_the_formula_says(linear):
    """w·I − λ‖I‖² is highest at I = w / 2λ."""
    std = np.array(linear.preprocessing.std)
    w = linear.parameters["scores.weight"][1].reshape(4, 4, 3) / std  # score per grey level
    l2 = rms(w) / 2 / 30  # so that the maximum has a contrast of 30 grey levels
    x = last(ascend(linear, 1, Recipe(l2=l2, step=2, iterations=300)))[0]
    assert rms(x * std - w / (2 * l2)) < 0.02


def test_steps_are_grey_levels_that_shrink_to_none(linear):
    std = np.array(linear.preprocessing.std)
    images = [np.zeros((1, 4, 4, 3)), *ascend(linear, 0, Recipe(l2=0, step=10, iterations=4))]
    assert [rms((b - a) * std) for a, b in pairwise(images)] == pytest.approx([10, 7.5, 5, 2.5])


@pytest.mark.parametrize(("objective", "computed"), [("score", 1), ("probability", 10)])
def test_a_score_is_raised_without_computing_the_others(tiny, objective, computed, monkeypatch):
    outputs: list[int] = []
    original = kernels.linear_forward

    def counting(x, w):
        outputs.append(len(w))
        return original(x, w)

    monkeypatch.setattr(kernels, "linear_forward", counting)
    last(ascend(tiny, 3, Recipe(objective=objective, iterations=2)))
    assert outputs == 2 * [256, 256, computed]


def test_a_class_that_does_not_exist(tiny):
    with pytest.raises(ValueError, match="no class 10: tiny has classes 0 to 9"):
        next(ascend(tiny, 10, Recipe()))


def test_stays_in_floating_point(linear):
    image = last(ascend(linear, 0, Recipe(step=1000, iterations=5)))
    assert image.dtype == np.float32
    assert np.abs(image * np.array(linear.preprocessing.std)).max() > 255


@pytest.mark.parametrize("change", [{}, {"jitter": 3, "seed": 1}, {"blur": 0.7, "total_variation": 1e-5}])
def test_same_recipe_same_bits(tiny, change):
    recipe = Recipe(**{"iterations": 6, **change})
    one, other = (class_model(tiny, 3, recipe) for _ in range(2))
    assert one.image.tobytes() == other.image.tobytes()
    assert (one.score, one.probability, one.top1) == (other.score, other.probability, other.top1)


def test_each_option_changes_the_picture(tiny):
    changes: list[dict[str, Any]] = [{}, {"objective": "probability"}, {"l2": 1e-4}, {"step": 3}]
    changes += [{"jitter": 3}, {"jitter": 3, "seed": 1}, {"blur": 0.7}, {"total_variation": 1e-4}]
    images = {class_model(tiny, 3, Recipe(**{"iterations": 5, **change})).image.tobytes() for change in changes}
    assert len(images) == len(changes)


def test_seed_plays_no_part_without_jitter(tiny):
    one, other = (class_model(tiny, 3, Recipe(iterations=3, seed=seed)).image for seed in (0, 1))
    assert np.array_equal(one, other)


def test_blur_and_total_variation_make_smoother_pictures(tiny):
    plain, blur, variation = (
        class_model(tiny, 3, Recipe(iterations=15, blur=sigma, total_variation=price)).image
        for sigma, price in ((0, 0), (0.7, 0), (0, 1e-3))
    )
    roughness = [np.abs(np.diff(image, axis=0)).mean() / np.abs(image).mean() for image in (plain, blur, variation)]
    assert max(roughness[1:]) < 0.8 * roughness[0]


def test_snapshots_are_images_of_the_way(tiny):
    recipe = Recipe(iterations=10)
    way = list(ascend(tiny, 3, recipe))
    calls = []
    model = class_model(tiny, 3, recipe, snapshots=4, watch=lambda: calls.append(1))
    assert list(model.snapshots) == [2, 5, 8, 10]
    assert all(np.array_equal(image, way[number - 1][0]) for number, image in model.snapshots.items())
    assert np.array_equal(model.snapshots[10], model.image)
    assert len(calls) == 10


@pytest.mark.parametrize("objective", ["score", "probability"])
def test_on_a_gpu(untied, cupy, objective):
    recipe = Recipe(objective=objective, iterations=4, jitter=2, blur=0.5, total_variation=1e-5)
    on_cpu = class_model(untied, 3, recipe)
    on_gpu = class_model(untied.to("gpu"), 3, recipe, snapshots=2)
    assert_close(on_gpu.image, on_cpu.image)
    assert on_gpu.score == pytest.approx(on_cpu.score, rel=1e-4)
    assert isinstance(on_gpu.snapshots[2], np.ndarray)
    assert record(untied, "w", recipe, [on_gpu])["parameters_sha256"]


def test_the_objectives_differ_as_the_paper_says(linear):
    """The probability can also be raised by lowering the other scores.

    Of two linear scores, the one goes along w, the other as far along w − w': each is the best way for its objective,
    and not for the other. An ascent with ReLUs and pools may be led astray by either.
    """
    by_score = class_model(linear, 1, Recipe(l2=0, step=2, iterations=5))
    by_probability = class_model(linear, 1, Recipe(objective="probability", l2=0, step=2, iterations=5))
    assert by_probability.score < by_score.score
    assert by_probability.others < by_score.others
    assert by_probability.probability > by_score.probability


def test_the_probability_is_raised_without_a_price_on_contrast():
    assert Recipe.for_objective("score", jitter=2) == Recipe(jitter=2)
    assert Recipe.for_objective("probability").l2 == 0
    assert Recipe.for_objective("probability", l2=1e-9).l2 == 1e-9


# -- what can go wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1e25, 1e300])
def test_a_diverging_ascent_is_one_clear_line(tiny, step):
    with pytest.raises(InputError, match=r"class 3: not a finite number after \d+ iterations; lower the step or l2"):
        class_model(tiny, 3, Recipe(step=step, iterations=4))


def test_a_network_without_a_gradient(tiny):
    tiny.initialize(np.random.default_rng(0))
    with pytest.raises(InputError, match="class 3: the score has no gradient at the zero image"):
        class_model(tiny, 3, Recipe(iterations=2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": 0}, "0 iterations"),
        ({"step": 0}, "step of 0"),
        ({"step": float("nan")}, "step of nan"),
        ({"step": float("inf")}, "step of inf"),
        ({"l2": -1}, "l2 is -1"),
        ({"l2": float("nan")}, "l2 is nan"),
        ({"jitter": -1}, "jitter is -1"),
        ({"blur": -0.5}, "blur is -0.5"),
        ({"total_variation": -1}, "total variation is -1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_recipes(change, message):
    with pytest.raises(InputError, match=message):
        Recipe(**change)


def test_more_snapshots_than_iterations(tiny):
    with pytest.raises(InputError, match="3 iterations make no 4 snapshots"):
        class_model(tiny, 0, Recipe(iterations=3), snapshots=4)


# -- objectives and regularisers -------------------------------------------------------------------------------------


def test_log_probability(rng):
    scores = rng.standard_normal((1, 5))
    d_scores = log_probability_of(2)(scores)
    assert_is_gradient(lambda s: np.log(kernels.softmax(s)[0, 2]), scores, d_scores, np.ones(()))


def test_log_probability_does_not_cancel_where_it_is_nearly_certain():
    scores = np.array([[40.0, 0, 1]], np.float32)
    d_scores = log_probability_of(0)(scores)
    assert d_scores[0, 0] == pytest.approx(np.exp(-40) + np.exp(-39), rel=1e-5)


def test_total_variation_gradient(rng):
    def total_variation(image):
        dy = np.pad(np.diff(image, axis=1), ((0, 0), (0, 1), (0, 0), (0, 0)))
        dx = np.pad(np.diff(image, axis=2), ((0, 0), (0, 0), (0, 1), (0, 0)))
        return np.sqrt(dy**2 + dx**2 + 1).sum()

    image = 10 * rng.standard_normal((2, 5, 6, 3))
    assert_is_gradient(total_variation, image, total_variation_gradient(image), np.ones(()))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
def test_blur_is_scipys_with_the_weight_that_falls_off_the_edge_given_back(rng, sigma):
    image = rng.standard_normal((1, 9, 9, 3)).astype(np.float32)
    sigmas = (0, sigma, sigma, 0)
    expected = gaussian_filter(image.astype(np.float64), sigmas, mode="constant", truncate=30)
    expected /= gaussian_filter(np.ones(image.shape), sigmas, mode="constant", truncate=30)
    assert_close(blurred(image, blur_matrix(9, sigma)), expected.astype(np.float32))


# -- SqueezeNet ------------------------------------------------------------------------------------------------------


def test_scores_rise_above_those_of_photographs(squeezenet):
    photos = sorted(Path(str(resources.files("npconvnet") / "assets")).glob("*.jpg"))
    pictures = [np.asarray(Image.open(photo).convert("RGB")) for photo in photos]
    assert len(pictures) == 3
    best = squeezenet.scores(squeezenet.preprocess(pictures)).max()
    for target in (GOOSE, DALMATIAN):
        model = class_model(squeezenet, target, Recipe(iterations=15))
        assert model.score > 2 * best
        assert model.top1 == target


def test_some_scores_are_held_at_zero_by_the_last_relu_and_rise_all_the_same(squeezenet):
    zero = np.zeros((1, 227, 227, 3), np.float32)
    silent = np.flatnonzero(squeezenet.scores(zero)[0] == 0)
    assert len(silent) == 9
    assert POOL_TABLE in silent
    model = class_model(squeezenet, POOL_TABLE, Recipe(iterations=15))
    assert model.score > 10


def test_through_the_final_relu_only_the_target_is_raised():
    """One pixel, S = max(w·x − 1, 0): closed at x = 0, and opened along w."""
    network = Network("shut", [("fc", Linear(3, 2)), ("relu", ReLU())], Preprocessing(1, 1))
    w = np.array([[1, 2, 2], [-5, 1, 0]], np.float32)
    network.load({"fc.weight": w, "fc.bias": np.full(2, -1, np.float32)})
    image = next(ascend(network, 0, Recipe(step=1, iterations=1)))
    np.testing.assert_allclose(image[0, 0, 0], w[0] / np.linalg.norm(w[0]) * np.sqrt(3), rtol=1e-6)


# -- what is written -------------------------------------------------------------------------------------------------


def test_the_record_says_how_to_make_it_again(tiny):
    recipe = Recipe(iterations=3, l2=1e-5, jitter=2, seed=7)
    model = class_model(tiny, 3, recipe)
    kept = json.loads(json.dumps(record(tiny, "best.safetensors", recipe, [model])))
    assert (kept["network"], kept["weights"]) == ("tiny", "best.safetensors")
    again = class_model(tiny, kept["class_models"][0]["index"], Recipe(**kept["recipe"]))
    assert again.image.tobytes() == model.image.tobytes()
    assert kept["class_models"][0]["score"] == again.score
    before = kept["parameters_sha256"]
    tiny.parameters["conv1.bias"][0] += 1
    assert record(tiny, "best.safetensors", recipe, [model])["parameters_sha256"] != before


def test_arrays_hold_what_the_network_sees(tiny):
    models = [class_model(tiny, target, Recipe(iterations=4), snapshots=2) for target in (3, 5)]
    arrays = to_arrays(models)
    assert arrays["images"].shape == (2, 64, 64, 3)
    assert arrays["snapshots"].shape == (2, 2, 64, 64, 3)
    assert list(arrays["snapshot_iterations"]) == [2, 4]
    scores = tiny.scores(arrays["images"])
    assert_close(scores[[0, 1], arrays["targets"]], arrays["scores"])


def test_names_of_files(tiny, tmp_path):
    assert default_name(tiny, [3]) == "class_model_class_3.png"
    assert default_name(tiny, list(range(7))) == "class_model_class_0_and_6_more.png"
    files = Files.beside(tmp_path / "a.png", True, tmp_path / "a.npz")
    assert [path.name for path in files.paths] == ["a.png", "a.json", "a_snapshots.png", "a.npz"]
    for clash in ("a.png", "a.json", "a_snapshots.png"):
        with pytest.raises(InputError, match=f"{clash}: is named for two outputs"):
            require_outputs(Files.beside(tmp_path / "a.png", True, tmp_path / clash).paths, [])
