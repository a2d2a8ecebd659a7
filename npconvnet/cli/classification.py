"""Commands that name what is in photos, and count how often that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from npconvnet.cli.options import device_option, join_on, network_of, threads_option, views_option, weights_option
from npconvnet.errors import InputError

if TYPE_CHECKING:
    from npconvnet.preprocessing import ViewCount


@click.command()
@click.argument("photo", type=click.Path(path_type=Path))
@weights_option
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="How many classes to name.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects instead of a table.")
@views_option(1)
@device_option
@threads_option
def classify(photo: Path, weights: Path | None, top: int, as_json: bool, views: ViewCount, device: str) -> None:
    """Name what is in PHOTO, by the bundled SqueezeNet or by any checkpoint."""
    from npconvnet.data.image import read_image
    from npconvnet.prediction import classify_picture

    guesses = classify_picture(network_of(weights, device), read_image(photo), views)[:top]
    if as_json:
        click.echo(json.dumps([guess.to_json() for guess in guesses], ensure_ascii=False, indent=2))
        return
    for guess in guesses:
        click.echo(f"{guess.probability:7.2%}  {guess.score:8.2f}  {guess.wnid}  {guess.name}")


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="ILSVRC in any layout, or prepared.")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Views at a time.")
@click.option("--json", "as_json", is_flag=True, help="Print one object instead of a line.")
@views_option(1)
@device_option
@threads_option
def evaluate(checkpoint: Path, data: Path, batch_size: int, as_json: bool, views: ViewCount, device: str) -> None:
    """Print the top-1 and top-5 error of CHECKPOINT on the validation images of a data set."""
    from tqdm import tqdm

    from npconvnet.data.loader import Loader
    from npconvnet.data.opening import open_data
    from npconvnet.training.distributed.agreement import code_facts, data_facts, require_same, weights_facts
    from npconvnet.training.evaluation import evaluate as measure
    from npconvnet.training.evaluation import places_of_classes

    ranks = join_on(device)
    network = network_of(checkpoint, device)
    found = open_data(data, network.preprocessing)
    options = {"--views": views, "--batch-size": batch_size}
    require_same(ranks, lambda: code_facts() | data_facts(found) | weights_facts(network) | options)
    if found.note and ranks.is_first:
        click.echo(found.note, err=True)
    labels = places_of_classes(network, found)[found.validation.labels]
    at_once = max(1, batch_size // views) * ranks.size
    loader = Loader(found.validation, at_once, network.device, labels, ranks.share)
    no_bar = None if ranks.is_first else True
    batches = tqdm(loader.in_order(), total=loader.batches, unit="batch", desc="evaluate", leave=False, disable=no_bar)
    errors = measure(network, batches, views, ranks)
    unreadable = sorted(name for names in ranks.gather(list(loader.unreadable)) for name in names)
    if not errors.pictures:
        raise InputError(f"{data}: not one of the {len(labels)} validation images can be read")
    if not ranks.is_first:
        return
    if as_json:
        click.echo(json.dumps({"views": views, **errors.to_json(), "unreadable": unreadable}))
        return
    click.echo(
        f"top-1 error {errors.top1:.2%}, top-5 error {errors.top5:.2%} on {errors.pictures} pictures, "
        f"{views} view{'s' * (views > 1)} each"
    )
    if unreadable:
        click.echo(f"{len(unreadable)} pictures could not be read and were left out", err=True)
