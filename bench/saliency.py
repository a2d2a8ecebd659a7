"""Times saliency of a photo on the bundled network, of npconvnet and of Captum, side by side.

    python bench/saliency.py --against captum

Both send the top-1 class score back to the same ten preprocessed views, on the same weights, in one process, in turns.
npconvnet computes that score alone, PyTorch those of all classes. Captum runs on PyTorch in both of its memory formats,
with no gradients of parameters; the faster one counts.

    ratio = images/s of npconvnet ÷ images/s of Captum's best             > 1: npconvnet is faster
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, Python looks in bench/ only

from bench.measuring import NPCONVNET, as_line, medians_in_turns, require_installed, threads_option, versions
from npconvnet.backend import Array
from npconvnet.cli import run
from npconvnet.data.image import read_image
from npconvnet.kernels import twins
from npconvnet.network import Network
from npconvnet.parallel import use_threads
from npconvnet.visualization.saliency import class_gradients, saliency_map
from npconvnet.visualization.sub_images import cut
from npconvnet.weights import bundled_network

PHOTO = Path(__file__).resolve().parents[1] / "npconvnet" / "assets" / "chelsea.jpg"
#: PyTorch's memory formats, by what the table calls Captum in them.
CAPTUM = {"captum contiguous": "contiguous_format", "captum channels_last": "channels_last"}
WITHOUT_NUMBA = "npconvnet, no numba"
#: How far two maps may differ, relatively, in the mean. A few pixels may differ by more: a unit whose input is zero but
#: for rounding may be on in the one and off in the other.
TOLERANCE = 1e-3

Runner = Callable[[], Array]


def npconvnet_runner(network: Network, x: Array, target: int) -> Runner:
    """The maps (N, H, W) by npconvnet."""
    return lambda: saliency_map(class_gradients(network, x, target)[0])


def without_numba(runner: Runner) -> Runner:
    """The same by NumPy alone."""

    def maps() -> Array:
        with patch.object(twins, "compiled_twin", lambda function: None):
            return runner()

    return maps


def captum_runner(network: Network, x: Array, target: int, memory_format: str, threads: int | None) -> Runner:
    """The maps (N, H, W) by Captum, whose hooks refuse ReLUs that work in place."""
    import torch
    from captum.attr import Saliency

    from bench.torch_peer import TorchPeer

    if threads is not None:
        torch.set_num_threads(threads)
    peer = (
        TorchPeer(network).out_of_place().eval().requires_grad_(False).to(memory_format=getattr(torch, memory_format))
    )
    images = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=getattr(torch, memory_format))
    images.requires_grad_()
    method = Saliency(peer)

    def maps() -> Array:
        found: Array = method.attribute(images, target=target).amax(dim=1).numpy()
        return found

    return maps


def measure(against: str, repetitions: int, threads: int | None) -> dict[str, Any]:
    """The report. Ends the program with status 1 where the maps differ."""
    use_threads(threads)
    network = bundled_network()
    x = cut(read_image(PHOTO), network.preprocessing, 10).inputs
    target = int(network.scores(x).mean(axis=0).argmax())
    runners = {NPCONVNET: npconvnet_runner(network, x, target)}
    if find_spec("numba"):
        runners[WITHOUT_NUMBA] = without_numba(runners[NPCONVNET])
    if against == "captum":
        runners |= {name: captum_runner(network, x, target, layout, threads) for name, layout in CAPTUM.items()}
    maps = {name: runner() for name, runner in runners.items()}
    worst = max(float(np.abs(found - maps[NPCONVNET]).mean()) for found in maps.values())
    if worst > TOLERANCE * maps[NPCONVNET].mean():
        click.echo(f"error: the maps differ by {worst} in the mean, so something is wrong", err=True)
        sys.exit(1)
    medians = medians_in_turns(runners, repetitions, "saliency")
    best = min((median for name, median in medians.items() if name in CAPTUM), default=None)
    return {
        "images": len(x),
        "repetitions": repetitions,
        "versions": versions(*(["torch", "captum"] if against == "captum" else [])),
        "images_per_second": {name: len(x) / median for name, median in medians.items()},
        "ratio": best and best / medians[NPCONVNET],
    }


def as_text(report: dict[str, Any]) -> str:
    """The report as an aligned table."""
    lines = [
        f"saliency of {report['images']} views on squeezenet, medians of {report['repetitions']} rounds",
        as_line(report["versions"]),
        "",
        *(f"{name:<21}  {speed:>8.1f} images/s" for name, speed in report["images_per_second"].items()),
    ]
    return "\n".join([*lines, f"{'ratio':<21}  {report['ratio']:>8.2f}"] if report["ratio"] else lines)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--against", type=click.Choice(["captum", "none"]), default="none", help="Whom to run beside.")
@click.option("--repetitions", type=click.IntRange(1), default=11, help="Timed rounds.")
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def main(against: str, repetitions: int, threads: int | None, as_json: bool) -> None:
    """Time saliency of npconvnet, beside Captum's if asked."""
    if against == "captum":
        require_installed("--against captum", "torch", "pip install torch==2.13.0")
        require_installed("--against captum", "captum", "pip install captum")
    report = measure(against, repetitions, threads)
    click.echo(json.dumps(report, indent=2) if as_json else as_text(report))


if __name__ == "__main__":
    run(main)
