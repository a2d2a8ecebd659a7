"""The `npconvnet` command as a person types it: classify, evaluate, make-toy, and what all commands share."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from npconvnet.cli import commands
from npconvnet.parallel import threads
from tests.command_line import ASSETS, npconvnet, refused


@pytest.mark.parametrize(
    ("photo", "names"),
    [
        ("chelsea.jpg", {"tabby", "tiger cat", "Egyptian cat", "Persian cat", "Siamese cat"}),
        ("coffee.jpg", {"espresso", "cup"}),
        ("rocket.jpg", {"missile", "projectile"}),
    ],
)
def test_names_what_is_in_a_photograph(photo, names):
    done = npconvnet("classify", ASSETS / photo, "--json")
    assert done.returncode == 0, done.stderr
    guesses = json.loads(done.stdout)
    assert len(guesses) == 5
    assert [set(guess) for guess in guesses] == [{"index", "wnid", "name", "score", "probability"}] * 5
    assert any(name in guess["name"] for guess in guesses for name in names)
    probabilities = [guess["probability"] for guess in guesses]
    assert probabilities == sorted(probabilities, reverse=True)
    assert 0 < sum(probabilities) <= 1


def test_table_has_as_many_lines_as_asked(checkpoint):
    done = npconvnet("classify", ASSETS / "coffee.jpg", "--top", 3, "--views", 10)
    assert len(done.stdout.splitlines()) == 3
    assert "espresso" in done.stdout.splitlines()[0]
    more_than_there_are = npconvnet("classify", ASSETS / "coffee.jpg", "--top", 99, "--weights", checkpoint)
    assert len(more_than_there_are.stdout.splitlines()) == 10


def test_odd_picture_under_a_jpeg_name(tmp_path):
    with Image.open(ASSETS / "chelsea.jpg") as image:
        image.convert("CMYK").save(tmp_path / "cmyk.JPEG", "JPEG")
        image.convert("L").save(tmp_path / "grey.JPEG", "PNG")
    for name in ("cmyk.JPEG", "grey.JPEG"):
        done = npconvnet("classify", tmp_path / name)
        assert done.returncode == 0
        assert "cat" in done.stdout


def test_photo_that_cannot_be_read(tmp_path):
    (tmp_path / "cut.jpg").write_bytes((ASSETS / "chelsea.jpg").read_bytes()[:3000])
    (tmp_path / "empty.jpg").touch()
    assert "cut.jpg" in refused("classify", tmp_path / "cut.jpg")
    assert "empty" in refused("classify", tmp_path / "empty.jpg")
    assert "none.jpg" in refused("classify", tmp_path / "none.jpg")
    assert str(tmp_path) in refused("classify", tmp_path)


def test_bad_options(tmp_path):
    assert "--top" in refused("classify", ASSETS / "coffee.jpg", "--top", 0)
    assert "--views" in refused("classify", ASSETS / "coffee.jpg", "--views", 5)
    assert "no such weight file" in refused("classify", ASSETS / "coffee.jpg", "--weights", tmp_path / "none")
    assert "not a weight file that npconvnet knows" in refused(
        "classify", ASSETS / "coffee.jpg", "--weights", ASSETS / "coffee.jpg"
    )
    assert "PHOTO" in refused("classify")
    assert "nonsense" in refused("nonsense")


@pytest.mark.parametrize("views", [1, 10])
def test_evaluates_a_checkpoint(toy, checkpoint, views):
    done = npconvnet("evaluate", checkpoint, "--data", toy, "--views", views, "--json")
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout)
    assert errors["pictures"] == 30
    assert errors["views"] == views
    assert 0 <= errors["top5"] <= errors["top1"] <= 1
    line = npconvnet("evaluate", checkpoint, "--data", toy, "--views", views).stdout
    assert f"top-1 error {errors['top1']:.2%}" in line


def test_weights_and_data_that_do_not_belong_together(toy):
    line = refused("evaluate", ASSETS / "squeezenet1_1.safetensors", "--data", toy)
    assert "not among the 1000" in line


def test_evaluates_imagenet_classes_by_their_wnid(tmp_path):
    """A folder with three of the thousand classes is enough, wherever they stand among them."""
    for wnid, photo in [("n02124075", "chelsea"), ("n07920052", "coffee"), ("n03773504", "rocket")]:
        for split in ("train", "val"):
            folder = tmp_path / split / wnid
            folder.mkdir(parents=True)
            (folder / "a.JPEG").write_bytes((ASSETS / f"{photo}.jpg").read_bytes())
    done = npconvnet("evaluate", ASSETS / "squeezenet1_1.safetensors", "--data", tmp_path)
    assert "top-1 error 0.00%" in done.stdout
    assert "3 pictures" in done.stdout


def test_data_folder_missing_or_empty(checkpoint, tmp_path):
    assert "none" in refused("evaluate", checkpoint, "--data", tmp_path / "none")
    assert str(tmp_path) in refused("evaluate", checkpoint, "--data", tmp_path)


def test_make_toy_refuses_a_folder_in_use(tmp_path):
    (tmp_path / "mine.txt").touch()
    assert str(tmp_path) in refused("make-toy", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_help_does_not_wait_for_numpy():
    code = "import sys, npconvnet.cli; sys.exit('numpy' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert "classify" in npconvnet("--help").stdout


def test_every_command_that_computes_takes_threads():
    taking = {
        option: {name for name, command in commands.commands.items() if option in {p.name for p in command.params}}
        for option in ("device", "threads")
    }
    assert taking["threads"] == taking["device"] - {"evaluate-localization"}  # it takes --processes


def test_threads(own_threads, checkpoint, capsys):
    arguments = ["classify", str(ASSETS / "coffee.jpg"), "--weights", str(checkpoint)]
    printed = []
    for more, count in ([], own_threads), (["--threads", str(own_threads + 1)], own_threads + 1):
        commands.main([*arguments, *more], standalone_mode=False)
        assert threads() == count
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


@pytest.mark.parametrize("value", ["0", "-2", "1.5", "all"])
def test_threads_that_are_no_number(value):
    assert "'--threads'" in refused("classify", ASSETS / "coffee.jpg", "--threads", value)


def test_gpu_where_there_is_none():
    from npconvnet.backend import why_no_gpu

    if why_no_gpu() is None:
        pytest.skip("this machine has a GPU")
    assert "--device cpu" in refused("classify", ASSETS / "coffee.jpg", "--device", "gpu")
