"""How the maps of each rule change, or don't, while a network's parameters are randomised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from npconvnet.preprocessing import Picture
from npconvnet.visualization.deconvnet import RULES
from npconvnet.visualization.figures.canvas import GREY, save_figure, show_picture
from npconvnet.visualization.figures.comparison import FULL_COLOUR, NAMES, STYLES, name_layers
from npconvnet.visualization.randomization import SanityCheck

#: So many stages of the cascade are shown as maps.
SHOWN = 5


def draw_sanity_check(path: Path, photo: Picture, check: SanityCheck, title: str) -> None:
    """Above the maps of some stages, one row a rule, below the correlation at every stage.

    Correlations of ranks have no scale, and neither have the maps here: each is white at the same quantile of itself.
    """
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 8), layout="constrained")
        maps, plot = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.22, 1)).flat
        maps.suptitle(title, fontsize=11)
        _draw_maps(maps.subplots(len(RULES), SHOWN + 3), photo, check)
        _draw_correlations(plot.subplots(), check)
        save_figure(figure, path)


def _draw_maps(grid: npt.NDArray[Any], photo: Picture, check: SanityCheck) -> None:
    layers = [f"randomised to\n{layer}" for layer in check.stages[1:]]
    names = ["trained network", *check.stages[:1], *layers]
    shown = [0, 1, *np.unique(np.linspace(2, len(names) - 1, SHOWN).round().astype(int))]
    for axes in grid.flat:
        axes.set_axis_off()
    show_picture(grid[1, 0], photo, "photo")
    for row, rule in zip(grid, RULES, strict=True):
        row[1].text(-0.08, 0.5, NAMES[rule], rotation=90, va="center", ha="right", transform=row[1].transAxes)
        for axes, index in zip(row[1:], shown, strict=False):
            picture = check.maps[rule][index]
            brightest = max(float(np.quantile(picture, FULL_COLOUR)), 1e-30)
            show_picture(axes, picture, cmap="gray", vmin=0, vmax=brightest)
    for axes, index in zip(grid[0, 1:], shown, strict=False):
        axes.set_title(names[index], fontsize=8)


def _draw_correlations(axes: Axes, check: SanityCheck) -> None:
    places = np.arange(len(check.stages))
    for rule in RULES:
        colour, style = STYLES[rule]
        for run in check.correlations[rule]:
            axes.plot(places, run, ".", color=colour, alpha=0.35, markersize=4)
        mean = check.mean(rule)
        axes.plot(places[:1], mean[:1], style[0], color=colour, markersize=5)
        axes.plot(places[1:], mean[1:], style, color=colour, markersize=4, lw=1, label=NAMES[rule])
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_ylim(min(-0.1, axes.get_ylim()[0]), 1.05)
    name_layers(axes, check.stages)
    axes.set_xlabel("every layer up to this one randomised, from the scores down to the image")
    axes.set_title(
        f"Rank correlation with the map of the trained network (mean of {len(check.correlations['gradient'])} runs)"
    )
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
