"""Bringing networks in and taking them out, as a person types it; and the document that tells how."""

import json
import re
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest

from npconvnet.cli import commands
from npconvnet.data.image import read_image
from npconvnet.errors import InputError
from npconvnet.models.graph import graph
from npconvnet.preprocessing import Preprocessing
from npconvnet.synsets import Synset, imagenet_synsets
from npconvnet.weights import FORMATS, bundled_network, load_network, save_network
from tests.command_line import ASSETS, npconvnet, refused
from tests.conftest import assert_close
from tests.weights.test_opening import SMALL_FILES, save_caffe, save_matconvnet

DOCUMENT = Path(__file__).parent.parent / "docs" / "weights.md"
PHOTO = ASSETS / "chelsea.jpg"


@pytest.fixture
def printed(capsys):
    """Runs a command in this process, which saves the time that a new one takes, and gives what it prints."""

    def run(*arguments):
        commands.main([str(argument) for argument in arguments], standalone_mode=False)
        return capsys.readouterr().out

    return run


def refusal(*arguments):
    """The message of a command that is refused in this process."""
    with pytest.raises((InputError, click.ClickException)) as refused:
        commands.main([str(argument) for argument in arguments], standalone_mode=False)
    return str(refused.value)


# -- in --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_weights_of_every_format_are_used_and_imported(printed, format, tmp_path):
    file, out = tmp_path / "weights", tmp_path / "weights.safetensors"
    SMALL_FILES[format](file)
    classified = npconvnet("classify", PHOTO, "--weights", file)
    assert (classified.returncode, classified.stderr) == (0, "")
    assert len(classified.stdout.splitlines()) == 5
    lines = printed("import-weights", file, out).splitlines()
    assert lines[0].startswith(f"{file}: {format}, ")
    assert lines[-1] == f"written to {out}"
    assert printed("classify", PHOTO, "--weights", out) == classified.stdout
    original, again = load_network(file), load_network(out)
    assert again.preprocessing == original.preprocessing
    assert again.synsets == original.synsets


def test_says_what_it_found(printed, tmp_path):
    save_matconvnet(tmp_path / "net.mat")
    lines = printed("import-weights", tmp_path / "net.mat", tmp_path / "net.safetensors").splitlines()
    assert lines[1:-1] == [
        "layers:  1 Linear; 15,365 parameters",
        "classes: 5: n00000000 thing 0; n00000001 thing 1; n00000002 thing 2; …",
        "input:   shorter side to 36 pixels (bilinear), centre 32×32, RGB 0–255 minus (120, 110, 100)",
    ]


def imported_names(run, tmp_path, file, classes):
    out = tmp_path / "named.safetensors"
    run("import-weights", file, out, "--classes", classes)
    return load_network(out).synsets


def test_names_of_imagenet(printed, tmp_path):
    save_matconvnet(tmp_path / "net.mat", classes=1000)
    assert imported_names(printed, tmp_path, tmp_path / "net.mat", "imagenet") == imagenet_synsets()


def test_names_from_a_file(printed, tmp_path):
    save_caffe(tmp_path / "net")
    (tmp_path / "synset_words.txt").write_text(
        "n01440764 tench, Tinca tinca\n\nn01443537\tgoldfish\nn01484850\nSnow White\n  nail\n", encoding="utf-8"
    )
    assert imported_names(printed, tmp_path, tmp_path / "net", tmp_path / "synset_words.txt") == (
        Synset("n01440764", "tench, Tinca tinca"),
        Synset("n01443537", "goldfish"),
        Synset("n01484850", "n01484850"),
        Synset("class3", "Snow White"),
        Synset("class4", "nail"),
    )


def test_names_that_do_not_fit(tmp_path):
    file, out, names = (tmp_path / name for name in ("net", "net.safetensors", "names.txt"))
    save_caffe(file)
    names.write_text("a\nb\n")
    assert "has 5 classes, and 2 names were given" in refusal("import-weights", file, out, "--classes", names)
    assert "has 5 classes, and 1000 names were" in refusal("import-weights", file, out, "--classes", "imagenet")
    names.write_bytes(b"\xff\xfe\xfd")
    assert f"{names}: cannot be read" in refusal("import-weights", file, out, "--classes", names)
    assert "none.txt: cannot be read" in refusal("import-weights", file, out, "--classes", tmp_path / "none.txt")
    assert not out.exists()


def test_a_prototxt(printed, tmp_path):
    save_caffe(tmp_path / "net.caffemodel")
    prototxt, out = tmp_path / "net.prototxt", tmp_path / "net.safetensors"
    prototxt.write_text(
        """
        input: "data"  input_dim: 1  input_dim: 3  input_dim: 32  input_dim: 32
        layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 5 } }
        layer { name: "relu" type: "ReLU" bottom: "fc" top: "fc" }
        """
    )
    assert "1 ReLU" in printed("import-weights", tmp_path / "net.caffemodel", out, "--prototxt", prototxt)
    prototxt.write_text("layer {")
    assert "net.prototxt" in refusal("import-weights", tmp_path / "net.caffemodel", out, "--prototxt", prototxt)
    assert "none" in refusal("import-weights", tmp_path / "net.caffemodel", out, "--prototxt", tmp_path / "none")


@pytest.mark.parametrize("command", ["import-weights", "export-onnx", "export-torchvision"])
def test_places_that_can_not_be_written(command, tmp_path):
    name = {"import-weights": "net.safetensors", "export-onnx": "net.onnx", "export-torchvision": "net.pth"}[command]
    file = tmp_path / name
    SMALL_FILES["npconvnet"](file)
    before = file.read_bytes()
    assert "it is an input" in refusal(command, file, file)
    assert "its name must end in" in refusal(command, file, tmp_path / "net.txt")
    assert "there is no folder" in refusal(command, file, tmp_path / "none" / name)
    assert "no such weight file" in refusal(command, tmp_path / "none", tmp_path / f"other-{name}")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert file.read_bytes() == before


def test_an_input_is_not_overwritten(tmp_path):
    save_caffe(tmp_path / "net")
    for option in "--prototxt", "--classes":
        other = tmp_path / "other.safetensors"
        other.write_text("a\nb\nc\nd\ne\n")
        assert "it is an input" in refusal("import-weights", tmp_path / "net", other, option, other)


def test_a_format_that_is_wrong(tmp_path):
    save_caffe(tmp_path / "net")
    line = refusal("import-weights", tmp_path / "net", tmp_path / "net.safetensors", "--format", "matconvnet")
    assert str(tmp_path / "net") in line


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_weights_of_every_format(format, tmp_path):
    file = tmp_path / "weights"
    SMALL_FILES[format](file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    assert str(file) in refused("classify", PHOTO, "--weights", file)
    assert str(file) in refusal("import-weights", file, tmp_path / "weights.safetensors")
    assert list(tmp_path.iterdir()) == [file]


def test_every_format_can_be_named():
    (option,) = (option for option in commands.commands["import-weights"].params if option.name == "format")
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == ["auto", *FORMATS]


# -- out -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--dynamic-batch"]])
def test_exports_onnx(printed, options, checkpoint, tmp_path):
    out = tmp_path / "net.onnx"
    said = printed("export-onnx", checkpoint, out, *options)
    assert said.splitlines()[-1] == f"written to {out}"
    batch = onnx.load(out).graph.input[0].type.tensor_type.shape.dim[0]
    assert (batch.dim_value, batch.dim_param) == ((0, "N") if options else (1, ""))
    assert printed("classify", PHOTO, "--weights", out) == printed("classify", PHOTO, "--weights", checkpoint)


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_exports_a_state_dict_and_says_how_to_feed_it(printed, name, tmp_path):
    if name == "net.pth":
        pytest.importorskip("torch")
    bundled, out = ASSETS / "squeezenet1_1.safetensors", tmp_path / name
    said = printed("export-torchvision", bundled, out)
    assert "centre 227×227" in said
    assert "Resize(256, InterpolationMode.BILINEAR), CenterCrop(224), ToTensor(), Normalize(" in said
    (line,) = re.findall(r"Normalize\(.*\)", said)
    network = load_network(bundled)
    mean, std = (np.array(json.loads(f"[{numbers}]")) for numbers in re.findall(r"\(([^()]+)\)", line))
    np.testing.assert_allclose(255 * mean, network.preprocessing.mean, rtol=1e-4)
    np.testing.assert_allclose(255 * std, network.preprocessing.std, rtol=1e-4)


def test_refuses_what_torchvision_does_not_have(checkpoint, tmp_path):
    assert str(tmp_path / "net.pth") in refusal("export-torchvision", checkpoint, tmp_path / "net.pth")
    assert not (tmp_path / "net.pth").exists()


# -- the document ----------------------------------------------------------------------------------------------------


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_every_command_of_the_document_exists():
    text = DOCUMENT.read_text(encoding="utf-8")
    named = re.findall(r"(?:^|`)npconvnet ([a-z-]+)((?: [^`\n#]*)?)", text, re.MULTILINE)
    assert {"import-weights", "export-onnx", "export-torchvision"} <= {name for name, _ in named}
    for name, arguments in named:
        options = {option for parameter in commands.commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", arguments)) <= options, (name, arguments)


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", DOCUMENT.read_text(encoding="utf-8"))
    assert targets
    for target in targets:
        assert target.startswith("http") or (DOCUMENT.parent / target).exists(), target


@pytest.mark.parametrize("fed", ["as it is", "a mean image, squeezed, bicubic"])
def test_the_lines_for_onnxruntime_give_the_same_scores(printed, rng, tmp_path, monkeypatch, fed):
    (tmp_path / "photo.jpg").write_bytes(PHOTO.read_bytes())
    network = bundled_network()
    if fed != "as it is":
        mean = 100 + 50 * rng.random((227, 227, 3), np.float32)
        network.preprocessing = Preprocessing(256, 227, mean, (50, 60, 70), "bicubic", keep_aspect=False)
    save_network(tmp_path / "net.safetensors", network)
    printed("export-onnx", tmp_path / "net.safetensors", tmp_path / "net.onnx")
    monkeypatch.chdir(tmp_path)
    (code,) = (code for code in blocks("python") if "onnxruntime" in code)
    names: dict[str, Any] = {}
    exec(code, names)
    assert_close(names["scores"], network.scores(network.preprocess([read_image(PHOTO)])))


def test_a_name_from_a_file_leads_nowhere(printed, tmp_path, monkeypatch):
    """Layers may have any name, and figures are called after them."""
    network = graph(
        [
            ["/elsewhere/../x", "Conv2d", {"in_channels": 3, "filters": 2, "window": 3}, ["input"]],
            ["pool", "GlobalAveragePool2d", {}, ["/elsewhere/../x"]],
        ],
        8,
    )
    save_network(tmp_path / "net", network)
    monkeypatch.chdir(tmp_path)
    printed("filters", "--weights", "net")
    assert (tmp_path / "elsewhere_.._x_filters.png").exists()


@pytest.mark.parametrize("name", ["x.jpg", "x.pdf", "x.npz"])
def test_figures_are_png(tmp_path, name):
    assert "let its name end in .png" in refusal("filters", "-o", tmp_path / name)
    assert not (tmp_path / name).exists()
