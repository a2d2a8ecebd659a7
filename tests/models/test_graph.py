"""Networks whose table stands in a file: made again as they were, and nothing made of tables that make no sense."""

import json
import re
import tracemalloc
from typing import Any

import numpy as np
import pytest

from npconvnet.errors import InputError
from npconvnet.forward_pass import class_scores, joint
from npconvnet.models.graph import LAYERS, MOST_ROWS, graph, make_layer
from npconvnet.visualization.receptive_field import patch
from npconvnet.weights import load_network, save_network
from npconvnet.weights.native import write_file

ROWS = [
    ["conv1", "Conv2d", {"in_channels": 3, "filters": 4, "window": [3, 2], "padding": [1, 0, 0, 1]}, ["input"]],
    ["relu1", "ReLU", {}, ["conv1"]],
    ["norm1", "LRN", {"size": 3, "alpha_per_element": 0.1, "beta": 0.75, "k": 1}, ["relu1"]],
    ["max", "MaxPool2d", {"window": 3, "stride": 2, "rounding": "ceil"}, ["norm1"]],
    ["mean", "AveragePool2d", {"window": [3, 3], "stride": 2, "count_padding": False, "rounding": "ceil"}, ["norm1"]],
    ["both", "Concatenate", {}, ["max", "mean"]],
    ["conv2", "Conv2d", {"in_channels": 8, "filters": 8, "window": 1, "groups": 2}, ["both"]],
    ["sum", "Add", {}, ["conv2", "both"]],
    ["flat", "Flatten", {}, ["sum"]],
    ["drop", "Dropout", {"rate": 0.3}, ["flat"]],
    ["fc1", "Linear", {"in_features": 96, "out_features": 6}, ["drop"]],
    ["wide", "Linear", {"in_features": 96, "out_features": 6}, ["sum"]],
    ["pool", "GlobalAveragePool2d", {}, ["conv2"]],
    ["all", "Concatenate", {}, ["fc1", "wide", "pool"]],
]


def test_every_layer_can_be_named_and_made_again(tmp_path, rng):
    assert {kind for _, kind, _, _ in ROWS} == LAYERS.keys()
    network = graph(ROWS, crop=8)
    network.initialize(rng)
    assert network.options == json.loads(json.dumps(network.options))
    save_network(tmp_path / "graph.safetensors", network)
    again = load_network(tmp_path / "graph.safetensors")
    x = rng.standard_normal((2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(again.scores(x), network.scores(x))
    assert network.shapes["all"] == (20,)


def test_a_flattened_image_is_like_one_that_is_read_row_by_row(rng):
    """What Linear makes of it, the receptive field of it, and that a batch can be cut there."""
    head = ROWS[:1]
    plain = graph([*head, ["fc", "Linear", {"in_features": 4 * 7 * 8, "out_features": 5}, ["conv1"]]], 8)
    flat_rows = [
        *head,
        ["flat", "Flatten", {}, ["conv1"]],
        ["fc", "Linear", {"in_features": 224, "out_features": 5}, ["flat"]],
    ]
    flat = graph(flat_rows, 8)
    plain.initialize(rng)
    h, w, c = plain.shapes["conv1"]
    weight = plain.parameters["fc.weight"].reshape(5, h, w, c).transpose(0, 3, 1, 2).reshape(5, -1)
    flat.load({**plain.parameters, "fc.weight": weight})
    x = rng.standard_normal((3, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(flat.scores(x), plain.scores(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(class_scores(flat, x), plain.scores(x), rtol=1e-5, atol=1e-5)
    assert joint(flat) == "flat"
    assert patch(flat, "flat") == patch(plain, "fc")
    d_scores = rng.standard_normal((3, 5)).astype(np.float32)
    for rule in ("gradient", "deconvnet", "guided"):
        dx, expected = (
            network.backward(network.forward(x)[1], d_scores, relu_rule=rule, parameter_gradients=False)[0]
            for network in (flat, plain)
        )
        assert dx is not None
        assert expected is not None
        np.testing.assert_allclose(dx, expected, rtol=1e-5, atol=1e-5)


CONV = {"in_channels": 3, "filters": 4, "window": 3}
WRONG: dict[str, list[Any]] = {
    "no layer is called 'Conv3d'": ["a", "Conv3d", {}, ["input"]],
    "unhashable type: 'list'": ["a", ["Conv2d"], {}, ["input"]],
    "unexpected keyword argument 'colour'": ["a", "Conv2d", {**CONV, "colour": 1}, ["input"]],
    "missing 1 required positional argument: 'window'": ["a", "Conv2d", {"in_channels": 3, "filters": 4}, ["input"]],
    "filters is 4.0, and has to be a whole number": ["a", "Conv2d", {**CONV, "filters": 4.0}, ["input"]],
    "filters is True, and has to be a whole number": ["a", "Conv2d", {**CONV, "filters": True}, ["input"]],
    "filters is '4', and has to be a whole number": ["a", "Conv2d", {**CONV, "filters": "4"}, ["input"]],
    "filters is None, and has to be a whole number": ["a", "Conv2d", {**CONV, "filters": None}, ["input"]],
    "filters is 0, and has to be a whole number": ["a", "Conv2d", {**CONV, "filters": 0}, ["input"]],
    "filters is -4, and has to be a whole number": ["a", "Conv2d", {**CONV, "filters": -4}, ["input"]],
    "filters is 1000000000, and has to be": ["a", "Conv2d", {**CONV, "filters": 10**9}, ["input"]],
    "groups is 0, and has to be": ["a", "Conv2d", {**CONV, "groups": 0}, ["input"]],
    "can't be dealt out to 2 groups": ["a", "Conv2d", {**CONV, "groups": 2}, ["input"]],
    "window is [3], and has to be one or two": ["a", "Conv2d", {**CONV, "window": [3]}, ["input"]],
    "window is [3, 0], and has to be one or two": ["a", "Conv2d", {**CONV, "window": [3, 0]}, ["input"]],
    "padding is [1, 2], and has to be one or four": ["a", "Conv2d", {**CONV, "padding": [1, 2]}, ["input"]],
    "padding is -1, and has to be": ["a", "Conv2d", {**CONV, "padding": -1}, ["input"]],
    "padding is {}, and has to be": ["a", "Conv2d", {**CONV, "padding": {}}, ["input"]],
    "rounding is 'up', and has to be 'floor' or 'ceil'": ["a", "Conv2d", {**CONV, "rounding": "up"}, ["input"]],
    "rounding is ['ceil'], and has to be": ["a", "Conv2d", {**CONV, "rounding": ["ceil"]}, ["input"]],
    "rate is 1, and has to be": ["a", "Dropout", {"rate": 1}, ["input"]],
    "rate is nan, and has to be": ["a", "Dropout", {"rate": float("nan")}, ["input"]],
    "beta is inf, and has to be a number": ["a", "LRN", {"beta": float("inf")}, ["input"]],
    "size is 0, and has to be": ["a", "LRN", {"size": 0}, ["input"]],
    "count_padding is 1, and has to be": [
        "a",
        "AveragePool2d",
        {"window": 2, "stride": 2, "count_padding": 1},
        ["input"],
    ],
    "must be smaller than its window": ["a", "MaxPool2d", {"window": 2, "stride": 2, "padding": 2}, ["input"]],
    "has 0 inputs, which is not what 'ReLU' reads": ["a", "ReLU", {}, []],
    "has 2 inputs, which is not what 'ReLU' reads": ["a", "ReLU", {}, ["input", "input"]],
    "row 'a' reads ['b'], which no earlier row makes": ["a", "ReLU", {}, ["b"]],
    "row 'a' reads ['a'], which no earlier row makes": ["a", "ReLU", {}, ["a"]],
    "two rows are named 'input'": ["input", "ReLU", {}, ["input"]],
    "the name of a row is a text, and not 3": [3, "ReLU", {}, ["input"]],
    "more than 268435456 numbers": ["a", "Conv2d", {**CONV, "padding": 10**5}, ["input"]],
    "more than 1073741824 weights": ["a", "Linear", {"in_features": 1 << 20, "out_features": 1 << 20}, ["input"]],
}


@pytest.mark.parametrize("message", WRONG)
def test_rows_that_make_no_sense_are_refused(message, tmp_path):
    """With ValueError or TypeError, before memory is taken for them; in a file they are bad input."""
    tracemalloc.start()
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        graph([WRONG[message]], crop=8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**23
    path = tmp_path / "graph.safetensors"
    header = {
        "model": "graph",
        "options": {"rows": [WRONG[message]], "crop": 8},
        "preprocessing": {"resize": 8, "crop": 8, "mean": [0, 0, 0], "std": [1, 1, 1]},
        "synsets": [],
    }
    write_file(path, {}, header)
    with pytest.raises(InputError, match=r"graph\.safetensors: "):
        load_network(path)


@pytest.mark.parametrize("crop", [0, -1, 8.0, "8", None, 10**5, 10**9, float("nan")])
def test_crops_that_make_no_sense_are_refused(crop):
    with pytest.raises(ValueError, match=r"crop is|more than"):
        graph(ROWS[:1], crop)


@pytest.mark.parametrize(
    "rows", [[], [[]], ["relu"], [["a", "ReLU", {}]], [["a", "ReLU", 3, ["input"]]], [None], 3, None]
)
def test_tables_that_are_none_are_refused(rows):
    with pytest.raises((ValueError, TypeError)):
        graph(rows, crop=8)


def test_more_rows_more_weights_and_more_classes_than_there_are_anywhere_are_refused():
    row = ["fc", "Linear", {"in_features": 192, "out_features": 192}, ["input"]]
    with pytest.raises(ValueError, match=f"has {MOST_ROWS + 1} rows"):
        graph([row] * (MOST_ROWS + 1), crop=8)
    linear = {"in_features": 1 << 14, "out_features": 1 << 14}
    with pytest.raises(ValueError, match="weights"):
        graph([[f"fc{n}", "Linear", linear, ["input"]] for n in range(10)], crop=8)
    with pytest.raises(ValueError, match="the scores of 1920000 classes"):
        graph([["flat", "Flatten", {}, ["input"]]], crop=800)


def test_channels_that_double_and_double_are_refused():
    names = ["input", *(f"row{n}" for n in range(60))]
    with pytest.raises(ValueError, match="more than 268435456 numbers"):
        graph([[names[n + 1], "Concatenate", {}, [names[n]] * 2] for n in range(60)], crop=8)


def test_the_layer_of_one_row():
    assert make_layer("Conv2d", {**CONV, "window": [3, 5]}).parameters["weight"].shape == (4, 3, 5, 3)
    with pytest.raises(ValueError, match="no layer is called 'Softmax'"):
        make_layer("Softmax", {})
