"""Commands on a prepared folder, as a person types them: the same answers as on the original, or one line."""

import json

import pytest

from npconvnet.cli import main
from npconvnet.data.shards.preparing import prepare
from npconvnet.models import MODELS
from npconvnet.preprocessing import Preprocessing
from npconvnet.weights import save_network
from tests.command_line import ASSETS


@pytest.fixture(scope="module")
def prepared(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "toy"
    prepare(toy, folder, 73, workers=1)
    return folder


@pytest.fixture(scope="module")
def prepared_as_jpeg(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "jpeg"
    prepare(toy, folder, 73, "jpeg", workers=1)
    return folder


@pytest.fixture
def npconvnet(monkeypatch, capsys):
    """A command in this process, to save time: its status and what it printed."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["npconvnet", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def refused(npconvnet):
    def call(*arguments):
        status, out, err = npconvnet(*arguments)
        assert (status, out) == (2, "")
        (line,) = err.splitlines()
        return line

    return call


@pytest.mark.parametrize("views", [1, 10])
def test_evaluate_gives_the_same(toy, prepared, checkpoint, views, npconvnet):
    found = [npconvnet("evaluate", checkpoint, "--data", data, "--views", views, "--json") for data in (toy, prepared)]
    assert found[0] == found[1]
    assert json.loads(found[0][1])["pictures"] == 30


def test_top_patches_gives_the_same(toy, prepared, checkpoint, tmp_path, npconvnet):
    options = ("--layer", "relu4", "--top", 3, "--weights", checkpoint, "-o", tmp_path / "figure.png")
    found = [npconvnet("top-patches", "--data", data, *options) for data in (toy, prepared)]
    assert found[0] == found[1]
    assert "30 pictures scanned" in found[0][1]


def test_shards_of_jpegs_are_not_taken_for_photos(prepared_as_jpeg, checkpoint, tmp_path, npconvnet):
    options = ("--layer", "relu4", "--weights", checkpoint, "-o", tmp_path / "figure.png")
    assert "30 pictures scanned" in npconvnet("top-patches", "--data", prepared_as_jpeg, *options)[1]


def test_squares_of_another_size_are_refused(prepared, tmp_path, refused):
    for command in (["evaluate", ASSETS / "squeezenet1_1.safetensors"], ["top-patches", "--layer", "fire4"]):
        line = refused(*command, "--data", prepared)
        assert f"{prepared}: squares of 73 pixels, and this network takes 256" in line
        assert "--size 256" in line


def test_squares_that_the_network_would_make_otherwise_are_refused(prepared, tmp_path, refused):
    network = MODELS["tiny"]()
    network.preprocessing = Preprocessing(73, 64, interpolation="bicubic")
    save_network(tmp_path / "bicubic.safetensors", network)
    line = refused("evaluate", tmp_path / "bicubic.safetensors", "--data", prepared)
    assert str(prepared) in line
    assert "give the original" in line


def test_boxes_need_whole_pictures(prepared, checkpoint, tmp_path, refused):
    line = refused(
        "evaluate-localization", "--data", prepared, "--weights", checkpoint, "--results", tmp_path / "r.jsonl"
    )
    assert str(prepared) in line
    assert "give the original" in line


def test_damaged_squares_are_an_error_in_one_line(toy, checkpoint, tmp_path, npconvnet):
    prepare(toy, tmp_path / "toy", 73, workers=1)
    with (tmp_path / "toy" / "validation-00000.raw").open("r+b") as file:
        file.write(b"\x00\xff\x00")
    status, out, err = npconvnet("evaluate", checkpoint, "--data", tmp_path / "toy")
    assert (status, out) == (2, "")
    assert "validation-00000.raw: damaged" in err.splitlines()[-1]
