"""What all figures share: colours, panels, and the writing of the file."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from npconvnet.outputs import write_bytes

# Okabe & Ito's colours, which survive colour blindness; lines are told apart in grey by their style as well.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"


def show_picture(axes: Axes, picture: npt.NDArray[Any], title: str = "", **options: Any) -> None:
    """Draws `picture`, (H, W, 3) or (H, W), unstretched and without ticks; `options` are those of imshow."""
    axes.imshow(picture, **options)
    axes.set_axis_off()
    if title:
        axes.set_title(title, fontsize=9, y=1)  # said where, it is not looked for among ticks that aren't there


def thumbnail(picture: npt.NDArray[Any], pixels: int) -> npt.NDArray[Any]:
    """`picture`, (H, W, 3) uint8 or (H, W) float32, reduced to so many pixels on the longer side: all a panel shows."""
    image = Image.fromarray(picture)
    image.thumbnail((pixels, pixels), Image.Resampling.BILINEAR)
    return np.array(image)


def signed_to_rgb(signed: npt.NDArray[Any], scale: float) -> npt.NDArray[np.float64]:
    """A signed image (H, W, 3) as RGB 0–1: mid-grey is zero, ±`scale` the ends, and what lies beyond is clipped."""
    rgb: npt.NDArray[np.float64] = np.clip(0.5 + 0.5 * signed.astype(np.float64) / max(scale, 1e-30), 0, 1)
    return rgb


def save_figure(figure: Figure, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes `figure` as PNG at 150 dots an inch, with `metadata` as text; InputError where it can't be written."""
    picture = BytesIO()  # written by ourselves: Pillow does not notice a full disk
    quick = {"compress_level": 2}  # twice as fast as the default, for a file that is a little larger
    figure.savefig(picture, dpi=150, format="png", metadata=dict(metadata or {}), pil_kwargs=quick)
    write_bytes(path, picture.getvalue())
