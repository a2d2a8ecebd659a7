"""Options that several commands share, and what they mean."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from npconvnet.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from npconvnet.kernels.cpu.relu import ReLURule
    from npconvnet.network import Network
    from npconvnet.preprocessing import ViewCount
    from npconvnet.training.distributed.ranks import Ranks

device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "gpu"]), default="auto", show_default=True, help="Where to compute."
)
weights_option = click.option(
    "--weights", type=click.Path(path_type=Path), help="A weight file or checkpoint.  [default: the bundled SqueezeNet]"
)
target_option = click.option(
    "--target", metavar="CLASS", help="A class: its name, a part of it, wnid or index.  [default: the top-1 class]"
)


def _use_threads(_context: click.Context, _option: click.Parameter, count: int | None) -> None:
    if count is not None:
        from npconvnet.parallel import use_threads

        use_threads(count)


#: Results do not depend on it, so no command hears of it.
threads_option = click.option(
    "--threads",
    type=click.IntRange(1),
    callback=_use_threads,
    expose_value=False,
    help="How many compute at once.  [default: as many as the machine has for this process]",
)


def rule_option(default: ReLURule) -> Callable[[Any], Any]:
    """The option --rule, one of the three."""
    return click.option(
        "--rule",
        type=click.Choice(["gradient", "deconvnet", "guided"]),
        default=default,
        show_default=True,
        help="How a ReLU sends the signal back.",
    )


def views_option(default: ViewCount) -> Callable[[Any], Any]:
    """The option --views, for one view or ten."""
    return click.option(
        "--views",
        type=click.Choice(["1", "10"]),
        default=str(default),
        show_default=True,
        callback=lambda _context, _option, value: int(value),
        help="Average over the centre crop alone, or over corners and centre and their reflections.",
    )


def figure_option(help: str) -> Callable[[Any], Any]:
    """The option --output for a figure, or for a folder of them."""
    return click.option("-o", "--output", type=click.Path(path_type=Path), callback=_require_png, help=help)


def _require_png(_context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    if path and path.suffix.lower() not in ("", ".png") and not path.is_dir():
        raise InputError(f"{path}: figures are written as PNG; let its name end in .png")
    return path


#: A file of so many bytes takes seconds to read.
_LARGE = 2**26


def say_what_is_read(path: Path) -> None:
    """Tells a person who waits for a large file what is going on."""
    try:
        size = path.stat().st_size
    except OSError:
        return  # whoever reads it says so
    if sys.stderr.isatty() and size > _LARGE:
        click.echo(f"reading {path} ({size / 2**20:.0f} MiB) …", err=True)


def join_on(device: str) -> Ranks:
    """The ranks that the command was started with, each with a GPU of its own where --device means one."""
    from npconvnet.backend import resolve_device
    from npconvnet.parallel import share_cores
    from npconvnet.training.distributed.agreement import take_gpu
    from npconvnet.training.distributed.ranks import join

    ranks = join()
    if resolve_device(device) == "gpu":  # type: ignore[arg-type]
        take_gpu(ranks)
    share_cores(ranks.on_the_same_cores)
    return ranks


def network_of(weights: Path | None, device: str) -> Network:
    """The network that --weights and --device mean."""
    from npconvnet.backend import resolve_device
    from npconvnet.weights import bundled_network, load_network

    chosen = resolve_device(device)  # type: ignore[arg-type]
    if weights:
        say_what_is_read(weights)
    return (load_network(weights) if weights else bundled_network()).to(chosen)
