"""What excites a feature map, beside what its activations send back to the pictures: Zeiler & Fergus 2013, figure 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from npconvnet.visualization.figures.canvas import save_figure, signed_to_rgb
from npconvnet.visualization.top_patches import TopPatch

#: From this quantile on, the reconstructions of a map are drawn at full strength: a few numbers are far above the rest.
STRONGEST = 0.998
#: Maps side by side.
COLUMNS = 3
#: Inches: the width of a sheet of patches, the space around the two sheets of a map, its name, and the title above all.
SHEET, MARGIN, NAME, TITLE = 2.2, 0.1, 0.26, 0.5


def draw_top_patches(path: Path, maps: Mapping[str, Sequence[TopPatch]], title: str, subtitle: str) -> None:
    """For each of `maps`, by name, a grid of its reconstructions on the left, and of its patches on the right.

    The reconstructions of one map are on one scale, where mid-grey is 0.
    """
    columns = min(len(maps), COLUMNS)
    rows = ceil(len(maps) / columns)
    most = max(1, *(len(patches) for patches in maps.values()))
    side = ceil(sqrt(most))
    width, height = 2 * SHEET + 3 * MARGIN, SHEET * ceil(most / side) / side + NAME + MARGIN
    figure = Figure(figsize=(columns * width, TITLE + rows * height))
    header, body = figure.subfigures(2, 1, height_ratios=[TITLE, rows * height], squeeze=False)[:, 0]
    header.text(0.5, 0.65, title, fontsize=11, ha="center", va="center")
    header.text(0.5, 0.22, subtitle, fontsize=8, ha="center", va="center", color="#444444")
    cells = body.subfigures(rows, columns, squeeze=False).flat
    for cell, (name, patches) in zip(cells, maps.items(), strict=False):
        sheets = cell.subplots(
            1,
            2,
            gridspec_kw={
                "left": MARGIN / width,
                "right": 1 - MARGIN / width,
                "bottom": MARGIN / 2 / height,
                "top": 1 - (NAME + MARGIN / 2) / height,
                "wspace": MARGIN / SHEET,
            },
        )
        cell.text(0.5, 1 - NAME / height, f"{name}   {_range(patches)}", fontsize=9, ha="center", va="bottom")
        _draw_sheet(sheets[0], _reconstructions(patches), side, most)
        _draw_sheet(sheets[1], [patch.picture for patch in patches], side, most)
    save_figure(figure, path)


def _range(patches: Sequence[TopPatch]) -> str:
    if not patches:
        return "excited by none of the pictures"
    return f"activations {patches[0].activation:.4g} to {patches[-1].activation:.4g}"


def _reconstructions(patches: Sequence[TopPatch]) -> list[npt.NDArray[np.float64]]:
    magnitudes = [np.abs(patch.reconstruction).ravel() for patch in patches]
    scale = float(np.quantile(np.concatenate(magnitudes), STRONGEST)) if patches else 0.0
    return [signed_to_rgb(patch.reconstruction, scale) for patch in patches]


def _draw_sheet(axes: Axes, pictures: Sequence[npt.NDArray[Any]], side: int, most: int) -> None:
    """The pictures (h, w, 3), all of one size, `side` in a row and unstretched, with room for `most`."""
    axes.set_axis_off()
    if not pictures:
        return
    height, width, _ = pictures[0].shape
    gap = 0.04 * max(height, width)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, side)
        left, upper = column * (width + gap), row * (height + gap)
        axes.imshow(picture, extent=(left, left + width, upper + height, upper))
    axes.set(xlim=(0, side * (width + gap) - gap), ylim=(ceil(most / side) * (height + gap) - gap, 0))
