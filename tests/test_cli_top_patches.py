"""`npconvnet top-patches` and `npconvnet filters` as a person types them."""

import numpy as np
import pytest
from PIL import Image

from npconvnet.cli import main
from npconvnet.data.toy import make_toy
from npconvnet.layers import Linear
from npconvnet.models import MODELS
from npconvnet.network import Network
from npconvnet.preprocessing import Preprocessing
from npconvnet.weights import save_network
from tests.command_line import npconvnet

CROP = 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The tiny network, whose first map of conv1 counts what is red."""
    network = MODELS["tiny"]()
    network.initialize(np.random.default_rng(0))
    network.preprocessing = Preprocessing(CROP, CROP, (128, 128, 128), (64, 64, 64))
    network.parameters["conv1.weight"][0] = (1, -1, -1)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_network(path, network)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three pictures, the second with a red square and the third cut off; and a file that is no picture."""
    folder = tmp_path_factory.mktemp("photos")
    picture = np.full((CROP, CROP, 3), 100, np.uint8)
    Image.fromarray(picture).save(folder / "plain.png")
    picture[20:25, 40:45] = (255, 0, 0)
    Image.fromarray(picture).save(folder / "red.png")
    (folder / "torn.png").write_bytes((folder / "red.png").read_bytes()[:90])
    (folder / "notes.txt").touch()
    return folder


def colours(figure):
    with Image.open(figure) as image:
        return {tuple(colour) for row in np.asarray(image.convert("RGB")).tolist() for colour in row}


def test_finds_what_was_planted(photos, checkpoint, tmp_path):
    figure, numbers = tmp_path / "figure.png", tmp_path / "numbers.npz"
    arguments = ("--layer", "conv1", "--unit", 0, "--top", 2, "--data", photos, "--weights", checkpoint)
    done = npconvnet("top-patches", *arguments, "-o", figure, "--save", numbers)
    assert done.returncode == 0, done.stderr
    _, first, *others, last = done.stdout.splitlines()
    assert first.split()[:3] == ["0", "10", "20"]
    assert first.endswith("red.png")
    assert len(others) == 1
    assert str(figure) in last
    assert "left out, as they can't be read (1): torn.png" in done.stderr.splitlines()[-1]
    with np.load(numbers) as saved:
        assert saved["names"].tolist() == ["red.png", "plain.png"]
        assert saved["positions"][0].tolist() == [10, 20]
        assert saved["boxes"][0].tolist() == [20, 40, 25, 45]
        assert (saved["patches"][0] == (255, 0, 0)).all()
        assert saved["activations"][0] == pytest.approx(25 * (127 + 2 * 128) / 64)
        assert saved["reconstructions"].shape == (2, 5, 5, 3)
    assert (255, 0, 0) in colours(figure)


def test_default_maps_and_file_name(checkpoint, tmp_path, monkeypatch):
    make_toy(tmp_path / "toy", seed=1, train_per_class=1, validation_per_class=2, workers=1)
    monkeypatch.chdir(tmp_path)
    done = npconvnet("top-patches", "--layer", "relu4", "--data", "toy", "--weights", checkpoint, "--top", 4)
    assert done.returncode == 0, done.stderr
    _, *rows, last = done.stdout.splitlines()
    assert len(rows) == 6 * 4
    assert len({row.split()[0] for row in rows}) == 6
    assert all(row.split()[-1].startswith("val/ILSVRC2012_val_") for row in rows)
    assert "20 pictures" in last
    with Image.open("relu4_top_patches.png") as image:
        assert image.width > 2 * image.height


@pytest.fixture
def refused(monkeypatch, capsys):
    """The one line that a bad call prints, after checking that there is nothing else; in this process, to save time."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["npconvnet", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        return line

    return call


def test_what_can_be_put_right_takes_one_line(photos, checkpoint, tmp_path, refused):
    """The torn picture would be named on a second line if the scan had begun."""

    def line(*arguments, layer="conv1", data=photos):
        given = ("--layer", layer, "--data", data, "--weights", checkpoint, "-o", tmp_path / "a.png")
        return refused("top-patches", *given, *arguments)

    assert "no layer 'conv7' in tiny; it has conv1, relu1, norm1, pool1, conv2" in line(layer="conv7")
    assert "conv1 has no unit 32: its 32 channels are 0 to 31" in line("--unit", 3, "--unit", 32)
    assert "--top" in line("--top", 0)
    assert "there is no folder" in line("-o", tmp_path / "none" / "a.png")
    assert "is a folder" in line("--save", tmp_path)
    assert "none" in line(data=tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no images" in line(data=tmp_path / "empty")
    assert "--layer" in refused("top-patches", "--data", photos)
    assert not (tmp_path / "a.png").exists()


def test_no_picture_that_can_be_read(checkpoint, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"torn")
    figure = tmp_path / "figure.png"
    done = npconvnet("top-patches", "--layer", "conv1", "--data", tmp_path, "--weights", checkpoint, "-o", figure)
    assert done.returncode == 2
    assert f"{tmp_path}: not one of the 1 pictures can be read" in done.stderr.splitlines()[-1]
    assert not figure.exists()


def test_draws_the_first_filters(checkpoint, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    done = npconvnet("filters", "--weights", checkpoint)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("conv1_filters.png")
    assert len(colours("conv1_filters.png")) > 31 * 25  # the first filter is of one colour, the others are random
    assert "none" in refused("filters", "-o", tmp_path / "none" / "a.png")


def test_network_without_filters_of_colours(tmp_path, monkeypatch, refused):
    monkeypatch.setitem(MODELS, "flat", lambda: Network("flat", [("fc1", Linear(12, 2))], Preprocessing(2, 2)))
    save_network(tmp_path / "flat.safetensors", MODELS["flat"]())
    assert "no convolution of flat" in refused("filters", "--weights", tmp_path / "flat.safetensors")
