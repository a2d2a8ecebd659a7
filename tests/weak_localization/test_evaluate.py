"""The localisation error of a data set: which images count, what is written down, and what comes of it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from npconvnet.data.ilsvrc import open_dataset
from npconvnet.data.image import decode_image
from npconvnet.errors import InputError
from npconvnet.localization.graph_cut import CutOptions
from npconvnet.localization.localize import localize
from npconvnet.visualization.saliency import explain
from npconvnet.weak_localization import evaluate
from npconvnet.weak_localization.evaluate import OURS, Records, Run, best_and_worst, evaluate_image, summarise, tasks
from npconvnet.weights import load_network

OPTIONS = CutOptions(components=2)


@pytest.fixture
def network(checkpoint):
    return load_network(checkpoint)


@pytest.fixture
def dataset(toy):
    return open_dataset(toy)


@pytest.fixture
def some(network, dataset):
    return tasks(network, dataset)[:3]


# -- which images count ----------------------------------------------------------------------------------------------


def test_every_image_with_a_box_of_its_class_counts(network, dataset):
    found = tasks(network, dataset)
    assert [task.example for task in found] == list(dataset.validation)
    for task in found:
        expected = [box for box in dataset.boxes(task.example) if box.label == task.example.label]
        assert task.boxes == tuple((box.x_min, box.y_min, box.x_max, box.y_max) for box in expected)


def test_blacklisted_images_do_not(network, dataset):
    names = frozenset(example.name for example in dataset.validation[:4])
    assert len(tasks(network, replace(dataset, blacklist=names))) == len(dataset.validation) - 4


def test_labels_are_those_of_the_network_and_boxes_those_of_the_data_set(network, dataset):
    network.synsets = network.synsets[::-1]
    for task in tasks(network, dataset):
        assert task.label == len(network.synsets) - 1 - task.example.label
        assert task.boxes


def test_a_data_set_without_boxes_is_refused(network, dataset, monkeypatch):
    monkeypatch.setattr(type(dataset), "boxes", lambda self, example: [])
    with pytest.raises(InputError, match="no validation image has a box of its class"):
        tasks(network, dataset)


# -- one image -------------------------------------------------------------------------------------------------------


def test_the_record_of_an_image(network, some):
    record = evaluate_image(network, some[0], OPTIONS, seed=0)
    assert json.loads(json.dumps(record)) | {"methods": 0} == record | {"methods": 0}
    assert len(record["guesses"]) == len(set(record["guesses"])) == 5
    assert record["methods"].keys() == {OURS, "threshold of the map", "central box", "whole image"}
    for answer in record["methods"].values():
        assert len(answer["boxes"]) == 6  # one for each guess, and one for the true class
        assert answer["classification_top5"] == (some[0].label in record["guesses"])
    photo = decode_image(some[0].example.read(), "")
    (known,) = explain(network, [photo], some[0].label)
    assert record["methods"][OURS]["boxes"][-1] == localize(photo, known.map, OPTIONS, 0).box


def test_an_image_that_cannot_be_read(network, some, tmp_path):
    (tmp_path / "broken.jpg").write_text("no image")
    example = replace(some[0].example, path=tmp_path / "broken.jpg")
    record = evaluate_image(network, replace(some[0], example=example), OPTIONS, seed=0)
    assert record.keys() == {"name", "unreadable"}


def test_processes_change_nothing(checkpoint, network, some):
    run = Run(checkpoint, "cpu", OPTIONS, seed=0)
    for found, task in zip(evaluate.evaluate(run, some, processes=2), some, strict=True):
        expected = evaluate_image(network, task, OPTIONS, seed=0)
        assert found["name"] == expected["name"]
        assert found["methods"] == expected["methods"]


# -- the file --------------------------------------------------------------------------------------------------------

ORIGIN = {"weights": "some", "seed": 0}


def test_a_rerun_goes_on(tmp_path):
    Records(tmp_path / "r.jsonl", ORIGIN).add({"name": "a", "iou": 0.5})
    again = Records(tmp_path / "r.jsonl", ORIGIN)
    assert again.found == {"a": {"name": "a", "iou": 0.5}}
    again.add({"name": "b"})
    assert list(Records(tmp_path / "r.jsonl", ORIGIN).found) == ["a", "b"]


def test_a_line_that_a_crash_cut_off_is_left_out(tmp_path):
    path = tmp_path / "r.jsonl"
    Records(path, ORIGIN).add({"name": "a"})
    with path.open("a") as file:
        file.write('{"name": "b", "io')
    Records(path, ORIGIN).add({"name": "c"})
    assert list(Records(path, ORIGIN).found) == ["a", "c"]


@pytest.mark.parametrize("text", ['{"weights": "others", "seed": 0}\n', "notes\n", '{"name": "a"}\n'])
def test_the_results_of_something_else_are_not_touched(text, tmp_path):
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(InputError, match="other weights, data or options"):
        Records(tmp_path / "r.jsonl", ORIGIN)
    assert (tmp_path / "r.jsonl").read_text() == text


def test_what_made_the_results(checkpoint, some, tmp_path):
    run = Run(checkpoint, "cpu", OPTIONS, seed=0)
    (tmp_path / "copy").write_bytes(checkpoint.read_bytes())
    assert run.origin(some) == replace(run, weights=tmp_path / "copy").origin(some)
    (tmp_path / "copy").write_bytes(b"other")
    for other in (replace(run, weights=tmp_path / "copy"), replace(run, seed=1), replace(run, options=CutOptions())):
        assert run.origin(some) != other.origin(some)
    moved = [replace(some[0], boxes=((0, 0, 1, 1),)), *some[1:]]
    assert run.origin(some) != run.origin(moved)


def test_lines_that_are_no_records_are_left_out(tmp_path):
    path = tmp_path / "r.jsonl"
    Records(path, ORIGIN).add({"name": "grün"})
    path.write_bytes(path.read_bytes() + json.dumps(ORIGIN).encode() + b"\n" + '{"name": "ü'.encode()[:-1])
    assert list(Records(path, ORIGIN).found) == ["grün"]


def test_a_process_that_dies_is_one_line(checkpoint, some, monkeypatch):
    run = Run(checkpoint.with_name("gone.safetensors"), "cpu", OPTIONS, seed=0)
    with pytest.raises(InputError, match="a process died"):
        list(evaluate.evaluate(run, some, processes=1))


# -- the summary -----------------------------------------------------------------------------------------------------


def record(name, right, pointing=True, level=0):
    """A record of an image that every method gets `right`: (class top-1, class top-5, box top-1, top-5, known)."""
    names = ("classification_top1", "classification_top5", "localization_top1", "localization_top5")
    fields = dict(zip((*names, "localization_known_class"), right, strict=True))
    hits = np.zeros((4, 255), bool)
    hits[:, level] = True
    packed = np.packbits(hits).tobytes().hex()
    return {
        "name": name, "label": 0, "guesses": [0], "methods": {OURS: {"boxes": [[0, 0, 1, 1]] * 2, **fields}},
        "iou": 0.5, "note": None, "pointing": pointing, "max_box_hits": packed,
    }  # fmt: skip


def test_errors_by_hand():
    summary = summarise(
        [
            record("a", (True, True, True, True, True), level=3),
            record("b", (False, True, False, True, True), level=3),
            record("c", (False, True, False, False, False), pointing=False, level=9),
            record("d", (False, False, False, False, True), level=3),
            {"name": "e", "unreadable": "why"},
        ]
    )
    assert summary["images"] == 4
    assert summary["unreadable"] == ["e"]
    assert summary["methods"][OURS] == {
        "classification_top1": 0.75,
        "classification_top5": 0.25,
        "localization_top1": 0.75,
        "localization_top5": 0.5,
        "localization_known_class": 0.25,
    }
    assert summary["max_box_accuracy_v1"] == summary["max_box_accuracy_v2"] == 0.75  # the best threshold of all
    assert summary["pointing_game"] == 0.75
    (_, ours, classification, _) = evaluate.as_table(summary).splitlines()
    assert ours.split() == [OURS, "50.0%", "75.0%", "25.0%"]
    assert classification.split()[-3:] == ["25.0%", "75.0%", "-"]


def test_nothing_could_be_read():
    with pytest.raises(InputError, match="not one of the 1 images could be read"):
        summarise([{"name": "e", "unreadable": "why"}])


def test_best_and_worst_do_not_overlap(network, some):
    records = {task.example.name: evaluate_image(network, task, OPTIONS, seed=0) for task in some}
    (best, first), (worst, last) = best_and_worst(some, records, 2)
    assert (best, worst) == ("best", "worst")
    assert (len(first), len(last)) == (2, 1)
    assert len({case.title for case in first + last}) == 3
