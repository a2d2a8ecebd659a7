"""What training shows: pictures of a data set, the curves of a run, the filters of the first layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from npconvnet.data.ilsvrc import Dataset
from npconvnet.data.image import decode_image
from npconvnet.visualization.figures.canvas import BLUE, GREY, ORANGE, save_figure


def draw_training_curves(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Loss by step, and top-1 and top-5 validation error by epoch, from the records of training/log.py."""
    steps = [record for record in records if record["event"] == "step"]
    epochs = [record for record in records if record["event"] == "epoch"]
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        loss, error = figure.subplots(1, 2)
        loss.plot([r["step"] for r in steps], [r["loss"] for r in steps], color=GREY, linewidth=0.8, label="batch")
        ends = [r["step"] for r in epochs]
        loss.plot(ends, [r["training_loss"] for r in epochs], "o-", color=BLUE, markersize=3, label="epoch mean")
        loss.plot(ends, [r["validation_loss"] for r in epochs], "s--", color=ORANGE, markersize=3, label="validation")
        loss.set(xlabel="step", ylabel="cross-entropy (nats)", title="Loss", ylim=(0, None))
        loss.legend(frameon=False)
        numbers = [r["epoch"] for r in epochs]
        error.plot(numbers, [100 * r["top1_error"] for r in epochs], "o-", color=BLUE, markersize=3, label="top-1")
        error.plot(numbers, [100 * r["top5_error"] for r in epochs], "s--", color=ORANGE, markersize=3, label="top-5")
        error.set(xlabel="epoch", ylabel="error (%)", title="Validation error", ylim=(0, None))
        error.xaxis.get_major_locator().set_params(integer=True)
        error.legend(frameon=False)
        save_figure(figure, path)


def draw_filters(path: Path, filters: npt.NDArray[Any], title: str) -> None:
    """The filters (K, R, S, 3) of a first layer side by side, all on one scale: mid-grey is zero."""
    count = len(filters)
    columns = int(np.ceil(np.sqrt(count * 1.6)))
    rows = -(-count // columns)
    _, r, s, _ = filters.shape
    sheet = np.ones((rows * (r + 1) - 1, columns * (s + 1) - 1, 3))
    for number, picture in enumerate(0.5 + 0.5 * filters / max(np.abs(filters).max(), 1e-12)):
        y, x = divmod(number, columns)
        sheet[y * (r + 1) : y * (r + 1) + r, x * (s + 1) : x * (s + 1) + s] = picture
    figure = Figure(figsize=(6, 6 * rows / columns + 0.3), layout="constrained")
    axes = figure.subplots()
    axes.imshow(sheet, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)
    save_figure(figure, path)


def draw_samples(path: Path, dataset: Dataset, rows: int = 2) -> None:
    """`rows` training pictures of each class with their boxes; one column a class, all at the same scale."""
    classes = dataset.synsets
    figure = Figure(figsize=(1.2 * len(classes), 1.15 * rows + 0.25), layout="constrained")
    grid = figure.subplots(rows, len(classes), squeeze=False)
    for label, synset in enumerate(classes):
        examples = (example for example in dataset.train if example.label == label)
        for axes, example in zip(grid[:, label], examples, strict=False):
            axes.imshow(decode_image(example.read(), example.name))
            for box in dataset.boxes(example):
                corner, width, height = (
                    (box.x_min - 0.5, box.y_min - 0.5),
                    box.x_max - box.x_min + 1,
                    box.y_max - box.y_min + 1,
                )
                for colour, line in (("white", 2.4), ("black", 1.0)):  # visible on any background
                    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=line))
        grid[0, label].set_title(synset.names, fontsize=9)
    for axes in grid.ravel():
        axes.set_axis_off()
        axes.set_box_aspect(1)  # square cells, so that the titles stand in line
        axes.set_aspect("equal", adjustable="datalim")
    save_figure(figure, path)
