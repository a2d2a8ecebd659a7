"""From a photo to objects with boxes."""

import numpy as np
import pytest

from npconvnet.data.image import read_image
from npconvnet.localization.graph_cut import CutOptions
from npconvnet.localization.localize import localize
from npconvnet.visualization.saliency import explain
from npconvnet.weak_localization.find import find_objects
from npconvnet.weights import bundled_network, load_network
from tests.command_line import ASSETS


@pytest.fixture
def network(checkpoint):
    return load_network(checkpoint)


@pytest.fixture
def photo(rng):
    return rng.integers(0, 256, (80, 120, 3), np.uint8)


def test_each_object_is_the_cut_of_its_own_saliency(network, photo):
    objects = find_objects(network, photo, top=2, more=[7], options=CutOptions(components=2), seed=3)
    assert len(objects) in (2, 3)
    assert 7 in {each.index for each in objects}
    for each in objects:
        (saliency,) = explain(network, [photo], each.index)
        np.testing.assert_array_equal(each.saliency, saliency.map)
        assert each.score == saliency.score
        assert each.synset == network.synsets[each.index]
        assert each.found.box == localize(photo, saliency.map, CutOptions(components=2), 3).box


def test_the_best_class_comes_first(network, photo):
    (best,) = explain(network, [photo])
    assert [each.index for each in find_objects(network, photo, top=1)] == [best.target]


def test_json_has_what_programs_want(network, photo):
    (found,) = find_objects(network, photo, top=1)
    fields = found.to_json()
    assert fields.keys() == {"index", "wnid", "name", "score", "box", "note"}
    x0, y0, x1, y1 = fields["box"]
    assert 0 <= x0 <= x1 < 120
    assert 0 <= y0 <= y1 < 80
    assert fields["note"] is None


def test_a_photo_of_one_colour_is_found_whole_and_says_so(network):
    (found,) = find_objects(network, np.full((30, 40, 3), 99, np.uint8), top=1)
    assert found.to_json()["box"] == [0, 0, 39, 29]
    assert found.found.note
    assert found.found.note in str(found)


def test_the_cup_of_coffee_is_found():
    photo = read_image(ASSETS / "coffee.jpg")  # 600×400; cup and saucer reach from (75, 15) to (490, 380)
    (found,) = find_objects(bundled_network(), photo, top=1)
    x0, y0, x1, y1 = found.found.box
    assert "espresso" in found.synset.names
    assert x0 < 250 < 400 < x1
    assert y0 < 150 < 250 < y1
    assert (x1 - x0) * (y1 - y0) < 0.8 * 600 * 400
