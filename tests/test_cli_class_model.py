"""`npconvnet class-model` as a person types it."""

import json

import numpy as np
import pytest
from PIL import Image

from npconvnet.visualization.class_model import Recipe
from npconvnet.weights import load_network, save_network
from tests.command_line import npconvnet, refused


@pytest.fixture(scope="module")
def biased(checkpoint, tmp_path_factory):
    """With biases, as training leaves them: without any, every ReLU is shut at the zero image."""
    network = load_network(checkpoint)
    for name, parameter in network.parameters.items():
        if name.endswith("bias"):
            parameter[...] = 0.1
    path = tmp_path_factory.mktemp("weights") / "biased.safetensors"
    save_network(path, network)
    return path


def test_a_contact_sheet_its_record_and_its_numbers(tmp_path, biased):
    arguments = ["--target", "star", "--target", "5", "--weights", biased, "--iterations", 4, "--snapshots", 2]
    kept = []
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        output = ["-o", folder / "a.png", "--save", folder / "a.npz"]
        done = npconvnet("class-model", *arguments, *output, "--jitter", 2, "--l2", 1e-5)
        assert done.returncode == 0, done.stderr
        assert [line.split(" (")[0] for line in done.stdout.splitlines()] == ["star", "heart"]
        kept.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert set(kept[0]) == {"a.png", "a.json", "a_snapshots.png", "a.npz"}
    assert kept[0] == kept[1]  # the same recipe gives the same bits
    record = json.loads(kept[0]["a.json"])
    for figure in ("a.png", "a_snapshots.png"):
        with Image.open(folder / figure) as picture:
            assert json.loads(picture.info["npconvnet"]) == record
    assert record["weights"] == biased.name
    assert Recipe(**record["recipe"]) == Recipe(iterations=4, jitter=2, l2=1e-5)
    with np.load(folder / "a.npz") as numbers:
        assert list(numbers["targets"]) == [0, 5]
        scores = load_network(biased).scores(numbers["images"])
    assert [entry["score"] for entry in record["class_models"]] == pytest.approx([scores[0, 0], scores[1, 5]], rel=1e-4)


def test_a_class_does_not_depend_on_the_others(tmp_path, biased):
    images = []
    for targets in (["star"], ["ring", "star", "star"]):
        arguments = [argument for target in targets for argument in ("--target", target)]
        output = ["-o", tmp_path / "a.png", "--save", tmp_path / "a.npz"]
        done = npconvnet("class-model", *arguments, "--weights", biased, "--iterations", 3, "--jitter", 2, *output)
        assert done.returncode == 0, done.stderr
        images.append(np.load(tmp_path / "a.npz")["images"])
    assert [len(image) for image in images] == [1, 2]
    assert np.array_equal(images[0][0], images[1][1])


def test_help_states_the_recipe():
    text = " ".join(npconvnet("class-model", "--help").stdout.split())
    recipe = Recipe()
    for name in Recipe.__dataclass_fields__:
        _, _, described = text.partition(f"--{name.replace('_', '-')} ")
        assert f"[default: {getattr(recipe, name)}" in described.partition(" --")[0], name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing option '--target'"),
        (["--target", "unicorn"], "no class is called 'unicorn'"),
        (["--target", "terrier"], "fits 24 classes: "),
        (["--target", "goose", "--step", "nan"], "a step of nan"),
        (["--target", "goose", "--step", 1e300], "goose: not a finite number after "),
        (["--target", "goose", "--iterations", 3, "--snapshots", 4], "3 iterations make no 4 snapshots"),
        (["--target", "goose", "-o", "/none/a.png"], "there is no folder /none"),
        (["--target", "goose", "-o", "a.jpg"], "a.jpg: figures are written as PNG"),
        (["--target", "goose", "--save", "/none/a.npz"], "there is no folder /none"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, message):
    assert message in refused("class-model", *arguments)
