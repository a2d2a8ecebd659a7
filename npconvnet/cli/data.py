"""Commands that make data sets."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from npconvnet.errors import InputError

if TYPE_CHECKING:
    from npconvnet.data.shards.manifest import Encoding


@click.command("make-toy")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--train-per-class", type=click.IntRange(1), default=400, show_default=True, metavar="COUNT")
@click.option("--validation-per-class", type=click.IntRange(1), default=50, show_default=True, metavar="COUNT")
def make_toy(directory: Path, seed: int, train_per_class: int, validation_per_class: int) -> None:
    """Draw ten classes of small pictures into DIRECTORY, as a miniature ILSVRC with boxes."""
    from npconvnet.data.ilsvrc import open_dataset
    from npconvnet.data.toy import make_toy as make
    from npconvnet.visualization.figures.training import draw_samples

    make(directory, seed, train_per_class, validation_per_class)
    draw_samples(directory / "samples.png", open_dataset(directory))
    click.echo(
        f"{directory}: 10 classes with {train_per_class} training and {validation_per_class} validation pictures each; "
        f"samples.png shows some"
    )


@click.command(options_metavar="[OPTIONS]")
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="SOURCE OUT | --verify OUT")
@click.option("--size", type=click.IntRange(1), default=256, show_default=True, help="Of the squares.")
@click.option(
    "--format",
    type=click.Choice(["raw", "jpeg"]),
    default="raw",
    show_default=True,
    help="raw reads fastest; jpeg (quality 90) takes a tenth of the room and is decoded while training.",
)
@click.option("--workers", type=click.IntRange(1), help="How many processes work at once.  [default: one a core]")
@click.option("--verify", "only_verify", is_flag=True, help="Read everything in OUT, and compare the checksums.")
def prepare(folders: tuple[Path, ...], size: int, format: Encoding, workers: int | None, only_verify: bool) -> None:
    """Make shards in OUT of the data set in SOURCE, in any layout of ILSVRC, so that training can read it fast.

    Every picture becomes its centre square. SOURCE is only read; tars are read in place. Work that was stopped goes
    on where it was, with the same command. A shard that was damaged is made again once it has been deleted.
    """
    if len(folders) != (1 if only_verify else 2):
        raise click.UsageError("give SOURCE and OUT, or --verify and OUT")
    if only_verify:
        _verify(folders[0], workers)
    else:
        source, out = folders
        _prepare(source, out, size, format, workers)


def _verify(out: Path, workers: int | None) -> None:
    from npconvnet.data.shards.manifest import PREPARE_SHARD
    from npconvnet.data.shards.verifying import verify

    problems = verify(out, workers)
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        raise InputError(f"{out}: not as it was prepared; problems found: {len(problems)}; {PREPARE_SHARD}")
    click.echo(f"{out}: whole, every picture as it was prepared")


def _prepare(source: Path, out: Path, size: int, format: Encoding, workers: int | None) -> None:
    from npconvnet.data.shards.manifest import UNREADABLE
    from npconvnet.data.shards.preparing import in_bytes, prepare

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        done = prepare(source, out, size, format, workers, lambda line: click.echo(line, err=True))
    except KeyboardInterrupt:
        click.echo("interrupted; the same command goes on from here", err=True)
        click.get_current_context().exit(130)
    manifest = done.dataset.manifest
    counts = f"{manifest.images('train'):,} training and {manifest.images('validation'):,} validation pictures"
    if done.pictures:
        click.echo(f"{out}: {counts}, {in_bytes(manifest.bytes)}; {done.pictures / done.seconds:.0f} images/s")
    else:
        click.echo(f"{out}: prepared already, with {counts}; npconvnet prepare --verify compares every byte")
    if manifest.note:
        click.echo(manifest.note)
    if manifest.unreadable:
        click.echo(
            f"pictures that could not be read: {manifest.unreadable:,}; {out / UNREADABLE} names them; if they are "
            "mended, prepare into a new folder"
        )
    click.echo(f"train with: {shlex.join(['python', 'train_imagenet.py', '--data', str(out)])}")
