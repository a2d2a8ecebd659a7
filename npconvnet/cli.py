"""The `npconvnet` command, one function a subcommand, and no arithmetic. What a command needs is imported inside it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from npconvnet.errors import InputError

if TYPE_CHECKING:
    from npconvnet.network import Network
    from npconvnet.preprocessing import ViewCount

device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "gpu"]), default="auto", show_default=True, help="Where to compute."
)
views_option = click.option(
    "--views",
    type=click.Choice(["1", "10"]),
    default="1",
    show_default=True,
    callback=lambda _context, _option, value: int(value),
    help="Average over the centre crop alone, or over corners and centre and their reflections.",
)


def run(command: click.Command) -> NoReturn:
    """Runs `command` on the command line; what a user can put right ends in one line and exit status 2."""
    try:
        sys.exit(command.main(standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        _refuse(error.format_message())
    except InputError as error:
        _refuse(str(error))
    except MemoryError as error:
        _refuse(f"there is not enough memory ({error}); try smaller batches")
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(130)


def _refuse(message: str) -> NoReturn:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(2)


def main() -> NoReturn:
    """The entry point of the `npconvnet` command."""
    run(commands)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """A convolutional network whose every forward and backward is written out by hand."""


@commands.command("make-toy")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--train-per-class", type=click.IntRange(1), default=400, show_default=True, metavar="COUNT")
@click.option("--validation-per-class", type=click.IntRange(1), default=50, show_default=True, metavar="COUNT")
def make_toy_command(directory: Path, seed: int, train_per_class: int, validation_per_class: int) -> None:
    """Draw ten classes of small pictures into DIRECTORY, as a miniature ILSVRC with boxes."""
    from npconvnet.data.ilsvrc import open_dataset
    from npconvnet.data.toy import make_toy
    from npconvnet.visualization.figures.training import draw_samples

    make_toy(directory, seed, train_per_class, validation_per_class)
    draw_samples(directory / "samples.png", open_dataset(directory))
    click.echo(
        f"{directory}: 10 classes with {train_per_class} training and {validation_per_class} validation pictures each; "
        f"samples.png shows some"
    )


@commands.command()
@click.argument("photo", type=click.Path(path_type=Path))
@click.option("--weights", type=click.Path(path_type=Path), help="A weight file or checkpoint.  [default: SqueezeNet]")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="How many classes to name.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects instead of a table.")
@views_option
@device_option
def classify(photo: Path, weights: Path | None, top: int, as_json: bool, views: ViewCount, device: str) -> None:
    """Name what is in PHOTO, by the bundled SqueezeNet or by any checkpoint."""
    from npconvnet.data.image import read_image
    from npconvnet.prediction import classify_picture

    guesses = classify_picture(_network(weights, device), read_image(photo), views)[:top]
    if as_json:
        click.echo(json.dumps([guess.to_json() for guess in guesses], ensure_ascii=False, indent=2))
        return
    for guess in guesses:
        click.echo(f"{guess.probability:7.2%}  {guess.score:8.2f}  {guess.wnid}  {guess.name}")


@commands.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="A folder in any layout of ILSVRC.")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Views at a time.")
@click.option("--json", "as_json", is_flag=True, help="Print one object instead of a line.")
@views_option
@device_option
def evaluate(checkpoint: Path, data: Path, batch_size: int, as_json: bool, views: ViewCount, device: str) -> None:
    """Print the top-1 and top-5 error of CHECKPOINT on the validation images of a data set."""
    from tqdm import tqdm

    from npconvnet.data.ilsvrc import open_dataset
    from npconvnet.data.loader import Loader
    from npconvnet.training.evaluation import evaluate as measure
    from npconvnet.training.evaluation import labelled_for

    network = _network(checkpoint, device)
    dataset = open_dataset(data)
    if dataset.note:
        click.echo(dataset.note, err=True)
    examples = labelled_for(network, dataset)
    loader = Loader(examples, network.preprocessing.resize, max(1, batch_size // views))
    batches = tqdm(loader.in_order(), total=loader.batches, unit="batch", desc="evaluate", leave=False)
    errors = measure(network, batches, views)
    if not errors.pictures:
        raise InputError(f"{data}: not one of the {len(examples)} validation images can be read")
    if as_json:
        click.echo(json.dumps({"views": views, **errors.to_json(), "unreadable": sorted(loader.unreadable)}))
        return
    click.echo(
        f"top-1 error {errors.top1:.2%}, top-5 error {errors.top5:.2%} on {errors.pictures} pictures, "
        f"{views} view{'s' * (views > 1)} each"
    )
    if loader.unreadable:
        click.echo(f"{len(loader.unreadable)} pictures could not be read and were left out", err=True)


def _network(weights: Path | None, device: str) -> Network:
    from npconvnet.backend import resolve_device
    from npconvnet.weights import bundled_network, load_network

    chosen = resolve_device(device)  # type: ignore[arg-type]
    return (load_network(weights) if weights else bundled_network()).to(chosen)


if __name__ == "__main__":
    main()
