"""What excites a feature map: planted pictures, found at the planted place, in the right order, by the right size."""

import numpy as np
import pytest
from PIL import Image

from npconvnet.data.ilsvrc import Example
from npconvnet.data.image_files import ImageFiles
from npconvnet.data.loader import Loader
from npconvnet.errors import InputError
from npconvnet.layers import Conv2d, Linear, MaxPool2d, ReLU
from npconvnet.network import Network
from npconvnet.preprocessing import Preprocessing
from npconvnet.visualization.top_patches import (
    Ranking,
    name_of,
    pictures_to_scan,
    rank,
    require_maps,
    to_arrays,
    top_patches,
)
from tests.data.prepared import write_prepared

CROP, RESIZE = 16, 20
MEAN = 100.0
SQUARES = Preprocessing(RESIZE, CROP)


def finder(padding=0):
    """Map 0 of conv1 counts red in 3×3 pixels, map 1 looks for a step from dark to bright, map 2 is always silent."""
    network = Network(
        "finder",
        [
            ("conv1", Conv2d(3, 3, 3, padding=padding)),
            ("relu1", ReLU()),
            ("pool1", MaxPool2d(2, stride=2)),
            ("fc2", Linear((CROP - 2 + 2 * padding) ** 2 // 4 * 3, 2)),
        ],
        Preprocessing(RESIZE, CROP, (MEAN,) * 3, (2.0,) * 3),
    )
    weight = network.parameters["conv1.weight"]
    weight[0] = (1, -1, -1)
    weight[1] = np.array([-1, 0, 1])[None, :, None]
    network.parameters["fc2.weight"][...] = 1
    return network


def grey(level=MEAN):
    return np.full((RESIZE, RESIZE, 3), level, np.uint8)


def with_red(top, left, strength=255, size=3):
    """Grey, but for a red square with this corner in the crop, which begins 2 pixels inside."""
    picture = grey()
    picture[top + 2 : top + 2 + size, left + 2 : left + 2 + size] = (strength, 0, 0)
    return picture


def noise(count):
    return list(np.random.default_rng(3).integers(0, 256, (count, RESIZE, RESIZE, 3), np.uint8))


@pytest.fixture
def examples(tmp_path):
    def write(pictures):
        paths = [tmp_path / f"{number:02}.png" for number in range(len(pictures))]
        for path, picture in zip(paths, pictures, strict=True):
            Image.fromarray(picture).save(path)
        return ImageFiles([Example(path.name, -1, path) for path in paths], SQUARES)

    return write


def batches(pictures, size=4):
    return Loader(pictures, size).in_order()


def test_finds_the_planted_patch_at_its_place(examples):
    network = finder()
    planted = [grey(), with_red(5, 9), grey(90), with_red(0, 13, strength=200)]
    files = examples(planted)
    ranking = rank(network, "conv1", batches(files), top=2)
    first, second = top_patches(network, "conv1", files, ranking, 0, "gradient")
    assert [(p.name, p.row, p.column) for p in (first, second)] == [("01.png", 5, 9), ("03.png", 0, 13)]
    assert first.box == (5, 9, 8, 12)
    assert (first.picture == (255, 0, 0)).all()
    assert (second.picture == (200, 0, 0)).all()
    assert first.activation == 9 * (255 - MEAN + 2 * MEAN) / 2
    expected = first.activation * network.parameters["conv1.weight"][0]
    np.testing.assert_array_equal(first.reconstruction, expected)


def test_finds_an_edge(examples):
    picture = grey(30)
    picture[:, 9:] = 200
    files = examples([grey(), picture])
    found = next(top_patches(finder(), "relu1", files, rank(finder(), "relu1", batches(files)), 1))
    assert (found.name, found.row, found.column) == ("01.png", 0, 5)  # of many equal places the first
    np.testing.assert_array_equal(found.picture[..., 0], [[30, 30, 200]] * 3)


def test_one_patch_a_picture_and_the_strongest(examples):
    twice = with_red(1, 1, strength=240)
    twice[12:15, 12:15] = (255, 0, 0)
    files = examples([with_red(3, 3, strength=250), twice])
    ranking = rank(finder(), "conv1", batches(files))
    assert ranking.numbers[0].tolist() == [1, 0]
    assert [(p.row, p.column) for p in top_patches(finder(), "conv1", files, ranking, 0)] == [(10, 10), (3, 3)]


@pytest.mark.parametrize("layer", ["conv1", "pool1", "fc2"])
def test_ranking_is_that_of_all_activations_at_once(examples, layer):
    network = finder()
    network.parameters["fc2.weight"][...] = np.random.default_rng(0).integers(-3, 4, (2, 147))
    pictures = noise(23)
    files = examples(pictures)
    ranking = rank(network, layer, batches(files), top=5)
    y, _ = network.forward(network.preprocess(pictures), until=layer)
    strongest = y.reshape(23, -1, y.shape[-1]).max(axis=1)
    order = np.argsort(-strongest, axis=0, kind="stable")[:5]
    np.testing.assert_array_equal(ranking.numbers, order.T)
    np.testing.assert_array_equal(ranking.activations, np.take_along_axis(strongest, order, axis=0).T)


def test_batch_size_makes_no_difference(examples):
    files = examples([*noise(6), *noise(6), with_red(2, 2)])  # every noise picture twice: ties
    rankings = [rank(finder(), "conv1", batches(files, size), top=4) for size in (1, 3, 13)]
    for other in rankings[1:]:
        for name in ("activations", "numbers", "places"):
            np.testing.assert_array_equal(getattr(other, name), getattr(rankings[0], name))


def test_of_equal_pictures_the_first_come_first(examples):
    files = examples([with_red(1, 1), with_red(4, 4), grey(), with_red(7, 7)])
    for size in (1, 2, 4):
        ranking = rank(finder(), "conv1", batches(files, size), top=2)
        assert ranking.numbers[0].tolist() == [0, 1]


def test_keeps_no_more_than_the_top(examples):
    assert rank(finder(), "conv1", batches(examples(noise(9)), 2), top=3).numbers.shape == (3, 3)
    assert rank(finder(), "conv1", batches(examples(noise(2)), 2), top=3).numbers.shape == (3, 2)
    assert rank(finder(), "conv1", [], top=3).numbers.shape == (3, 0)


def test_map_that_nothing_excites_has_no_patches(examples):
    files = examples(noise(3))
    ranking = rank(finder(), "relu1", batches(files))
    assert list(top_patches(finder(), "relu1", files, ranking, 2)) == []
    assert len(list(top_patches(finder(), "relu1", files, ranking, 1))) == 3


def test_strongest_maps_are_strong_in_all_their_pictures():
    nothing = np.zeros((3, 2), np.int64)
    activations = np.array([[9, 1], [5, 4], [4, 3]], np.float32)
    assert Ranking(activations, nothing, nothing).strongest_maps(2) == [1, 2]


def test_patch_at_the_border_has_the_mean_colour_outside(examples):
    network = finder(padding=1)
    network.parameters["conv1.weight"][0] = 0
    network.parameters["conv1.weight"][0, 1:, 1:] = (1, -1, -1)  # so that no place but the corner sees all the red
    files = examples([with_red(0, 0, size=2)])
    (found,) = top_patches(network, "conv1", files, rank(network, "conv1", batches(files)), 0)
    assert (found.row, found.column, found.box) == (0, 0, (0, 0, 2, 2))
    assert found.picture.shape == (3, 3, 3)
    assert (found.picture[1:, 1:] == (255, 0, 0)).all()
    for outside in (found.picture[0], found.picture[:, 0]):
        assert (outside == MEAN).all()
    assert found.reconstruction[1:, 1:].all()
    assert not found.reconstruction[0].any()
    assert not found.reconstruction[:, 0].any()


@pytest.mark.parametrize("padding", [0, 1])
def test_layer_that_sees_everything_shows_the_whole_crop(examples, padding):
    network, picture = finder(padding), noise(1)[0]
    network.preprocessing = Preprocessing(RESIZE, CROP, (123.7, 116.3, 103.5), (58.4, 57.1, 57.4))
    files = examples([picture])
    (found,) = top_patches(network, "fc2", files, rank(network, "fc2", batches(files)), 1)
    assert (found.row, found.column, found.box) == (0, 0, (0, 0, CROP, CROP))
    np.testing.assert_array_equal(found.picture, picture[2:18, 2:18])


@pytest.mark.parametrize("rule", ["gradient", "deconvnet", "guided"])
def test_reconstruction_is_that_of_the_rule(examples, rule):
    network, picture = finder(), noise(1)[0]
    network.parameters["fc2.weight"][...] = np.random.default_rng(0).standard_normal((2, 147))
    files = examples([picture])
    (found,) = top_patches(network, "fc2", files, rank(network, "fc2", batches(files)), 1, rule)
    scores, trace = network.forward(network.preprocess([picture]))
    expected, _ = network.backward(trace, np.array([[0, abs(scores[0, 1])]], np.float32), relu_rule=rule)
    np.testing.assert_allclose(found.reconstruction, expected[0], rtol=1e-4, atol=1e-3)


def test_arrays_have_a_row_for_each_patch(examples):
    files = examples([with_red(5, 9), with_red(2, 3)])
    ranking = rank(finder(), "conv1", batches(files))
    arrays = to_arrays([*top_patches(finder(), "conv1", files, ranking, 0)])
    assert arrays["names"].tolist() == ["00.png", "01.png"]
    assert arrays["positions"].tolist() == [[5, 9], [2, 3]]
    assert arrays["boxes"].tolist() == [[5, 9, 8, 12], [2, 3, 5, 6]]
    assert arrays["units"].tolist() == [0, 0]
    assert arrays["activations"].tolist() == ranking.activations[0].tolist()
    for name, dtype in (("patches", "uint8"), ("reconstructions", "float32")):
        assert (arrays[name].shape, arrays[name].dtype.name) == ((2, 3, 3, 3), dtype)


def test_device_gives_the_same(examples, cupy):
    files = examples([with_red(5, 9), with_red(2, 3)])
    for layer, unit in (("pool1", 0), ("fc2", 1)):
        found = []
        for device in ("cpu", "gpu"):
            network = finder().to(device)
            ranking = rank(network, layer, batches(files))
            found.append(to_arrays(list(top_patches(network, layer, files, ranking, unit))))
        for name, expected in found[0].items():
            np.testing.assert_array_equal(found[1][name], expected)


def test_unreadable_pictures_are_left_out(examples, tmp_path):
    files = examples([with_red(1, 1), with_red(2, 2), with_red(3, 3)])
    (tmp_path / "01.png").write_bytes(b"no picture")
    ranking = rank(finder(), "conv1", batches(files, 1))
    assert ranking.numbers[0].tolist() == [0, 2]
    assert [patch.name for patch in top_patches(finder(), "conv1", files, ranking, 0)] == ["00.png", "02.png"]


def all_of(source):
    squares = np.empty((len(source), RESIZE, RESIZE, 3), np.uint8)
    for number in range(len(source)):
        source.read(number, squares[number])
    return [source.name(number) for number in range(len(source))], squares.tolist()


def test_pictures_of_a_plain_folder_and_of_a_data_set(examples, tmp_path):
    files = examples(noise(3))
    found, note = pictures_to_scan(tmp_path, SQUARES)
    assert all_of(found) == all_of(files)
    assert note == ""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.fromarray(grey()).save(tmp_path / name / f"{number}.png")
    held_out, note = pictures_to_scan(
        tmp_path, SQUARES
    )  # the pictures beside the class folders are not of the data set
    assert all_of(held_out)[0] == ["cat/1.png", "dog/1.png"]
    assert "held out" in note


def test_pictures_of_a_prepared_folder(examples, tmp_path):
    network, pictures = finder(), noise(5)
    folder = write_prepared(tmp_path / "prepared", np.array(pictures[:2]), np.array(pictures))
    prepared, _ = pictures_to_scan(folder, network.preprocessing)
    files = examples(pictures)
    found = [
        to_arrays(list(top_patches(network, "conv1", source, rank(network, "conv1", batches(source)), 0)))
        for source in (files, prepared)
    ]
    assert found[1].pop("names").tolist() == [
        f"validation/{int(name.removesuffix('.png'))}" for name in found[0].pop("names")
    ]
    for name, expected in found[0].items():
        np.testing.assert_array_equal(found[1][name], expected)


def test_folder_without_pictures(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=folder.name):
            pictures_to_scan(folder, SQUARES)


def test_layer_or_unit_that_does_not_exist():
    with pytest.raises(InputError, match=r"no layer 'conv9' in finder; it has conv1, relu1, pool1, fc2"):
        require_maps(finder(), "conv9", [])
    with pytest.raises(InputError, match=r"conv1 has no unit 3: its 3 channels are 0 to 2"):
        require_maps(finder(), "conv1", [0, 3])
    require_maps(finder(), "fc2", [0, 1])


def test_names():
    network = finder()
    assert name_of(network, "pool1", 2) == "map 2"
    assert name_of(network, "fc2", 1) == "class 1, class 1"
