"""Gradient, DeconvNet and guided backpropagation side by side, and how they part from ReLU to ReLU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter, PercentFormatter

from npconvnet.kernels.cpu.relu import ReLURule
from npconvnet.preprocessing import Picture
from npconvnet.visualization.compare import PAIRS, Comparison
from npconvnet.visualization.deconvnet import RULES
from npconvnet.visualization.figures.canvas import BLUE, GREEN, ORANGE, save_figure, show_picture, signed_to_rgb

#: What each rule is called, and how its line is drawn.
NAMES: dict[ReLURule, str] = {"gradient": "gradient", "deconvnet": "DeconvNet", "guided": "guided"}
STYLES: dict[ReLURule, tuple[str, str]] = {
    "gradient": (BLUE, "o-"),
    "deconvnet": (ORANGE, "s--"),
    "guided": (GREEN, "^:"),
}
#: Pairs of rules are not rules, so their lines have other colours (of Okabe & Ito's too).
PAIR_STYLES = (("#CC79A7", "D-"), ("black", "v--"), ("#56B4E9", "P:"))
#: From this quantile of a reconstruction's magnitudes on, zeros left out, it is drawn in full colour.
FULL_COLOUR = 0.995
#: A unit that sees less than this share of the picture's side is shown by a detail of it.
WORTH_A_DETAIL = 0.7


def draw_comparison(path: Path, photo: Picture, comparison: Comparison, title: str) -> None:
    """The photo as the network sees it (H, W, 3), the three reconstructions, and the rows of `comparison` as plots.

    The reconstructions differ by a factor that says nothing about the photo, so each is drawn in its own unit, the same
    quantile of its magnitudes, which stands above it. A unit that sees only a part of the photo gets that part larger.
    """
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 9.3), layout="constrained")
        pictures, plots = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.05, 2)).flat
        pictures.suptitle(title, fontsize=11)
        _draw_pictures(pictures, photo, comparison.reconstructions)
        _draw_rows(plots.subplots(3, 1, sharex=True, height_ratios=(1.3, 1, 1.3)), comparison)
        save_figure(figure, path)


def name_layers(axes: Axes, layers: Sequence[str]) -> None:
    """One tick of the x axis for each of `layers`, their names upright below."""
    axes.set_xticks(range(len(layers)), layers, rotation=90, fontsize=8)
    axes.set_xlim(-0.5, len(layers) - 0.5)


def _draw_pictures(
    figure: SubFigure, photo: Picture, reconstructions: Mapping[ReLURule, npt.NDArray[np.float64]]
) -> None:
    top, left, side = _field(sum(np.abs(signed).sum(axis=-1) for signed in reconstructions.values()))
    detail = side < WORTH_A_DETAIL * len(photo)
    part = (slice(top, top + side), slice(left, left + side)) if detail else ...
    whole, *panels = figure.subplots(1, 5 if detail else 4)
    show_picture(whole, photo, "photo, as the network sees it")
    if detail:
        for colour, width in (("white", 2.4), ("black", 1.0)):  # visible on any background
            box = Rectangle((left - 0.5, top - 0.5), side, side, fill=False, edgecolor=colour, linewidth=width)
            whole.add_patch(box)
        show_picture(panels.pop(0), photo[part], "what the unit sees")
    for axes, rule in zip(panels, RULES, strict=True):
        signed = reconstructions[rule]
        magnitudes = np.abs(signed[signed != 0])
        scale = float(np.quantile(magnitudes, FULL_COLOUR)) if magnitudes.size else 0.0
        show_picture(axes, signed_to_rgb(signed[part], scale), f"{NAMES[rule]}\nfull colour: ±{scale:.2g}")


def _field(reached: npt.NDArray[np.float64]) -> tuple[int, int, int]:
    """(top, left, side) of the least square around the pixels that `reached` (H, W) is not zero at, kept inside."""
    rows, columns = (np.flatnonzero(reached.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return 0, 0, len(reached)
    side = int(max(np.ptp(rows), np.ptp(columns))) + 1
    top, left = (int(min(found[0], size - side)) for found, size in zip((rows, columns), reached.shape, strict=True))
    return top, left, side


def _draw_rows(axes: Sequence[Axes], comparison: Comparison) -> None:
    rows = comparison.rows
    cosines, disagreement, energy = axes
    for number, ((a, b), (colour, style)) in enumerate(zip(PAIRS, PAIR_STYLES, strict=True)):
        label = f"{NAMES[a]} and {NAMES[b]}"
        cosines.plot([row.cosines[number] for row in rows], style, color=colour, markersize=3.5, lw=1, label=label)
    cosines.set(title="Cosine between the reconstructions, just below each ReLU")
    cosines.set_ylim(min(-0.05, cosines.get_ylim()[0]), 1.05)
    disagreement.plot([row.disagreement for row in rows], "o-", color="black", markersize=3.5, lw=1)
    disagreement.set(title="Share of units that only one of gradient and DeconvNet lets through", ylim=(-0.03, 1.03))
    disagreement.yaxis.set_major_formatter(PercentFormatter(1))
    for rule in RULES:
        colour, style = STYLES[rule]
        passed = [row.energy_passed[rule] for row in rows]
        energy.plot(passed, style, color=colour, markersize=3.5, lw=1, label=NAMES[rule])
    energy.set(title="Share of its energy that each reconstruction keeps at each ReLU", yscale="log")
    lowest = min(0.09, *energy.get_ylim())
    energy.set_ylim(lowest, 1.3)
    energy.yaxis.set_major_formatter(PercentFormatter(1))
    energy.yaxis.set_minor_formatter(NullFormatter())
    name_layers(energy, [row.layer.removesuffix("_relu") for row in rows])
    energy.set_xlabel("from the unit down to the image")
    for axis in axes:
        axis.grid(alpha=0.3, linewidth=0.5)
    for axis in (cosines, energy):
        axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
