"""A saliency map beside its photo, and laid over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from npconvnet.preprocessing import Picture
from npconvnet.visualization.figures.canvas import save_figure, show_picture, thumbnail

#: Panels are not drawn from more pixels than they can show.
PANEL_PIXELS = 700
#: From this quantile on a map is drawn at full brightness: a few pixels are far above all others.
BRIGHTEST = 0.995


def draw_saliency(path: Path, photo: Picture, saliency: npt.NDArray[Any], title: str, subtitle: str) -> None:
    """The photo (H, W, 3), its map (H, W), and the map over the photo in grey, side by side."""
    photo, saliency = thumbnail(photo, PANEL_PIXELS), thumbnail(saliency, PANEL_PIXELS)
    share = np.clip(saliency / max(float(np.quantile(saliency, BRIGHTEST)), 1e-30), 0, 1)
    figure, panels = _three_panels(photo.shape[0] / photo.shape[1])
    show_picture(panels[0], photo, "photo")
    show_picture(panels[1], share, f"saliency (brightest: {1 - BRIGHTEST:.1%} of the pixels)", cmap="gray")
    show_picture(panels[2], _overlay(photo, share), "saliency over the photo")
    figure.suptitle(title, fontsize=11, y=0.985, va="top")
    figure.text(0.5, 0.015, subtitle, fontsize=8, ha="center", va="bottom", color="#444444")
    save_figure(figure, path)


def _three_panels(aspect: float) -> tuple[Figure, list[Any]]:
    """Three axes of height / width `aspect` in a row, placed by hand: a layout engine takes longer than drawing."""
    width, gap, top, bottom = 3.0, 0.1, 0.62, 0.32  # inches
    height = min(max(width * aspect, 0.8), 6.0)
    figure = Figure(figsize=(3 * width + 4 * gap, height + top + bottom))
    total_width, total_height = figure.get_size_inches()
    places = [gap + panel * (width + gap) for panel in range(3)]
    return figure, [
        figure.add_axes((left / total_width, bottom / total_height, width / total_width, height / total_height))
        for left in places
    ]


def _overlay(photo: Picture, share: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The photo in grey, dark, with the map's colours shining through in proportion to the map."""
    grey = photo @ np.array([0.299, 0.587, 0.114]) / 255
    colours = mpl.colormaps["inferno"](share)[..., :3]
    strength = share[..., None]
    mixed: npt.NDArray[np.float64] = (1 - strength) * 0.8 * grey[..., None] + strength * colours
    return mixed
