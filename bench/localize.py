"""Times the way from a decoded photo and its saliency map to a box, part by part, and the cut alone beside OpenCV's.

    python bench/localize.py

The photo is the bundled cat at 500 × 375; the map is a bump in the middle with the speckles of a gradient. The cut is
timed at 256 × 256: one labelling from the same seeds by npconvnet (colour models, edges, minimum cut) and by
cv2.grabCut with one iteration, where OpenCV is installed. All take turns in one process; medians are printed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, Python looks in bench/ only

from bench.measuring import as_line, medians_in_turns, versions
from npconvnet.cli import run
from npconvnet.data.image import read_image
from npconvnet.localization.bounding_box import bounding_box, largest_component
from npconvnet.localization.graph_cut import CutOptions, color_cost, contrast_edges, cut_with_seeds, seeds, segment
from npconvnet.localization.localize import localize

PHOTO = Path(__file__).resolve().parents[1] / "npconvnet" / "assets" / "chelsea.jpg"
WIDTH, HEIGHT, SQUARE = 500, 375, 256


def photo(width: int, height: int) -> npt.NDArray[np.uint8]:
    """The bundled cat."""
    return np.array(Image.fromarray(read_image(PHOTO)).resize((width, height), Image.Resampling.BILINEAR))


def saliency_like(width: int, height: int) -> npt.NDArray[np.float64]:
    """A bump in the middle of (height, width), times exponential noise."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    speckles = np.random.default_rng(0).exponential(size=(height, width))
    saliency: npt.NDArray[np.float64] = np.exp(-2 * (x**2 + y**2)) * speckles
    return saliency


def tasks() -> dict[str, Callable[[], object]]:
    """What is timed, by the name in the table."""
    options, image, saliency = CutOptions(), photo(WIDTH, HEIGHT), saliency_like(WIDTH, HEIGHT)
    square = photo(SQUARE, SQUARE)
    colors = square / 255
    raw, sigma = saliency_like(SQUARE, SQUARE), options.smoothing * SQUARE
    smooth = ndimage.gaussian_filter(raw, sigma)
    foreground, background = seeds(smooth, options)
    edges = contrast_edges(colors, options)

    def models() -> list[npt.NDArray[np.float64]]:
        rng = np.random.default_rng(0)
        return [color_cost(colors, region, options, rng) for region in (foreground, background)]

    foreground_cost, background_cost = models()
    mask = cut_with_seeds(foreground_cost, background_cost, foreground, background, edges)
    timed: dict[str, Callable[[], object]] = {
        f"photo to box, {WIDTH} x {HEIGHT}": lambda: localize(image, saliency, options),
        "smoothing": lambda: ndimage.gaussian_filter(raw, sigma),
        "seeds": lambda: seeds(smooth, options),
        "colour models": models,
        "edges": lambda: contrast_edges(colors, options),
        "minimum cut": lambda: cut_with_seeds(foreground_cost, background_cost, foreground, background, edges),
        "component and box": lambda: bounding_box(largest_component(mask)),
        "segmentation": lambda: segment(colors, foreground, background, options, np.random.default_rng(0)),
    }
    if find_spec("cv2") is not None:
        timed["segmentation, OpenCV's grabCut"] = grab_cut(square, foreground, background, options)
    return timed


def grab_cut(
    image: npt.NDArray[np.uint8],
    foreground: npt.NDArray[np.bool_],
    background: npt.NDArray[np.bool_],
    options: CutOptions,
) -> Callable[[], object]:
    """OpenCV's segmentation from the same seeds; the pixels between them are probably background, as it calls them."""
    import cv2

    start = np.full(image.shape[:2], cv2.GC_PR_BGD, np.uint8)
    start[foreground], start[background] = cv2.GC_FGD, cv2.GC_BGD

    def cut() -> object:
        models = np.zeros((2, 1, 65))
        return cv2.grabCut(image, start.copy(), None, models[0], models[1], options.iterations, cv2.GC_INIT_WITH_MASK)

    return cut


def as_text(report: dict[str, Any]) -> str:
    """The report as an aligned table."""
    lines = [
        f"medians of {report['repetitions']} rounds; all but the first line at {SQUARE} x {SQUARE}",
        as_line(report["versions"]),
        "",
    ]
    lines += [f"{name:<32}  {median:>8.1f} ms" for name, median in report["milliseconds"].items()]
    return "\n".join(lines)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--repetitions", type=click.IntRange(1), default=15, help="Timed rounds.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def main(repetitions: int, as_json: bool) -> None:
    """Time localisation part by part, and the cut beside OpenCV's grabCut where that is installed."""
    seconds = medians_in_turns(tasks(), repetitions, "localisation")
    report = {
        "repetitions": repetitions,
        "versions": versions("scipy", "PyMaxflow"),
        "milliseconds": {name: 1000 * median for name, median in seconds.items()},
    }
    click.echo(json.dumps(report, indent=2) if as_json else as_text(report))


if __name__ == "__main__":
    run(main)
