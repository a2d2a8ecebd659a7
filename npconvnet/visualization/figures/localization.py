"""Objects that were found: the seeds of the cut, the outline of the mask, and the box, over the photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from npconvnet.localization.bounding_box import Box, Mask
from npconvnet.localization.localize import Localization
from npconvnet.preprocessing import Picture
from npconvnet.visualization.figures.canvas import BLUE, ORANGE, save_figure, show_picture, thumbnail

#: Photos side by side on a sheet, and the pixels of the longer side of each there and in a figure of its own.
COLUMNS, SHEET_PIXELS, PANEL_PIXELS = 5, 320, 700


def draw_objects(path: Path, photo: Picture, objects: Sequence[tuple[str, Localization]], title: str) -> None:
    """For each object, by its name, the photo with the seeds of the cut, and with its answer."""
    size = (photo.shape[0], photo.shape[1])
    width = 3.2
    height = min(max(width * size[0] / size[1], 0.9), 5.0)
    figure = Figure(figsize=(2 * width + 0.3, len(objects) * (height + 0.35) + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(len(objects), 2, squeeze=False)
    stride = max(1, max(size) // PANEL_PIXELS)
    for (seeded, answered), (name, found) in zip(grid, objects, strict=True):
        show_picture(seeded, _tinted(photo, found)[::stride, ::stride], "seeds of the cut", extent=_extent(size))
        show_picture(answered, photo[::stride, ::stride], name, extent=_extent(size))
        _outline(answered, found.mask[::stride, ::stride], size)
        _frame(answered, found.box)
    seeds = [Patch(color=ORANGE, label="foreground"), Patch(color=BLUE, label="background")]
    grid[0, 0].legend(handles=seeds, loc="lower left", fontsize=7)
    save_figure(figure, path)


@dataclass(frozen=True, slots=True)
class Case:
    """One photo of a sheet, small: `size` (H, W) is its own, to which the boxes belong.

    `box` is what was found, `truth` the true boxes where they are known; the mask may be missing.
    """

    picture: Picture
    size: tuple[int, int]
    title: str
    box: Box
    truth: Sequence[Box] = ()
    mask: Mask | None = None

    @classmethod
    def of(cls, photo: Picture, title: str, box: Box, truth: Sequence[Box] = (), mask: Mask | None = None) -> Case:
        """The case of a `photo` of any size; a hundred of these must fit into memory."""
        stride = max(1, max(photo.shape) // SHEET_PIXELS)
        small = None if mask is None else mask[::stride, ::stride]
        return cls(thumbnail(photo, SHEET_PIXELS), (photo.shape[0], photo.shape[1]), title, box, truth, small)


def draw_sheet(path: Path, rows: Sequence[tuple[str, Sequence[Case]]]) -> None:
    """Photos with their boxes, the true ones dashed; each of the named `rows` is broken into lines of COLUMNS."""
    lines = [
        (name if first == 0 else "", cases[first : first + COLUMNS])
        for name, cases in rows
        for first in range(0, len(cases), COLUMNS)
    ]
    columns = max(len(cases) for _, cases in lines)
    figure = Figure(figsize=(2.1 * columns, 2.1 * len(lines)), layout="constrained")
    grid = figure.subplots(len(lines), columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for row, (name, cases) in zip(grid, lines, strict=True):
        for axes, case in zip(row, cases, strict=False):
            _draw_case(axes, case)
        row[0].text(-0.05, 0.5, name, rotation=90, va="center", ha="right", fontsize=9, transform=row[0].transAxes)
    if any(case.truth for _, cases in rows for case in cases):
        boxes = [
            Line2D([], [], color=ORANGE, label="found, told the class"),
            Line2D([], [], color="black", linestyle="--", label="true (white and dashed)"),
        ]
        figure.legend(handles=boxes, loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    save_figure(figure, path)


def _draw_case(axes: Axes, case: Case) -> None:
    height, width = case.size
    show_picture(axes, case.picture, extent=_extent(case.size))
    axes.set_title(case.title, fontsize=7)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    for box in case.truth:
        _frame(axes, box, "white", "--")
    if case.mask is not None:
        _outline(axes, case.mask, case.size)
    _frame(axes, case.box)


def _extent(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Where a picture reduced to fewer pixels lies among the pixels of the photo of this size."""
    return -0.5, size[1] - 0.5, size[0] - 0.5, -0.5


def _tinted(photo: Picture, found: Localization) -> npt.NDArray[np.float64]:
    tinted: npt.NDArray[np.float64] = photo / 255
    for seeds, colour in ((found.foreground_seeds, ORANGE), (found.background_seeds, BLUE)):
        rgb = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        tinted[seeds] = 0.35 * tinted[seeds] + 0.65 * rgb
    return tinted


def _outline(axes: Axes, mask: Mask, size: tuple[int, ...]) -> None:
    """The border of a mask of a photo of this size; with a frame around it, so that it closes at the photo's border."""
    framed = np.pad(mask, 1).astype(float)
    y, x = ((np.arange(-1, n + 1) + 0.5) * whole / n - 0.5 for n, whole in zip(mask.shape, size, strict=True))
    for colour, width in (("black", 2.0), ("white", 0.9)):
        axes.contour(x, y, framed, levels=[0.5], colors=colour, linewidths=width)
    axes.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))


def _frame(axes: Axes, box: Box, colour: str = ORANGE, style: Any = "-") -> None:
    """The outline of a box, both of whose ends are inside, on a dark line, so that it shows on any photo."""
    x0, y0, x1, y1 = box
    corner, width, height = (x0 - 0.5, y0 - 0.5), x1 - x0 + 1, y1 - y0 + 1
    for edge, thickness, line in (("black", 3.0, "-"), (colour, 1.6, style)):
        axes.add_patch(
            Rectangle(corner, width, height, fill=False, edgecolor=edge, linewidth=thickness, linestyle=line)
        )
