"""`npconvnet compare` and `npconvnet sanity-check` as a person types them."""

import json

import numpy as np
from PIL import Image

from npconvnet.data.image import read_image
from npconvnet.visualization.deconvnet import RULES, Unit, reconstruct
from npconvnet.weights import bundled_network, load_network, save_network
from tests.command_line import ASSETS, npconvnet, refused

PHOTO = ASSETS / "chelsea.jpg"


def test_compares_the_top_1_class_by_default(tmp_path):
    done = npconvnet("compare", PHOTO, "-o", tmp_path / "a.png", "--save", tmp_path / "a.npz", "--json")
    assert done.returncode == 0, done.stderr
    assert "Egyptian cat (pool10, channel 285)" in done.stderr
    found = json.loads(done.stdout)
    assert found["unit"] == {"layer": "pool10", "channel": 285, "position": None}
    rows = {row["layer"]: row for row in found["rows"]}
    assert len(rows) == 27
    assert list(rows)[::26] == ["relu10", "input"]
    assert rows["input"]["cosines"]["gradient-deconvnet"] < 0.2 < rows["input"]["cosines"]["deconvnet-guided"]
    assert all(0.2 < row["disagreement"] < 0.8 for row in found["rows"][1:-1])
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
    network = bundled_network()
    x = network.preprocess([read_image(PHOTO)])
    with np.load(tmp_path / "a.npz") as numbers:
        np.testing.assert_array_equal(numbers["input"], x)
        for rule in RULES:
            expected = reconstruct(network, x, Unit("pool10", 285), rule)[0]
            np.testing.assert_allclose(numbers[rule], expected, rtol=0, atol=1e-4 * abs(expected).max())


def test_a_unit_in_the_middle_prints_a_table(tmp_path, checkpoint):
    options = ["--weights", checkpoint, "-o", tmp_path / "a.png"]
    done = npconvnet("compare", PHOTO, "--layer", "conv3", "--unit", 17, *options)
    assert done.returncode == 0, done.stderr
    assert "conv3, channel 17 at row" in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == ["relu2", "relu1", "input"]


def test_a_named_class(tmp_path, checkpoint):
    name = load_network(checkpoint).synsets[3].names
    for arguments in (["--layer", "fc8", "--target", name], ["--unit", 3]):
        done = npconvnet("compare", PHOTO, *arguments, "--weights", checkpoint, "-o", tmp_path / "a.png")
        assert done.returncode == 0, done.stderr
        assert f"{name} (fc8, channel 3)" in done.stderr


def test_a_silent_unit_is_called_so(tmp_path, checkpoint):
    network = load_network(checkpoint)
    network.parameters["conv3.bias"][5] = -1000
    save_network(tmp_path / "silent.safetensors", network)
    options = ["--weights", tmp_path / "silent.safetensors", "-o", tmp_path / "a.png"]
    done = npconvnet("compare", PHOTO, "--layer", "relu3", "--unit", 5, *options)
    assert done.returncode == 0, done.stderr
    assert "relu3, channel 5 at row 0, column 0 is silent for this photo" in done.stderr
    assert (tmp_path / "a.png").exists()


def test_what_compare_refuses(tmp_path, checkpoint):
    to = ["-o", tmp_path / "a.png", "--weights", checkpoint]
    assert "it has conv1, relu1, norm1, pool1" in refused("compare", PHOTO, "--layer", "fire5", *to)
    assert "conv3 has no unit 64: its 64 channels are 0 to 63" in refused(
        "compare", PHOTO, "--layer", "conv3", "--unit", 64, *to
    )
    assert "unit 'loud'" in refused("compare", PHOTO, "--unit", "loud", *to)
    assert "--target" in refused("compare", PHOTO, "--layer", "conv3", "--target", 1, *to)
    assert "--target" in refused("compare", PHOTO, "--unit", 2, "--target", 1, *to)
    assert "no class is called 'unicorn'" in refused("compare", PHOTO, "--target", "unicorn", *to)
    assert "none.jpg" in refused("compare", tmp_path / "none.jpg", *to)
    assert "there is no folder" in refused("compare", PHOTO, "-o", tmp_path / "none" / "a.png")
    assert "there is no folder" in refused("compare", PHOTO, *to, "--save", tmp_path / "none" / "a.npz")
    assert not list(tmp_path.iterdir())


def test_sanity_check(tmp_path, checkpoint):
    options = ["--weights", checkpoint, "--target", 2, "--seed", 4]
    outputs = [["-o", tmp_path / f"{name}.png", "--save", tmp_path / f"{name}.npz"] for name in "ab"]
    first, second = (npconvnet("sanity-check", PHOTO, *options, *output) for output in outputs)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    stages = [line.split("  ")[0] for line in first.stdout.splitlines()[2:]]
    assert stages == ["another class", "fc8", "fc7", "fc6", "conv5", "conv4", "conv3", "conv2", "conv1"]
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert a["stages"].tolist() == stages
        for rule in RULES:
            assert a[f"{rule}_correlations"].shape == (3, 9)
            assert a[f"{rule}_maps"].shape == (10, 64, 64)
            np.testing.assert_array_equal(a[f"{rule}_maps"], b[f"{rule}_maps"])


def test_what_the_sanity_check_refuses(tmp_path, checkpoint):
    to = ["-o", tmp_path / "a.png", "--weights", checkpoint]
    assert "no class is called 'unicorn'" in refused("sanity-check", PHOTO, "--target", "unicorn", *to)
    assert "none.jpg" in refused("sanity-check", tmp_path / "none.jpg", *to)
    assert "--seed" in refused("sanity-check", PHOTO, "--seed", -1, *to)
    assert "there is no folder" in refused("sanity-check", PHOTO, "-o", tmp_path / "none" / "a.png")
