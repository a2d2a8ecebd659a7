"""`npconvnet localize` and `evaluate-localization` as a person types them."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.command_line import ASSETS, npconvnet, refused

FIELDS = {"photo", "index", "wnid", "name", "score", "box", "note"}


def test_one_photo(tmp_path):
    done = npconvnet("localize", ASSETS / "coffee.jpg", "--top", 2, "-o", tmp_path / "a.png")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert "espresso" in lines[0]
    assert "box" in lines[0]
    with Image.open(tmp_path / "a.png") as figure:
        assert figure.format == "PNG"


def test_json_for_a_class_of_choice(tmp_path):
    done = npconvnet("localize", ASSETS / "coffee.jpg", "--target", "cup", "--json", "-o", tmp_path / "a.png")
    record = json.loads(done.stdout)
    assert record.keys() == FIELDS
    assert (record["index"], record["name"]) == (968, "cup")


def test_a_folder_gives_a_sheet_and_a_line_for_each_photo(tmp_path, checkpoint, rng):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a", "c", "d"):
        Image.fromarray(rng.integers(0, 256, (60, 90, 3), np.uint8)).save(photos / f"{name}.png")
    (photos / "b.jpg").write_text("no image")
    done = npconvnet("localize", photos, "--weights", checkpoint, "-o", tmp_path / "sheet.png", "--neighborhood", 4)
    assert done.returncode == 2
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["photo"][-5:] for record in records] == ["a.png", "c.png", "d.png"]
    assert all(record.keys() == FIELDS for record in records)
    assert (tmp_path / "sheet.png").exists()
    assert done.stderr.strip().endswith("error: 1 of 4 photos failed; the others are done")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jpg"], "none.jpg: cannot be opened"),
        ([ASSETS / "coffee.jpg", "--target", "unicorn"], "no class is called 'unicorn'"),
        ([ASSETS / "coffee.jpg", "-o", "/none/a.png"], "there is no folder /none"),
        ([ASSETS / "coffee.jpg", "--neighborhood", "6"], "'6' is not one of '4', '8'"),
        ([ASSETS / "coffee.jpg", "--smoothness", "-1"], "not in the range"),
        ([ASSETS / "coffee.jpg", "--smoothness", "nan"], "have to be finite"),
        ([ASSETS / "coffee.jpg", "--center-prior", "nan"], "a center prior of nan"),
    ],
)
def test_bad_input(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused("localize", *arguments)
    assert not list(tmp_path.iterdir())


def evaluate(toy, checkpoint, folder, *arguments):
    return npconvnet(
        "evaluate-localization", "--data", toy, "--weights", checkpoint, "--results", folder / "r.jsonl", *arguments
    )


def test_a_run_that_was_stopped_goes_on_to_the_same_end(toy, checkpoint, tmp_path):
    whole = evaluate(toy, checkpoint, tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert "GraphCut" in whole.stdout
    assert "MaxBoxAccV2" in whole.stdout
    lines = (tmp_path / "r.jsonl").read_text().splitlines()
    assert len(lines) == 31  # what made them, and 30 images
    assert (tmp_path / "r.png").exists()
    (tmp_path / "r.jsonl").write_text("\n".join(lines[:28]) + "\n" + lines[28][:50])
    again = evaluate(toy, checkpoint, tmp_path, "--json", "--processes", 1)
    assert again.returncode == 0, again.stderr
    assert sorted((tmp_path / "r.jsonl").read_text().splitlines()) != sorted(lines)  # the line that was cut off stays
    assert json.loads(again.stdout)["images"] == 30
    for number in json.loads(again.stdout)["methods"]["GraphCut"].values():
        assert f"{number:.1%}" in whole.stdout


def test_results_of_other_options_are_kept(toy, checkpoint, tmp_path):
    (tmp_path / "r.jsonl").write_text('{"weights": "others"}\n')
    done = evaluate(toy, checkpoint, tmp_path)
    assert done.returncode == 2
    assert "other weights, data or options" in done.stderr
    assert (tmp_path / "r.jsonl").read_text() == '{"weights": "others"}\n'


def test_bad_data_sets(toy, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no such folder" in refused("evaluate-localization", "--data", "none", "--weights", checkpoint)
    assert "not among the 1000" in refused("evaluate-localization", "--data", toy)
    assert "there is no folder" in refused("evaluate-localization", "--data", toy, "--results", "none/r.jsonl")
