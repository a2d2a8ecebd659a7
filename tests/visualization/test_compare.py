"""What `compare` measures at each ReLU: by hand, and where the three rules cannot differ."""

import json
import math

import numpy as np
import pytest

from npconvnet.layers import Add, Concatenate, Conv2d, ReLU
from npconvnet.models import MODELS
from npconvnet.network import Network
from npconvnet.preprocessing import Preprocessing
from npconvnet.visualization.compare import PAIRS, compare
from npconvnet.visualization.deconvnet import RULES, Unit, find_unit, reconstruct
from tests.visualization.test_deconvnet import SENT_BACK, X, by_hand


def tiny(rng: np.random.Generator) -> Network:
    network = MODELS["tiny"]()
    network.initialize(rng)
    return network


def test_the_pairs_are_those_of_the_rules():
    assert PAIRS == (("gradient", "deconvnet"), ("gradient", "guided"), ("deconvnet", "guided"))


def test_one_relu_by_hand():
    """V₂ = (−1, 4, 2, 0) arrives where W₁x = (1, 2, −3, −1): y > 0 says ++··, R > 0 says ·++·."""
    found = compare(by_hand(), X, Unit("conv2", 1, (0, 1)))
    assert found.activation == 7
    relu, image = found.rows
    assert (relu.layer, image.layer) == ("relu1", "input")
    assert relu.disagreement == pytest.approx(2 / 3)  # R is 0 at the fourth unit, and at the other pixels
    assert relu.energy_passed == pytest.approx({"gradient": 17 / 21, "deconvnet": 20 / 21, "guided": 16 / 21})
    expected = 16 / np.sqrt([17 * 20, 17 * 16, 20 * 16])
    assert relu.cosines == pytest.approx(expected)
    assert image.cosines == pytest.approx(expected)  # the rows 1, 2 and 3 of W₁ are at right angles
    assert math.isnan(image.disagreement)
    assert {rule: found.reconstructions[rule][0, 1].tolist() for rule in RULES} == SENT_BACK


def test_the_rules_coincide_where_all_is_positive(rng):
    network = MODELS["squeezenet"](classes=3)
    network.initialize(rng)
    for parameter in network.parameters.values():
        np.abs(parameter, out=parameter)
    x = rng.uniform(1, 2, (1, 227, 227, 3)).astype(np.float32)
    found = compare(network, x, find_unit(network, x))
    assert len(found.rows) == 27
    for row in found.rows:
        assert row.cosines == pytest.approx([1, 1, 1])
    for row in found.rows[:-1]:
        assert row.disagreement == 0
        assert set(row.energy_passed.values()) == {1.0}
    for rule in RULES:
        np.testing.assert_array_equal(found.reconstructions[rule], found.reconstructions["gradient"])


def test_rows_go_down_from_the_unit_and_end_in_its_reconstructions(rng):
    network, x = tiny(rng), rng.standard_normal((1, 64, 64, 3), np.float32)
    unit = find_unit(network, x, "conv3")
    found = compare(network, x, unit)
    assert [row.layer for row in found.rows] == ["relu2", "relu1", "input"]
    for rule in RULES:
        np.testing.assert_array_equal(found.reconstructions[rule], reconstruct(network, x, unit, rule)[0])
    for row in found.rows[:-1]:
        assert 0 < row.disagreement < 1
        assert all(0 < energy < 1 for energy in row.energy_passed.values())


def branches() -> Network:
    """conv1 is read by a ReLU and by what is added to it; a second branch is put beside the sum."""
    return Network(
        "branches",
        [
            ("conv1", Conv2d(3, 1, 1)),
            ("relu1", ReLU()),
            ("skip", Add(), ("conv1", "relu1")),
            ("conv2", Conv2d(3, 1, 1), ("input",)),
            ("relu2", ReLU()),
            ("both", Concatenate(), ("skip", "relu2")),
        ],
        Preprocessing(resize=1, crop=1),
    )


def test_relus_that_no_signal_reaches_have_no_row():
    network = branches()
    for parameter in network.parameters.values():
        parameter += 1
    x = np.ones((1, 1, 1, 3), np.float32)
    assert [row.layer for row in compare(network, x, Unit("both", 0, (0, 0))).rows] == ["relu1", "input"]
    assert [row.layer for row in compare(network, x, Unit("both", 1, (0, 0))).rows] == ["relu2", "input"]
    assert [row.layer for row in compare(network, x, Unit("conv1", 0, (0, 0))).rows] == ["input"]


def test_only_what_went_through_the_relu_counts_where_others_read_its_input_too():
    """At x = −1 the ReLU is closed to the gradient, though the way around it is open."""
    network = branches()
    network.parameters["conv1.weight"][...] = 1
    relu, image = compare(network, -np.ones((1, 1, 1, 3), np.float32), Unit("skip", 0, (0, 0))).rows
    assert relu.energy_passed == {"gradient": 0, "deconvnet": 1, "guided": 0}
    assert relu.disagreement == 1
    assert math.isnan(relu.cosines[0])
    assert image.cosines == pytest.approx([1, 1, 1])  # (1, 1, 1) by the way around, and twice that


def test_a_silent_unit_has_no_angles_with_nothing():
    found = compare(by_hand(), X, Unit("relu1", 2, (0, 1)))
    relu, image = found.rows
    assert found.activation == 0
    assert relu.disagreement == 1
    assert relu.energy_passed == {"gradient": 0, "deconvnet": 1, "guided": 0}
    assert all(math.isnan(cosine) for cosine in (*relu.cosines, *image.cosines))


def test_statistics_are_float64_even_of_tiny_signals(rng):
    """A signal whose squares vanish in float32 keeps its angles."""
    network, x = tiny(rng), rng.standard_normal((1, 64, 64, 3), np.float32)
    unit = find_unit(network, x, "conv3")
    network.parameters["conv3.weight"][...] *= np.float32(2.0**-100)  # a power of two changes no digit
    faint = compare(network, x, unit)
    network.parameters["conv3.weight"][...] *= np.float32(2.0**100)
    for row, expected in zip(faint.rows, compare(network, x, unit).rows, strict=True):
        assert row.cosines == pytest.approx(expected.cosines, rel=1e-12)


def test_json_and_table_have_a_gap_where_a_number_is_undefined():
    found = compare(by_hand(), X, Unit("conv2", 1, (0, 1)))
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["unit"] == {"layer": "conv2", "channel": 1, "position": [0, 1]}
    assert written["rows"][0]["cosines"].keys() == {"gradient-deconvnet", "gradient-guided", "deconvnet-guided"}
    assert written["rows"][1]["energy_passed"] == {"gradient": None, "deconvnet": None, "guided": None}
    *_, relu, image = found.table().splitlines()
    assert relu.split()[0] == "relu1"
    assert "66.7%" in relu
    assert image.split() == ["input", "0.868", "0.970", "0.894", "-", "-", "-", "-"]
