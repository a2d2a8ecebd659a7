import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from npconvnet.data import toy, toy_pictures
from npconvnet.data.ilsvrc import Box, open_dataset
from npconvnet.data.toy import make_toy
from npconvnet.data.toy_pictures import TOY_SYNSETS, draw_picture
from npconvnet.errors import InputError

TRAIN, VALIDATION = 3, 2
DATA, ANNOTATIONS = "ILSVRC/Data/CLS-LOC", "ILSVRC/Annotations/CLS-LOC"
ENDS = ("xmin", "ymin", "xmax", "ymax")


def make_small(directory, seed=0, workers=1):
    make_toy(directory, seed, TRAIN, VALIDATION, workers)
    return directory


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_small(tmp_path_factory.mktemp("sets") / "toy")


def checksums(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def solutions(root, split):
    with (root / f"LOC_{split}_solution.csv").open() as file:
        return {row["ImageId"]: row["PredictionString"] for row in csv.DictReader(file)}


# ---- Pictures -------------------------------------------------------------------------------------------------------


@cache
def pictures(label):
    return [draw_picture(label, np.random.default_rng([label, number])) for number in range(30)]


@pytest.mark.parametrize("label", range(len(TOY_SYNSETS)))
def test_pictures_vary_in_size_and_hold_an_object_of_6_to_50_percent(label):
    drawn = pictures(label)
    for image, mask in drawn:
        assert image.dtype == np.uint8
        assert image.shape == (*mask.shape, 3)
        assert all(96 <= side <= 160 for side in mask.shape)
        x_min, y_min, x_max, y_max = toy_pictures.bounding_box(mask)
        assert 0.06 <= (x_max - x_min + 1) * (y_max - y_min + 1) / mask.size <= 0.5
    assert len({image.shape for image, _ in drawn}) > 20


@pytest.mark.parametrize("label", range(len(TOY_SYNSETS)))
def test_objects_survive_the_centre_crop(label):
    for _, mask in pictures(label):
        height, width = mask.shape
        short = min(mask.shape)
        top, left = (height - short) // 2, (width - short) // 2
        assert mask[top : top + short, left : left + short].sum() >= 0.85 * mask.sum()


@pytest.mark.parametrize("label", range(len(TOY_SYNSETS)))
def test_objects_stand_out_from_what_surrounds_them(label):
    """Object pixels are farther from the mean colour around the object than the pixels around it are."""
    for image, mask in pictures(label):
        x_min, y_min, x_max, y_max = toy_pictures.bounding_box(mask)
        window = np.s_[y_min : y_max + 1, x_min : x_max + 1]
        colours, inside = image[window].astype(float), mask[window]
        distance = np.linalg.norm(colours - colours[~inside].mean(axis=0), axis=2)
        assert distance[inside].mean() > 2 * distance[~inside].mean()
        assert distance[inside].mean() > 40


@pytest.mark.parametrize("label", range(len(TOY_SYNSETS)))
def test_the_mask_is_every_pixel_that_the_object_touches(label, monkeypatch):
    """Painting the object in another colour changes these pixels and no others."""
    for seed in range(5):
        drawn = []
        for colour in (60, 180):
            paint = np.full(3, colour, np.float32)
            monkeypatch.setattr(toy_pictures, "_object_colours", lambda *_, paint=paint, **__: (paint, paint))
            drawn.append(draw_picture(label, np.random.default_rng(seed)))
        (dark, mask), (light, _) = drawn
        np.testing.assert_array_equal((dark != light).any(axis=2), mask)


def test_rings_have_no_seam():
    """Between the middles of its hole and its rim, a ring is covered all the way round."""
    for seed in range(100):
        rng = np.random.default_rng(seed)
        outline = toy_pictures._place(rng, toy_pictures._ring(rng), 160, 160)
        outer, inner = outline[:60], outline[:59:-1]
        x, y = ((outer + inner) / 2).astype(int).T
        inside = (x >= 0) & (x < 160) & (y >= 0) & (y < 160)
        assert toy_pictures._coverage(outline, 160, 160)[y[inside], x[inside]].min() == 1


def test_the_box_is_the_first_and_last_row_and_column_of_the_mask():
    mask = np.zeros((9, 12), bool)
    mask[2, 5] = mask[7, 3] = mask[4, 11] = True
    assert toy_pictures.bounding_box(mask) == (3, 2, 11, 7)


def test_colour_does_not_give_the_class():
    """Of half the pictures, few are nearest to their own class's average in the mean and spread of their colours."""
    colours = np.array(
        [[(*image.mean(axis=(0, 1)), *image.std(axis=(0, 1))) for image, _ in pictures(label)] for label in range(10)]
    )
    averages = colours[:, ::2].mean(axis=1)
    distances = np.linalg.norm(colours[:, 1::2, None] - averages, axis=-1)
    assert np.mean(distances.argmin(axis=-1) == np.arange(10)[:, None]) < 0.3


def test_the_nearest_picture_does_not_give_the_class():
    """Nearest neighbours on grey 16x16 thumbnails do little better than chance: shapes move and turn."""
    thumbnails = np.array(
        [
            [
                np.asarray(Image.fromarray(image).convert("L").resize((16, 16)), np.float64)
                for image, _ in pictures(label)
            ]
            for label in range(10)
        ]
    ).reshape(300, 256)
    distances = ((thumbnails[:, None] - thumbnails[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    labels = np.arange(300) // 30
    assert np.mean(labels[distances.argmin(axis=1)] == labels) < 0.5


# ---- The set --------------------------------------------------------------------------------------------------------


def test_the_set_reads_as_ilsvrc(root):
    dataset = open_dataset(root)
    assert dataset.synsets == TOY_SYNSETS
    assert Counter(example.label for example in dataset.train) == dict.fromkeys(range(10), TRAIN)
    assert Counter(example.label for example in dataset.validation) == dict.fromkeys(range(10), VALIDATION)
    assert len(set(dataset.train) | set(dataset.validation)) == 10 * (TRAIN + VALIDATION)


def test_labels_and_boxes_are_those_of_the_drawn_objects(root):
    dataset = open_dataset(root)
    drawn = {picture.image_id: picture for picture in toy._pictures(json.loads((root / "toy.json").read_text()))}
    for example in [*dataset.train, *dataset.validation]:
        picture = drawn[example.path.stem]
        assert example.label == picture.label
        split = ["train", "val"].index(picture.split)
        image, mask = draw_picture(picture.label, np.random.default_rng([0, split, picture.label, picture.number]))
        with Image.open(example.path) as file:
            assert file.format == "JPEG"
            assert np.abs(np.asarray(file, float) - image).mean() < 12  # it is that picture, but for the compression
        assert dataset.boxes(example) == [Box(picture.label, *toy_pictures.bounding_box(mask))]


def test_the_solution_files_agree_with_the_annotations(root):
    for split in ("train", "val"):
        rows = solutions(root, split)
        files = {path.stem: path for path in (root / ANNOTATIONS / split).rglob("*.xml")}
        assert rows.keys() == files.keys() == {path.stem for path in (root / DATA / split).rglob("*.JPEG")}
        for image_id, path in files.items():
            annotation = ElementTree.parse(path).getroot()
            values = [annotation.findtext(f"object/{name}") for name in ("name", *(f"bndbox/{end}" for end in ENDS))]
            assert rows[image_id].split() == values
            assert annotation.findtext("filename") == image_id
            assert annotation.findtext("folder") == path.parent.name


def test_validation_pictures_are_shuffled_over_the_classes(root):
    labels = [example.label for example in sorted(open_dataset(root).validation, key=lambda example: example.name)]
    assert labels != sorted(labels)


def test_a_seed_gives_the_same_files_whatever_the_number_of_workers(root, tmp_path):
    assert checksums(make_small(tmp_path / "toy", workers=2)) == checksums(root)


def test_another_seed_gives_other_pictures(root, tmp_path):
    other, first = checksums(make_small(tmp_path / "toy", seed=1)), checksums(root)
    pictures_of_first = {digest for name, digest in first.items() if name.endswith(".JPEG")}
    assert other.keys() == first.keys()
    assert pictures_of_first.isdisjoint(other.values())
    assert len(pictures_of_first) == 10 * (TRAIN + VALIDATION)


def test_training_pictures_do_not_depend_on_how_many_there_are(root, tmp_path):
    make_toy(tmp_path / "toy", 0, 1, 1, workers=1)
    few, many = checksums(tmp_path / "toy"), checksums(root)
    train = [name for name in few if name.startswith(f"{DATA}/train")]
    assert len(train) == 10
    assert all(few[name] == many[name] for name in train)


def test_a_progress_bar_runs_on_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    make_toy(tmp_path / "toy", 0, 1, 1, workers=1)
    out, err = capsys.readouterr()
    assert out == ""
    assert "20/20" in err


# ---- What is there already ------------------------------------------------------------------------------------------


def test_a_finished_set_is_left_as_it_is(tmp_path, capsys):
    directory = make_small(tmp_path / "toy")
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    capsys.readouterr()
    make_small(directory)
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before
    assert capsys.readouterr().err == ""


def test_an_empty_folder_and_missing_parents_will_do(root, tmp_path):
    (tmp_path / "empty").mkdir()
    for directory in (tmp_path / "empty", tmp_path / "new" / "toy"):
        assert checksums(make_small(directory)) == checksums(root)


@pytest.mark.parametrize("arguments", [(1, TRAIN, VALIDATION), (0, 1, VALIDATION), (0, TRAIN, 1)])
def test_a_set_of_other_arguments_is_refused(root, arguments):
    before = checksums(root)
    with pytest.raises(InputError, match="made with other arguments"):
        make_toy(root, *arguments)
    assert checksums(root) == before


@pytest.mark.parametrize("name", ["thesis.txt", "toy.json"])
def test_a_folder_with_other_things_is_refused_and_kept(tmp_path, name):
    (tmp_path / name).write_text("{ not a toy set")
    with pytest.raises(InputError, match="not empty"):
        make_small(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_is_refused(tmp_path):
    (tmp_path / "toy").write_text("")
    with pytest.raises(InputError, match="this is a file"):
        make_small(tmp_path / "toy")


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"toy: cannot write the toy set \(Not a directory\)"):
        make_small(tmp_path / "file" / "toy")


def test_the_current_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="current folder"):
        make_small(Path())


@pytest.mark.parametrize(
    ("name", "value"), [("seed", -1), ("train_per_class", 0), ("validation_per_class", 0), ("workers", 0)]
)
def test_impossible_numbers_are_refused(tmp_path, name, value):
    with pytest.raises(InputError, match=f"{name} is {value}"):
        make_toy(tmp_path / "toy", **{name: value})
    assert not any(tmp_path.iterdir())


# ---- Interruptions --------------------------------------------------------------------------------------------------


def run_make_toy(directory, per_class, before=""):
    """`make_toy` in a process of its own, with two workers; `before` is run first."""
    code = f"{before}\nfrom pathlib import Path\nfrom npconvnet.data.toy import make_toy\n"
    code += f"make_toy(Path({str(directory)!r}), 0, {per_class}, 1, workers=2)"
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def wait_for_pictures(parent):
    deadline = time.monotonic() + 60
    while not any(parent.rglob("*.JPEG")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ctrl_c_leaves_nothing(tmp_path):
    process = run_make_toy(tmp_path / "toy", 2_000)
    wait_for_pictures(tmp_path)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert not any(tmp_path.iterdir())


def test_a_killed_run_leaves_no_set_and_no_process_and_the_next_makes_one(root, tmp_path):
    directory = tmp_path / "toy"
    process = run_make_toy(directory, 2_000)
    wait_for_pictures(tmp_path)
    process.kill()
    process.communicate(timeout=60)  # returns once no worker holds stderr any more
    leftover = next(tmp_path.iterdir())
    assert leftover != directory
    make_small(directory)
    assert checksums(directory) == checksums(root)
    assert leftover.exists()  # it might belong to a live process


def test_leftovers_are_removed_after_a_day(tmp_path):
    yesterday = time.time() - 100_000
    for name, made in (
        (".toy.0a.unfinished", yesterday),
        (".toy.0b.unfinished", time.time()),
        (".toy2.0a.unfinished", yesterday),
    ):
        (tmp_path / name / "ILSVRC").mkdir(parents=True)
        os.utime(tmp_path / name, (made, made))
    make_small(tmp_path / "toy")
    assert {path.name for path in tmp_path.iterdir()} == {".toy.0b.unfinished", ".toy2.0a.unfinished", "toy"}


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))"  # bytes a file: no JPEG fits
    process = run_make_toy(tmp_path / "toy", 2, before=limit)
    error = process.communicate(timeout=60)[1]
    assert f"InputError: {tmp_path / 'toy'}: cannot write the toy set (File too large)" in error
    assert not any(tmp_path.iterdir())


def test_two_processes_may_make_the_same_set_at_once(root, tmp_path, monkeypatch):
    """The other one finishes first, between our drawing and our renaming."""
    directory, rename = tmp_path / "toy", toy._rename

    def overtaken(*arguments):
        monkeypatch.setattr(toy, "_rename", rename)
        make_small(directory)
        rename(*arguments)

    monkeypatch.setattr(toy, "_rename", overtaken)
    make_small(directory)
    assert checksums(directory) == checksums(root)
    assert list(tmp_path.iterdir()) == [directory]


def test_another_set_that_came_first_is_kept(tmp_path, monkeypatch):
    directory, rename = tmp_path / "toy", toy._rename

    def overtaken(*arguments):
        monkeypatch.setattr(toy, "_rename", rename)
        make_small(directory, seed=1)
        rename(*arguments)

    monkeypatch.setattr(toy, "_rename", overtaken)
    with pytest.raises(InputError, match="other arguments"):
        make_small(directory)
    assert json.loads((directory / "toy.json").read_text())["seed"] == 1
    assert list(tmp_path.iterdir()) == [directory]
