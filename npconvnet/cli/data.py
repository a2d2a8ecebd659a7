"""Commands that make data sets."""

from __future__ import annotations

from pathlib import Path

import click


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
