"""Class models as a contact sheet: one picture to a class, or the pictures on the way to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from textwrap import fill, shorten

from matplotlib.figure import Figure

from npconvnet.network import Network
from npconvnet.preprocessing import Picture
from npconvnet.visualization.class_model import ClassModel, Recipe
from npconvnet.visualization.figures.canvas import save_figure, show_picture

#: Inches: the side of a picture that stands alone, and of one among others; the space between two and at the edge.
ALONE, AMONG_OTHERS, GAP = 5.0, 2.3, 0.12
#: Inches: a title of two lines, the heading above all, the caption below.
TITLE, HEADING, CAPTION = 0.42, 0.36, 0.5
#: So many characters of the caption fit into an inch.
CHARACTERS = 17
#: Classes side by side.
COLUMNS = 5


def draw_class_models(
    path: Path, network: Network, models: Sequence[ClassModel], recipe: Recipe, metadata: Mapping[str, str]
) -> None:
    """One picture to a class, with the score it reaches; `metadata` goes into the file as text."""
    titles = [f"{_name(network, model.target)}\n{_verdict(network, model)}" for model in models]
    pictures = [network.preprocessing.picture(model.image) for model in models]
    heading = _heading(network, "Class model", len(models))
    _draw_sheet(path, pictures, titles, COLUMNS, heading, _caption(recipe), metadata)


def draw_snapshots(
    path: Path, network: Network, models: Sequence[ClassModel], recipe: Recipe, metadata: Mapping[str, str]
) -> None:
    """One row to a class: its snapshots, from the first to the last."""
    snapshots = [(model, *snapshot) for model in models for snapshot in model.snapshots.items()]
    titles = [f"{_name(network, model.target)}\nafter {iteration} iterations" for model, iteration, _ in snapshots]
    pictures = [network.preprocessing.picture(image) for *_, image in snapshots]
    columns = len(models[0].snapshots)
    heading = _heading(network, "The way to the class model", len(models))
    _draw_sheet(path, pictures, titles, columns, heading, _caption(recipe), metadata)


def _heading(network: Network, what: str, count: int) -> str:
    return f"{what}{'s' * (count > 1)} of {network.name}"


def _name(network: Network, index: int) -> str:
    return shorten(network.synsets[index].names.split(", ")[0], 30, placeholder="…")


def _verdict(network: Network, model: ClassModel) -> str:
    """The score, and the probability unless another class is above it."""
    if model.top1 == model.target:
        return f"score {model.score:.4g}, probability {model.probability:.3g}"
    return f"score {model.score:.4g}; top-1: {_name(network, model.top1)}"


def _caption(recipe: Recipe) -> str:
    raised = {"score": "the class score", "probability": "ln of the softmax probability"}[recipe.objective]
    regularisers = {"jitter": recipe.jitter, "blur": recipe.blur, "total variation": recipe.total_variation}
    more = [f"{name} {number:g}" for name, number in regularisers.items() if number]
    numbers = ", ".join([f"λ = {recipe.l2:g}", f"step {recipe.step:g}", f"{recipe.iterations} iterations", *more])
    return f"Raised: {raised} − λ‖I‖²; {numbers}. The mean colour is added, the contrast as it is, clipped to 0–255."


def _draw_sheet(
    path: Path,
    pictures: Sequence[Picture],
    titles: Sequence[str],
    columns: int,
    heading: str,
    caption: str,
    metadata: Mapping[str, str],
) -> None:
    """The `pictures`, all of one size, `columns` in a row, each below its title of two lines."""
    rows, columns = ceil(len(pictures) / columns), min(columns, len(pictures))
    side = ALONE if len(pictures) == 1 else AMONG_OTHERS
    width = columns * (side + GAP) + GAP
    height = HEADING + rows * (TITLE + side + GAP) + CAPTION
    figure = Figure(figsize=(width, height))
    for number, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        row, column = divmod(number, columns)
        left, top = GAP + column * (side + GAP), HEADING + row * (TITLE + side + GAP) + TITLE
        axes = figure.add_axes((left / width, 1 - (top + side) / height, side / width, side / height))
        show_picture(axes, picture, title)
    figure.text(0.5, 1 - HEADING / 2 / height, heading, fontsize=11, ha="center", va="center")
    wrapped = fill(caption, int(CHARACTERS * width))
    figure.text(0.5, CAPTION / 2 / height, wrapped, fontsize=7.5, ha="center", va="center", color="#444444")
    save_figure(figure, path, metadata)
