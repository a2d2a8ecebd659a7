"""The localisation error of a network on a data set with boxes, image by image, beside boxes that need no cut.

Every image becomes one record, a JSON object on a line of its own, so that a run that is stopped goes on where it was:

    {"name": …, "label": …, "guesses": […], "methods": {"GraphCut": {"boxes": […], "localization_top5": …}, …}, …}

The last of `boxes` is the answer for the true class, and the others belong to `guesses`. The records are summed up by
`summarise`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npconvnet.backend import Device, use_gpu
from npconvnet.data.ilsvrc import Dataset, Example
from npconvnet.data.image import decode_image
from npconvnet.errors import InputError
from npconvnet.localization.bounding_box import Box, central_box, threshold_box, whole_image_box
from npconvnet.localization.clsloc import (
    GUESSES,
    ClsLoc,
    best_iou,
    errors,
    max_box_accuracy,
    max_box_hits,
    points_at,
    score_guesses,
)
from npconvnet.localization.graph_cut import CutOptions
from npconvnet.network import Network
from npconvnet.processes import process_pool
from npconvnet.synsets import imagenet_synsets
from npconvnet.training.evaluation import labelled_for
from npconvnet.visualization.figures.localization import Case
from npconvnet.weak_localization.find import FoundObject, find_objects
from npconvnet.weights import bundled_network, load_network

Record = dict[str, Any]

OURS = "GraphCut"
#: The shape of one image's part in MaxBoxAcc.
_HITS_SHAPE = (4, 255)


@dataclass(frozen=True, slots=True)
class Task:
    """One validation image with its class among those of the network, and its boxes of that class."""

    example: Example
    label: int
    boxes: tuple[Box, ...]


def tasks(network: Network, dataset: Dataset) -> list[Task]:
    """The validation images that can be scored: not on the blacklist, and with a box of their class.

    Raises InputError where there is none, and where the network does not know the classes.
    """
    labels = [example.label for example in labelled_for(network, dataset)]
    found = [
        Task(example, label, boxes)
        for example, label in zip(dataset.validation, labels, strict=True)
        if example.name not in dataset.blacklist and (boxes := _boxes_of_its_class(dataset, example))
    ]
    if not found:
        raise InputError(f"{dataset.root}: no validation image has a box of its class; add the annotations (VOC XML)")
    return found


def note_on_blacklist(dataset: Dataset) -> str:
    """A sentence where the challenge leaves images out and the list of them is missing."""
    if dataset.blacklist or [each.wnid for each in dataset.synsets] != [each.wnid for each in imagenet_synsets()]:
        return ""
    return (
        "the challenge's blacklist is not there (ILSVRC2014_devkit or *blacklist*.txt): every image with boxes counts"
    )


def _boxes_of_its_class(dataset: Dataset, example: Example) -> tuple[Box, ...]:
    boxes = (box for box in dataset.boxes(example) if box.label == example.label)
    return tuple((box.x_min, box.y_min, box.x_max, box.y_max) for box in boxes)


# -- one image -------------------------------------------------------------------------------------------------------


def evaluate_image(network: Network, task: Task, options: CutOptions, seed: int) -> Record:
    """The record of one image; of one that can't be read, its name and the reason."""
    try:
        photo = decode_image(task.example.read(), task.example.name)
    except InputError as error:
        return {"name": task.example.name, "unreadable": str(error)}
    height, width, _ = photo.shape
    objects = find_objects(network, photo, GUESSES, [task.label], options, seed)
    guesses = objects[: min(GUESSES, len(network.synsets))]
    known = next(each for each in objects if each.index == task.label)
    answers = {
        OURS: _boxes(guesses, known, lambda each: each.found.box),
        "threshold of the map": _boxes(guesses, known, lambda each: threshold_box(each.saliency)),
        "central box": [central_box(height, width)] * (len(guesses) + 1),
        "whole image": [whole_image_box(height, width)] * (len(guesses) + 1),
    }
    labels = [guess.index for guess in guesses]
    return {
        "name": task.example.name,
        "label": task.label,
        "guesses": labels,
        "methods": {
            method: {"boxes": boxes, **asdict(_score(labels, boxes, task))} for method, boxes in answers.items()
        },
        "iou": best_iou(known.found.box, task.boxes),
        "note": known.found.note,
        "pointing": points_at(known.saliency, task.boxes),
        "max_box_hits": np.packbits(max_box_hits(known.saliency, task.boxes)).tobytes().hex(),
    }


def _boxes(guesses: Sequence[FoundObject], known: FoundObject, box_of: Callable[[FoundObject], Box]) -> list[Box]:
    return [box_of(each) for each in (*guesses, known)]


def _score(labels: Sequence[int], boxes: Sequence[Box], task: Task) -> ClsLoc:
    return score_guesses(list(zip(labels, boxes[:-1], strict=True)), boxes[-1], task.label, task.boxes)


# -- all images ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """What the records of one file have in common: the network (None: the bundled one), and how it looks.

    Of the GPUs of the machine, `local_rank` takes its own.
    """

    weights: Path | None
    device: Device
    options: CutOptions
    seed: int
    local_rank: int = 0

    def origin(self, chosen: Sequence[Task]) -> Record:
        """What must be the same for results to stand in one file: weights, images with their boxes, options."""
        weights = _digest(self.weights.read_bytes()) if self.weights else "bundled SqueezeNet 1.1"
        images = _digest(repr([(task.example.name, task.label, task.boxes) for task in chosen]).encode())
        return {"weights": weights, "images": images, "options": asdict(self.options), "seed": self.seed}

    def network(self) -> Network:
        """The network, on its device."""
        if self.device == "gpu":
            use_gpu(self.local_rank)
        return (load_network(self.weights) if self.weights else bundled_network()).to(self.device)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def evaluate(run: Run, chosen: Sequence[Task], processes: int) -> Iterator[Record]:
    """The records of the `chosen` images, in their order, from so many processes at once.

    Raises InputError where one of them dies.
    """
    with process_pool(processes, _begin, (run,)) as pool:
        yield from pool.map(_work, chosen)


def _begin(run: Run) -> None:
    """Prepares a new process."""
    _OF_THIS_PROCESS.update(run=run, network=run.network())


def _work(task: Task) -> Record:
    run: Run = _OF_THIS_PROCESS["run"]
    return evaluate_image(_OF_THIS_PROCESS["network"], task, run.options, run.seed)


#: What `_begin` prepared; each process has its own.
_OF_THIS_PROCESS: dict[str, Any] = {}


# -- the file of records ---------------------------------------------------------------------------------------------


class Records:
    """A JSON-lines file: a line that says what made it, then a record an image; a rerun goes on with the same file."""

    def __init__(self, path: Path, origin: Record) -> None:
        """Opens or begins `path`; raises InputError where other weights, data or options made what stands there."""
        self.path = path
        try:
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); give another file") from error
        whole = [record for record in map(_parsed, text.split("\n")) if record is not None]
        if text and whole[:1] != [origin]:
            raise InputError(f"{path}: holds the results of other weights, data or options; give another file")
        self.found: dict[str, Record] = {record["name"]: record for record in whole[1:] if "name" in record}
        if not text:
            self._append(json.dumps(origin))
        elif not text.endswith("\n"):
            self._append("")  # ends the line that a crash has cut off

    def add(self, record: Record) -> None:
        """Appends one record."""
        self.found[record["name"]] = record
        self._append(json.dumps(record))

    def _append(self, line: str) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); choose another place") from error


def _parsed(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None


# -- the summary -----------------------------------------------------------------------------------------------------


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """The errors of each method, MaxBoxAcc and the pointing game, all from 0 to 1, over the images that were read.

    Raises InputError where not one could be.
    """
    read = [record for record in records if "unreadable" not in record]
    if not read:
        raise InputError(f"not one of the {len(records)} images could be read")
    methods = {
        method: errors([_cls_loc(record["methods"][method]) for record in read]) for method in read[0]["methods"]
    }
    hits = sum((_unpacked(record["max_box_hits"]) for record in read), np.zeros(_HITS_SHAPE, np.int64))
    v1, v2 = max_box_accuracy(hits, len(read))
    return {
        "images": len(read),
        "unreadable": [record["name"] for record in records if "unreadable" in record],
        "methods": methods,
        "max_box_accuracy_v1": v1,
        "max_box_accuracy_v2": v2,
        "pointing_game": sum(record["pointing"] for record in read) / len(read),
        "nothing_found": sum(record["note"] is not None for record in read),
    }


def best_and_worst(tasks: Sequence[Task], records: dict[str, Record], count: int) -> list[tuple[str, list[Case]]]:
    """The cases with the largest and with the smallest overlap, told the true class, for figures.draw_sheet."""
    read = [task for task in tasks if "unreadable" not in records[task.example.name]]
    ranked = sorted(read, key=lambda task: -records[task.example.name]["iou"])
    best, worst = ranked[:count], ranked[count:][-count:]
    return [(name, [_case(task, records) for task in chosen]) for name, chosen in (("best", best), ("worst", worst))]


def _case(task: Task, records: dict[str, Record]) -> Case:
    record = records[task.example.name]
    photo = decode_image(task.example.read(), task.example.name)
    box = tuple(record["methods"][OURS]["boxes"][-1])
    return Case.of(photo, f"{Path(task.example.name).stem}\nIoU {record['iou']:.2f}", box, task.boxes)


def _cls_loc(scored: Record) -> ClsLoc:
    return ClsLoc(**{name: scored[name] for name in ClsLoc.__dataclass_fields__})


def _unpacked(text: str) -> Any:
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=int(np.prod(_HITS_SHAPE)))
    return bits.reshape(_HITS_SHAPE).astype(np.int64)


def as_table(summary: dict[str, Any]) -> str:
    """The summary for people to read; errors in percent."""
    lines = [f"{'localisation error':<22}{'top-5':>8}{'top-1':>8}{'class known':>13}"]
    for method, found in summary["methods"].items():
        lines.append(
            f"{method:<22}{found['localization_top5']:>8.1%}{found['localization_top1']:>8.1%}"
            f"{found['localization_known_class']:>13.1%}"
        )
    ours = summary["methods"][OURS]
    lines.append(
        f"{'(classification error)':<22}{ours['classification_top5']:>8.1%}{ours['classification_top1']:>8.1%}{'-':>13}"
    )
    lines.append(
        f"of the map itself: MaxBoxAcc {summary['max_box_accuracy_v1']:.1%}, "
        f"MaxBoxAccV2 {summary['max_box_accuracy_v2']:.1%}, pointing game {summary['pointing_game']:.1%}"
    )
    return "\n".join(lines)
