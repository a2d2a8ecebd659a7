"""Trains the paper's ConvNet (Simonyan, Vedaldi, Zisserman 2013) on ImageNet, or a small sister on drawn pictures.

    python train_imagenet.py                                ten classes of toy pictures, minutes on two CPU cores
    python train_imagenet.py --data ILSVRC --device gpu     the paper's network on the paper's data
    mpiexec -n 8 python train_imagenet.py --data ILSVRC --device gpu      on eight GPUs (docs/cluster.md)

Read it from top to bottom: options, data, network, optimizer, the loop.

The first command, two cores of an AMD EPYC (Zen 4), Python 3.11.7, NumPy 2.4.6: 2.80% top-1 validation error after
1 minute 24 seconds, from random weights and an empty cache.
"""

from __future__ import annotations

import itertools
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, SupportsFloat, get_args

import click
import numpy as np
from click.core import ParameterSource
from tqdm import tqdm

from npconvnet.backend import Device, Precision, resolve_device, resolve_precision, to_device, to_host
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
from npconvnet.parallel import share_cores
from npconvnet.randomness import Chances, Purpose, generator
from npconvnet.training.captured_step import CapturedStep
from npconvnet.training.checkpoint import (
    Position,
    diverged,
    load_checkpoint,
    require_finite,
    save_best,
    save_checkpoint,
)
from npconvnet.training.distributed.agreement import code_facts, data_facts, require_same, take_gpu, weights_facts
from npconvnet.training.distributed.ranks import join
from npconvnet.training.distributed.reduction import reduction_over
from npconvnet.training.distributed.wires import WireFormat
from npconvnet.training.evaluation import evaluate
from npconvnet.training.gpu_memory import naming_what_fits
from npconvnet.training.log import Log, read_log
from npconvnet.training.optimizer import SGD
from npconvnet.training.run_folder import RunFolder
from npconvnet.training.schedule import IMAGENET, TOY, learning_rate
from npconvnet.training.step import loss_and_gradients
from npconvnet.visualization.figures.training import draw_filters, draw_training_curves

#: The loss goes into the log every so many steps, and so many losses are read at once from a GPU that need not wait.
LOG_EVERY = 10
#: Seconds between two states of a bar that a launcher passes on.
BAR_BY_LAUNCHER = 10.0
#: These options may differ when a run is resumed: it goes on with the same task, if not with the same rounding.
FREE_TO_CHANGE = {"resume", "device", "precision", "data", "checkpoint_every"}


def _finite(_context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not np.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number", param=option)
    return value


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--data", type=click.Path(path_type=Path), help="ILSVRC in any layout, class folders, or prepared.")
@device_option
@threads_option
@click.option(
    "--precision",
    type=click.Choice(["auto", *get_args(Precision)]),
    default="auto",
    help="auto: bfloat16 on a GPU whose tensor cores know it, elsewhere float32.",
)
@click.option("--model", type=click.Choice(list(MODELS)), help="[default: paper with --data, tiny without]")
@click.option("--lrn/--no-lrn", default=True, help="Local response normalisation (model paper only).")
@click.option("--rounding", type=click.Choice(["caffe", "cudaconvnet"]), default="caffe", help="Model paper only.")
@click.option("--epochs", type=click.IntRange(1), help=f"[default: {IMAGENET.epochs}; tiny {TOY.epochs}]")
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    help=f"Images a step, for each rank.  [default: {IMAGENET.batch_size}; tiny {TOY.batch_size}]",
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    callback=_finite,
    help="The highest, after the warm-up, times the number of ranks.  "
    f"[default: {IMAGENET.learning_rate}; tiny {TOY.learning_rate}]",
)
@click.option("--momentum", type=click.FloatRange(0, 1, max_open=True), default=IMAGENET.momentum, callback=_finite)
@click.option("--weight-decay", type=click.FloatRange(0), default=IMAGENET.weight_decay, callback=_finite)
@click.option("--crop/--no-crop", default=True, help="Random crops.")
@click.option("--reflect/--no-reflect", default=True, help="Random reflections.")
@click.option("--colour/--no-colour", default=True, help="Colour noise along the principal components of RGB.")
@click.option("--erase/--no-erase", default=True, help="Zeroing-out of random parts.")
@click.option("--seed", type=click.IntRange(0), default=0, help="The same seed on the same device: the same bits.")
@click.option("--checkpoint-every", type=click.IntRange(1), default=1000, metavar="STEPS", help="And every epoch.")
@click.option("--wire", type=click.Choice(get_args(WireFormat)), default="float32", help="Gradients between ranks.")
@click.option("--output", type=click.Path(path_type=Path), help="[default: a new folder in runs/]")
@click.option("--resume", type=click.Path(path_type=Path), metavar="FOLDER", help="Go on with the run in FOLDER.")
@click.pass_context
def main(context: click.Context, /, **given: Any) -> None:
    """Train a network, or go on with a run that was interrupted."""
    # -- Ranks: the processes that train together. Started alone, this one is the first and the only one
    ranks = join()
    say = click.echo if ranks.is_first else _say_nothing
    # One process has bars on a terminal. What ranks write may go into a file: there is one bar, which moves seldom.
    no_bar = None if ranks.size == 1 else True

    # -- Options: as given, or those of the run that is resumed
    explicit = {name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if given["resume"]:
        folder = ranks.from_first(lambda: RunFolder.resume(given["resume"]))
        options = _resumed(folder, given, explicit)
    else:
        options = _completed(given, explicit)
        folder = ranks.from_first(lambda: RunFolder.choose(given["output"], options["model"]))
    device = resolve_device(options["device"])
    require_same(ranks, lambda: code_facts() | _facts(options, device))
    if device == "gpu":
        take_gpu(ranks)
    precision, note = resolve_precision(options["precision"], device)
    require_same(ranks, lambda: {"the precision": precision})
    if note:
        say(note)

    # -- Data: real pictures, or the toy set, made once
    if options["data"] is None:
        root = toy_folder()
        say(f"No --data is given: training on the toy set, ten classes of drawn pictures, in {root}")
        ranks.after_first(lambda: make_toy(root))
    else:
        root = Path(options["data"])
    data = ranks.after_first(lambda: open_to_train(root, MODELS[options["model"]]().preprocessing, say))
    require_same(ranks, lambda: data_facts(data))
    if data.note:
        say(data.note)
    share_cores(ranks.on_the_same_cores)
    # Each rank brings a batch, and the rate grows with it (docs/cluster.md). A run that is resumed keeps both.
    begun_by = folder.ranks if given["resume"] else ranks.size
    seed, batch_size = options["seed"], options["batch_size"] * begun_by
    highest_rate = options["learning_rate"] * begun_by
    training = Loader(data.train, batch_size, device, share=ranks.share)
    validation = Loader(data.validation, batch_size, device, share=ranks.share)
    measuring = Loader(data.train, batch_size)
    if given["resume"]:
        colours = folder.colour_statistics()
    else:
        colours = data.colours or ranks.from_first(measuring.colour_statistics)

    # -- Network: the table of layers, initial weights, and how to feed it
    network = _network(options, len(data.synsets))
    network.synsets = data.synsets
    network.preprocessing = colours.normalising(network.preprocessing)
    network.initialize(generator(seed, Purpose.INITIALIZE))
    network.to(device)
    augmentation = Augmentation(*(options[name] for name in ("crop", "reflect", "colour", "erase")))

    # -- Optimizer, and where the run stands. The first rank alone reads and writes the folder
    optimizer = SGD(network, options["momentum"], options["weight_decay"])
    position = Position(seed)
    if given["resume"]:
        folder.require_same_data(data)
        position, refused = ranks.from_first(lambda: load_checkpoint(folder.path, network, optimizer))
        for line in refused if ranks.is_first else ():
            click.echo(f"{line}; going on from the checkpoint before it", err=True)
    else:
        position.unreadable |= measuring.unreadable
        if ranks.is_first:
            folder.create(options, ranks.size, data, colours)
            save_checkpoint(folder.path, network, optimizer, position)
    ranks.copy_from_first([*network.parameters.values(), *optimizer.velocities.values()])
    # What computes: the same network on the same parameters, on a GPU by tensor cores. Alone, its step is captured
    with naming_what_fits(network, precision, options["batch_size"]):
        trained = network if precision == "float32" else network.fused(precision)
        captured = None if precision == "float32" or ranks.size > 1 else CapturedStep(trained, optimizer, batch_size)
    training.unreadable = validation.unreadable = position.unreadable
    log = Log(folder.path, position.step, position.epoch) if ranks.is_first else None
    reduction = reduction_over(ranks, network, device, options["wire"])
    say(
        f"{network.name}: {sum(p.size for p in network.parameters.values()):,} parameters, "
        f"{len(data.train):,} training and {len(data.validation):,} validation images of "
        f"{len(data.synsets)} classes ({data.layout}), in {precision} on the {device}; run folder {folder.path}"
    )
    if max(begun_by, ranks.size) > 1:
        say(f"number of ranks: {ranks.size}; {batch_size} images a step, at a rate of {highest_rate:g} at most")

    def save() -> None:
        """A checkpoint by the first rank, with the pictures that any rank could not read."""
        for unreadable in ranks.gather(dict(position.unreadable)):
            position.unreadable |= unreadable
        if ranks.is_first:
            save_checkpoint(folder.path, network, optimizer, position)

    unread: list[tuple[SupportsFloat, int]] = []

    def read_losses() -> bool:
        """Counts in the losses of the steps since the last reading; whether any rank is asked to stop."""
        *losses, stopping = ranks.sum(*(float(loss) for loss, _ in unread), stop.requested)
        first = position.step - len(unread)
        for step, loss, (_, count) in zip(itertools.count(first), losses, unread, strict=False):
            if not np.isfinite(loss):
                raise InputError(diverged(f"the loss is {loss}", replace(position, step=step), precision))
            if count:
                position.add_loss(loss, count)
        unread.clear()
        return bool(stopping)

    # -- The loop
    gradients: Gradients = {}
    total_steps = options["epochs"] * training.batches
    stop, stopping = _StopRequest(), False
    bar = tqdm(
        total=options["epochs"] * len(data.train),
        initial=position.epoch * len(data.train) + position.batch * batch_size,
        unit="image",
        smoothing=0.05,
        mininterval=0.1 if ranks.size == 1 else BAR_BY_LAUNCHER,
        disable=no_bar if ranks.size == 1 else not ranks.is_first,
    )
    # The loss and the weights are watched, so overflow may pass.
    with bar, np.errstate(over="ignore", invalid="ignore"), naming_what_fits(network, precision, options["batch_size"]):
        for epoch in range(position.epoch, options["epochs"]):
            bar.set_description(f"epoch {epoch + 1}/{options['epochs']}")
            began, images = time.perf_counter(), 0
            for batch in training.epoch(seed, epoch, position.batch):
                rate = learning_rate(highest_rate, position.step, total_steps)
                count = int(*ranks.sum(len(batch.labels)))
                loss: SupportsFloat = 0.0
                views = augmentation.draw(seed, epoch, batch.numbers, network.preprocessing, colours.components)
                dropout = Chances.of(batch.numbers, seed, Purpose.DROPOUT, epoch)
                if captured and count == batch_size:
                    loss = captured(batch.squares, views, batch.labels, dropout, rate)
                elif count:
                    if len(batch.labels):
                        x = network.preprocessing.apply(batch.squares, views)
                        labels = to_device(batch.labels, device)
                        loss, gradients = loss_and_gradients(
                            trained, x, labels, dropout, into=gradients, of=count, ready=reduction.add
                        )
                    gradients = reduction.finish(gradients)
                    optimizer.update(gradients, rate, trained.copies)

                position.step, position.batch = position.step + 1, position.batch + 1
                unread.append((loss, count))
                due = position.step % LOG_EVERY == 0 or position.step % options["checkpoint_every"] == 0
                if not captured or due or stop.requested:
                    stopping = read_losses()
                images += count
                bar.update(count)
                if position.images:
                    bar.set_postfix(loss=f"{position.last_loss:.3f}", refresh=False)
                if log and position.step % LOG_EVERY == 0:
                    log.write("step", position.step, epoch=epoch + 1, loss=position.last_loss, learning_rate=rate)
                if position.step % options["checkpoint_every"] == 0 or stopping:
                    save()
                if stopping:
                    break
            if stopping:
                break
            read_losses()
            speed = images / (time.perf_counter() - began)

            # The weights of a finished epoch are tested, logged, drawn and kept.
            if not position.images:
                raise InputError(f"{root}: not one of the {len(data.train)} training images can be read any more")
            require_finite(network, position, precision)
            require_same(ranks, lambda: weights_facts(network))
            of_validation = tqdm(
                validation.in_order(), "validation", validation.batches, unit="batch", leave=False, disable=no_bar
            )
            errors = evaluate(trained, of_validation, ranks=ranks)
            if not errors.pictures:
                save()
                raise InputError(f"{root}: not one of the {len(data.validation)} validation images can be read")
            if log:
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
            is_best, position.best_top1 = errors.top1 <= position.best_top1, min(errors.top1, position.best_top1)
            if ranks.is_first:
                if is_best:
                    save_best(folder.path, network, position)
                draw_training_curves(folder.path / "training_curves.png", read_log(folder.path))
                first = to_host(network.nodes[0].layer.parameters["weight"])
                title = f"{network.name}: the {len(first)} filters of conv1"
                draw_filters(folder.path / "conv1_filters.png", first, title)
            save()
            stopping = read_losses()
            if stopping:
                break
    if stopping and position.epoch < options["epochs"]:
        if ranks.is_first:
            how = "" if ranks.size == 1 else " (and the launcher before it, for several ranks)"
            click.echo(f"stopped after step {position.step}; go on with: {folder.resume_command}{how}", err=True)
        sys.exit(130)

    # -- What came of it
    say(
        f"final validation error: top-1 {position.top1:.2%}, top-5 {position.top5:.2%} "
        f"(best top-1 {position.best_top1:.2%}); curves, filters, log and checkpoints are in {folder.path}"
    )
    if log and position.unreadable:
        log.write("unreadable", position.step, images=position.unreadable)
        click.echo(
            f"{len(position.unreadable)} images could not be read and were skipped; {log.path} names them", err=True
        )


def _say_nothing(_line: str) -> None:
    """What ranks other than the first say."""


def _facts(options: dict[str, Any], device: Device) -> dict[str, Any]:
    """What all ranks must be asked for alike, by what a user calls it; where data lie is each machine's business."""
    return {_flag(name): value for name, value in options.items() if name != "data"} | {"the device": device}


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


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _resumed(folder: RunFolder, given: dict[str, Any], explicit: set[str]) -> dict[str, Any]:
    """The options of the run in `folder`; of those given now, only the ones that are free to change may stand."""
    if fixed := explicit - FREE_TO_CHANGE:
        names = ", ".join(_flag(name) for name in sorted(fixed))
        raise InputError(f"a resumed run keeps its own options; leave out {names}, or start afresh without --resume")
    changed = {name: given[name] for name in explicit & FREE_TO_CHANGE - {"resume"}}
    options = _reread(folder) | changed
    return options | {"data": str(options["data"]) if options["data"] else None}


def _reread(folder: RunFolder) -> dict[str, Any]:
    """The options that the run began with, through the same checks as those of a command line."""
    arguments = []
    try:
        begun_with = {"precision": "auto"} | folder.options  # it could not be chosen at first
        for option in main.params:
            kept = option.expose_value and option.name not in ("output", "resume")
            value = begun_with[str(option.name)] if kept else None
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
