"""Trains the paper's ConvNet (Simonyan, Vedaldi, Zisserman 2013) on ImageNet, or a small sister on drawn pictures.

    python train_imagenet.py                                ten classes of toy pictures, minutes on two CPU cores
    python train_imagenet.py --data ILSVRC --device gpu     the paper's network on the paper's data

Read it from top to bottom: options, data, network, optimizer, the loop.

The first command, two cores of an AMD EPYC (Zen 4), Python 3.11.7, NumPy 2.4.6: 1.40% top-1 validation error after
1 minute 29 seconds, from random weights and an empty cache.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.core import ParameterSource
from tqdm import tqdm

from npconvnet.backend import resolve_device, to_device, to_host
from npconvnet.cli import run
from npconvnet.cli.options import device_option, threads_option
from npconvnet.data.augment import Augmentation
from npconvnet.data.cache import toy_folder
from npconvnet.data.loader import Loader
from npconvnet.data.opening import open_to_train
from npconvnet.data.toy import make_toy
from npconvnet.errors import InputError
from npconvnet.layers import Gradients
from npconvnet.memory import keep_freed_memory
from npconvnet.models import MODELS
from npconvnet.network import Network
from npconvnet.randomness import Chances, Purpose, generator
from npconvnet.training.checkpoint import (
    Position,
    diverged,
    load_checkpoint,
    require_finite,
    save_best,
    save_checkpoint,
)
from npconvnet.training.evaluation import evaluate
from npconvnet.training.log import Log, read_log
from npconvnet.training.optimizer import SGD
from npconvnet.training.run_folder import RunFolder
from npconvnet.training.schedule import IMAGENET, TOY, learning_rate
from npconvnet.training.step import loss_and_gradients
from npconvnet.visualization.figures.training import draw_filters, draw_training_curves

#: The loss goes into the log every so many steps.
LOG_EVERY = 10
#: These options may differ when a run is resumed: they don't change what it computes.
FREE_TO_CHANGE = {"resume", "device", "data", "checkpoint_every"}


def _finite(_context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not np.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number", param=option)
    return value


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--data", type=click.Path(path_type=Path), help="ILSVRC in any layout, class folders, or prepared.")
@device_option
@threads_option
@click.option("--model", type=click.Choice(list(MODELS)), help="[default: paper with --data, tiny without]")
@click.option("--lrn/--no-lrn", default=True, help="Local response normalisation (model paper only).")
@click.option("--rounding", type=click.Choice(["caffe", "cudaconvnet"]), default="caffe", help="Model paper only.")
@click.option("--epochs", type=click.IntRange(1), help=f"[default: {IMAGENET.epochs}; tiny {TOY.epochs}]")
@click.option("--batch-size", type=click.IntRange(1), help=f"[default: {IMAGENET.batch_size}; tiny {TOY.batch_size}]")
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    callback=_finite,
    help=f"The highest, after the warm-up.  [default: {IMAGENET.learning_rate}; tiny {TOY.learning_rate}]",
)
@click.option("--momentum", type=click.FloatRange(0, 1, max_open=True), default=IMAGENET.momentum, callback=_finite)
@click.option("--weight-decay", type=click.FloatRange(0), default=IMAGENET.weight_decay, callback=_finite)
@click.option("--crop/--no-crop", default=True, help="Random crops.")
@click.option("--reflect/--no-reflect", default=True, help="Random reflections.")
@click.option("--colour/--no-colour", default=True, help="Colour noise along the principal components of RGB.")
@click.option("--erase/--no-erase", default=True, help="Zeroing-out of random parts.")
@click.option("--seed", type=click.IntRange(0), default=0, help="The same seed on the same device: the same bits.")
@click.option("--checkpoint-every", type=click.IntRange(1), default=1000, metavar="STEPS", help="And every epoch.")
@click.option("--output", type=click.Path(path_type=Path), help="[default: a new folder in runs/]")
@click.option("--resume", type=click.Path(path_type=Path), metavar="FOLDER", help="Go on with the run in FOLDER.")
@click.pass_context
def main(context: click.Context, /, **given: Any) -> None:
    """Train a network, or go on with a run that was interrupted."""
    # -- Options: as given, or those of the run that is resumed
    explicit = {name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if given["resume"]:
        folder = RunFolder.resume(given["resume"])
        options = _resumed(folder, given, explicit)
    else:
        options = _completed(given, explicit)
        folder = RunFolder.choose(given["output"], options["model"])
    device = resolve_device(options["device"])

    # -- Data: real pictures, or the toy set, made once
    if options["data"] is None:
        root = toy_folder()
        click.echo(f"No --data is given: training on the toy set, ten classes of drawn pictures, in {root}")
        make_toy(root)
    else:
        root = Path(options["data"])
    data = open_to_train(root, MODELS[options["model"]]().preprocessing, click.echo)
    if data.note:
        click.echo(data.note)
    seed, batch_size = options["seed"], options["batch_size"]
    training, validation = (Loader(source, batch_size, device) for source in (data.train, data.validation))
    colours = folder.colour_statistics() if given["resume"] else data.colours or training.colour_statistics()

    # -- Network: the table of layers, initial weights, and how to feed it
    network = _network(options, len(data.synsets))
    network.synsets = data.synsets
    network.preprocessing = colours.normalising(network.preprocessing)
    network.initialize(generator(seed, Purpose.INITIALIZE))
    network.to(device)
    augmentation = Augmentation(*(options[name] for name in ("crop", "reflect", "colour", "erase")))

    # -- Optimizer, and where the run stands
    optimizer = SGD(network, options["momentum"], options["weight_decay"])
    position = Position(seed)
    if given["resume"]:
        folder.require_same_data(data)
        position, refused = load_checkpoint(folder.path, network, optimizer)
        for line in refused:
            click.echo(f"{line}; going on from the checkpoint before it", err=True)
    else:
        position.unreadable |= training.unreadable  # found while the colours were measured
        folder.create(options, data, colours)
        save_checkpoint(folder.path, network, optimizer, position)
    training.unreadable = validation.unreadable = position.unreadable
    log = Log(folder.path, position.step, position.epoch)
    click.echo(
        f"{network.name}: {sum(p.size for p in network.parameters.values()):,} parameters, "
        f"{len(data.train):,} training and {len(data.validation):,} validation images of "
        f"{len(data.synsets)} classes ({data.layout}), on the {device}; run folder {folder.path}"
    )

    # -- The loop
    gradients: Gradients = {}
    total_steps = options["epochs"] * training.batches
    stop = _StopRequest()
    bar = tqdm(
        total=options["epochs"] * len(data.train),
        initial=position.epoch * len(data.train) + position.batch * batch_size,
        unit="image",
        smoothing=0.05,
        disable=None,
    )
    with bar, np.errstate(over="ignore", invalid="ignore"):  # the loss and the weights are watched instead
        for epoch in range(position.epoch, options["epochs"]):
            bar.set_description(f"epoch {epoch + 1}/{options['epochs']}")
            began, images = time.perf_counter(), 0
            for batch in training.epoch(seed, epoch, position.batch):
                rate = learning_rate(options["learning_rate"], position.step, total_steps)
                if len(batch.labels):
                    views = augmentation.draw(seed, epoch, batch.numbers, network.preprocessing, colours.components)
                    x = network.preprocessing.apply(batch.squares, views)
                    labels = to_device(batch.labels, device)
                    dropout = Chances.of(batch.numbers, seed, Purpose.DROPOUT, epoch)
                    loss, gradients = loss_and_gradients(network, x, labels, dropout, into=gradients)
                    if not np.isfinite(loss):
                        raise InputError(diverged(f"the loss is {loss}", position))
                    optimizer.update(gradients, rate)
                    position.add_loss(loss, len(labels))

                position.step, position.batch = position.step + 1, position.batch + 1
                images += len(batch.labels)
                bar.update(len(batch.labels))
                bar.set_postfix(loss=f"{position.last_loss:.3f}", refresh=False)
                if position.step % LOG_EVERY == 0:
                    log.write("step", position.step, epoch=epoch + 1, loss=position.last_loss, learning_rate=rate)
                if position.step % options["checkpoint_every"] == 0 or stop.requested:
                    save_checkpoint(folder.path, network, optimizer, position)
                if stop.requested:
                    break
            if stop.requested:
                break
            speed = images / (time.perf_counter() - began)

            # The weights of a finished epoch are tested, logged, drawn and kept.
            if not position.images:
                raise InputError(f"{root}: not one of the {len(data.train)} training images can be read any more")
            require_finite(network, position)
            errors = evaluate(
                network,
                tqdm(validation.in_order(), "validation", validation.batches, unit="batch", leave=False, disable=None),
            )
            if not errors.pictures:
                save_checkpoint(folder.path, network, optimizer, position)
                raise InputError(f"{root}: not one of the {len(data.validation)} validation images can be read")
            log.write(
                "epoch",
                position.step,
                epoch=epoch + 1,
                training_loss=position.mean_loss,
                validation_loss=errors.loss,
                top1_error=errors.top1,
                top5_error=errors.top5,
                images_per_second=speed,
            )
            bar.write(
                f"epoch {epoch + 1:2}/{options['epochs']}  loss {position.mean_loss:.3f}  validation: top-1 error "
                f"{errors.top1:.2%}, top-5 error {errors.top5:.2%}  ({speed:.0f} images/s)"
            )
            position.begin_epoch(epoch + 1)
            position.top1, position.top5 = errors.top1, errors.top5
            if errors.top1 <= position.best_top1:
                position.best_top1 = errors.top1
                save_best(folder.path, network, position)
            draw_training_curves(folder.path / "training_curves.png", read_log(folder.path))
            first = to_host(network.nodes[0].layer.parameters["weight"])
            draw_filters(folder.path / "conv1_filters.png", first, f"{network.name}: the {len(first)} filters of conv1")
            save_checkpoint(folder.path, network, optimizer, position)
            if stop.requested:
                break
    if stop.requested and position.epoch < options["epochs"]:
        click.echo(f"stopped after step {position.step}; go on with: {folder.resume_command}", err=True)
        sys.exit(130)

    # -- What came of it
    click.echo(
        f"final validation error: top-1 {position.top1:.2%}, top-5 {position.top5:.2%} "
        f"(best top-1 {position.best_top1:.2%}); curves, filters, log and checkpoints are in {folder.path}"
    )
    if position.unreadable:
        log.write("unreadable", position.step, images=position.unreadable)
        click.echo(
            f"{len(position.unreadable)} images could not be read and were skipped; {log.path} names them", err=True
        )


def _completed(given: dict[str, Any], explicit: set[str]) -> dict[str, Any]:
    """The options as given, with the defaults that depend on the data and the model."""
    options = {name: value for name, value in given.items() if name not in ("output", "resume")}
    options["model"] = given["model"] or ("paper" if given["data"] else "tiny")
    if options["model"] != "paper" and (misplaced := explicit & {"lrn", "rounding"}):
        names = " and ".join({"lrn": "--lrn/--no-lrn", "rounding": "--rounding"}[name] for name in sorted(misplaced))
        raise InputError(f"{names} goes with --model paper only; leave it out with --model {options['model']}")
    recipe = TOY if options["model"] == "tiny" else IMAGENET
    for name in ("epochs", "batch_size", "learning_rate"):
        options[name] = getattr(recipe, name) if given[name] is None else given[name]
    options["data"] = str(given["data"].resolve()) if given["data"] else None
    return options


def _resumed(folder: RunFolder, given: dict[str, Any], explicit: set[str]) -> dict[str, Any]:
    """The options of the run in `folder`; of those given now, only the ones that are free to change may stand."""
    if fixed := explicit - FREE_TO_CHANGE:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(fixed))
        raise InputError(f"a resumed run keeps its own options; leave out {names}, or start afresh without --resume")
    changed = {name: given[name] for name in explicit & FREE_TO_CHANGE - {"resume"}}
    options = _reread(folder) | changed
    return options | {"data": str(options["data"]) if options["data"] else None}


def _reread(folder: RunFolder) -> dict[str, Any]:
    """The options that the run began with, through the same checks as those of a command line."""
    arguments = []
    try:
        for option in main.params:
            kept = option.expose_value and option.name not in ("output", "resume")
            value = folder.options[str(option.name)] if kept else None
            if isinstance(value, bool):
                arguments.append((option.opts if value else option.secondary_opts)[0])
            elif value is not None:
                arguments += [option.opts[0], str(value)]
        options = main.make_context("train_imagenet.py", arguments).params
    except (KeyError, TypeError, click.UsageError) as error:
        raise InputError(
            f"{folder.path}: its configuration is damaged ({error}); start afresh without --resume"
        ) from error
    if missing := [name for name in ("model", "epochs", "batch_size", "learning_rate") if options[name] is None]:
        raise InputError(f"{folder.path}: its configuration lacks {', '.join(missing)}; start afresh without --resume")
    return options


def _network(options: dict[str, Any], classes: int) -> Network:
    more = {name: options[name] for name in ("lrn", "rounding")} if options["model"] == "paper" else {}
    return MODELS[options["model"]](classes=classes, **more)


class _StopRequest:
    """Set by Ctrl-C or SIGTERM, so that a run ends between two steps; a second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    def _receive(self, number: int, _frame: object) -> None:
        self.requested = True
        signal.signal(number, signal.default_int_handler)


if __name__ == "__main__":
    keep_freed_memory()
    run(main)
