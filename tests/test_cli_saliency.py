"""`npconvnet saliency` as a person types it."""

import numpy as np
import pytest
from PIL import Image

from npconvnet.weights import load_network, read_file, write_file
from tests.command_line import ASSETS, npconvnet, refused


def test_one_photo_gives_a_figure_and_its_numbers(tmp_path):
    done = npconvnet("saliency", ASSETS / "coffee.jpg", "-o", tmp_path / "a.png", "--save", tmp_path / "a.npz")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "espresso" in done.stdout
    assert Image.open(tmp_path / "a.png").format == "PNG"
    with np.load(tmp_path / "a.npz") as numbers:
        assert numbers["map"].shape == (400, 600)
        assert numbers["inputs"].shape == numbers["gradients"].shape == (10, 227, 227, 3)
        assert numbers["scores"].shape == (10, 1000)
        assert numbers["target"] == 967
        inside, rim = numbers["map"][150:300, 200:450], numbers["map"][:20]
        assert inside.mean() > 2 * rim.mean()  # the cup stands in the middle


@pytest.mark.parametrize("target", ["cup", "968", "n07930864", "Cup"])
def test_targets(target, tmp_path):
    arguments = ["--views", 1, "--save", tmp_path / "a.npz", "-o", tmp_path / "a.png"]
    done = npconvnet("saliency", ASSETS / "coffee.jpg", "--target", target, *arguments)
    assert done.returncode == 0, done.stderr
    assert "cup: class score" in done.stdout
    assert np.load(tmp_path / "a.npz")["target"] == 968


def test_a_folder_goes_on_past_what_cannot_be_read(tmp_path, checkpoint):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "c.png"):
        Image.new("RGB", (90, 70), "red").save(photos / name)
    (photos / "b.jpg").write_text("no image")
    done = npconvnet("saliency", photos, "-o", tmp_path / "out", "--weights", checkpoint, "--rule", "guided")
    assert done.returncode == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a_saliency.png", "c_saliency.png"}
    assert len(done.stdout.splitlines()) == 2
    *_, failed, summary = done.stderr.strip().splitlines()
    assert "b.jpg: cannot be read as an image" in failed
    assert summary == "error: 1 of 3 photos failed; the others are done"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jpg"], "none.jpg: cannot be opened"),
        ([ASSETS / "NOTICE.md"], "cannot be read as an image"),
        ([ASSETS / "coffee.jpg", "--target", "unicorn"], "no class is called 'unicorn'"),
        ([ASSETS / "coffee.jpg", "--target", "terrier"], "fits 24 classes: "),
        ([ASSETS / "coffee.jpg", "--target", "1000"], "no class 1000: the network has classes 0 to 999"),
        ([ASSETS / "coffee.jpg", "-o", "/none/a.png"], "there is no folder /none"),
        ([ASSETS / "coffee.jpg", "--save", "/none/a.npz"], "there is no folder /none"),
        ([ASSETS / "coffee.jpg", "--weights", ASSETS / "NOTICE.md"], "NOTICE.md"),
        ([ASSETS / "coffee.jpg", "--rule", "smooth"], "'smooth' is not one of"),
        ([], "Missing argument 'PHOTO...'"),
    ],
)
def test_bad_input(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused("saliency", *arguments)
    assert not list(tmp_path.iterdir())


def test_weights_without_preprocessing(tmp_path, checkpoint):
    tensors, header = read_file(checkpoint)
    assert load_network(checkpoint)
    del header["preprocessing"]
    write_file(tmp_path / "bare.safetensors", tensors, header)
    message = refused("saliency", ASSETS / "coffee.jpg", "--weights", tmp_path / "bare.safetensors")
    assert "bare.safetensors" in message
    assert "preprocessing" in message
