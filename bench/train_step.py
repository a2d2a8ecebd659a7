"""Times a whole training step, forward, loss, backward and update, of npconvnet and of PyTorch, side by side.

    python bench/train_step.py --device cpu --batch-size 64 --model paper --against torch
    python bench/train_step.py --device cpu --batch-size 64 --model paper --against torch --inference
    python bench/train_step.py --device gpu --batch-size 256,512,1024 --model paper --against torch

On a GPU npconvnet computes beside PyTorch in both of its precisions. Where the GPU has wgmma, a run without PyTorch
compares npconvnet in bfloat16 as it trains and with every product by wgmma. --no-lrn makes a run of its own.

With --inference a step is the forward alone, from the images to the class scores, which keeps nothing for a backward.

All competitors take the same layers (bench/torch_peer.py) and the same batch, in one process, in turns: a step of one,
a step of the next, and again. On the CPU PyTorch runs in both of its memory formats, with its fused SGD; the faster one
counts. What runs on a GPU is in bench/train_step_on_gpu.py.

    ratio = images/s of npconvnet ÷ images/s of PyTorch's best            > 1: npconvnet is faster

All have the malloc that Python starts with; the commands of npconvnet keep what is freed, and are faster for it, as
PyTorch would be (npconvnet/memory.py).

On the CPU the peak memory of each is measured in a process of its own: how far the largest resident set (ru_maxrss) of
two steps lies above that of the imports. On a GPU it is how much less of its memory is free.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import click
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, Python looks in bench/ only

from bench.gpu import require_cuda
from bench.measuring import NPCONVNET, as_line, medians_in_turns, require_installed, threads_option, versions
from bench.workload import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Workload, read_batch_sizes
from npconvnet import kernels
from npconvnet.backend import Device, Precision, resolve_device, resolve_precision
from npconvnet.cli import run
from npconvnet.errors import InputError
from npconvnet.forward_pass import class_scores
from npconvnet.layers import Gradients
from npconvnet.models import MODELS
from npconvnet.parallel import use_threads
from npconvnet.randomness import Chances, Purpose
from npconvnet.training.optimizer import SGD
from npconvnet.training.schedule import BIAS_RATE
from npconvnet.training.step import loss_and_gradients

#: How far the losses of two competitors may differ, relatively, before the first update.
TOLERANCE = 1e-3

#: PyTorch's memory formats, by what the table calls them.
TORCH = {"torch contiguous": "contiguous_format", "torch channels_last": "channels_last"}


@dataclass(frozen=True, slots=True)
class Competitor:
    """`loss()` with dropout off; `step()`, what is timed, which has ended when it returns."""

    loss: Callable[[], float]
    step: Callable[[], None]


# -- the competitors -------------------------------------------------------------------------------------------------


def npconvnet_competitor(workload: Workload) -> Competitor:
    """npconvnet, by the steps of train_imagenet.py."""
    use_threads(workload.threads)
    network = workload.network()
    images, labels = workload.batch(network)
    optimizer = None if workload.inference else SGD(network, MOMENTUM, WEIGHT_DECAY)
    numbers = np.arange(len(labels))
    gradients: Gradients = {}

    def loss() -> float:
        return float(kernels.softmax_cross_entropy(class_scores(network, images), labels, len(labels))[0])

    def step() -> None:
        if optimizer is None:
            class_scores(network, images)
        else:
            chances = Chances.of(numbers, 2, Purpose.DROPOUT)
            _, found = loss_and_gradients(network, images, labels, chances, into=gradients)
            gradients.update(found)
            optimizer.update(gradients, LEARNING_RATE)

    return Competitor(loss, step)


def torch_competitor(workload: Workload, memory_format: str) -> Competitor:
    """PyTorch, with the same parameters and the same recipe."""
    import torch

    from bench.torch_peer import TorchPeer

    if workload.threads is not None:
        torch.set_num_threads(workload.threads)
    torch.manual_seed(2)
    place = {"memory_format": getattr(torch, memory_format)}
    network = workload.network()
    peer = TorchPeer(network).to(**place).train(not workload.inference)
    images, labels = (torch.from_numpy(array) for array in workload.batch(network))
    images = images.permute(0, 3, 1, 2).contiguous().to(**place)
    weights, biases = ([p for p in peer.parameters() if (p.ndim == 1) is bias] for bias in (False, True))
    optimizer = torch.optim.SGD(
        [{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": biases, "lr": BIAS_RATE * LEARNING_RATE}],
        lr=LEARNING_RATE,
        momentum=MOMENTUM,
        fused=True,
    )
    cross_entropy = torch.nn.functional.cross_entropy

    def loss() -> float:
        with torch.inference_mode():
            found = float(cross_entropy(peer.eval()(images), labels))
        peer.train(not workload.inference)
        return found

    def step() -> None:
        if workload.inference:
            with torch.inference_mode():
                peer(images)
        else:
            optimizer.zero_grad()
            loss = cross_entropy(peer(images), labels)
            loss.backward()
            optimizer.step()
            float(loss.detach())  # as a trainer does, to show it

    return Competitor(loss, step)


def competitor(name: str, workload: Workload) -> Competitor:
    """The competitor that the table calls `name`, ready for its first step."""
    return npconvnet_competitor(workload) if name == NPCONVNET else torch_competitor(workload, TORCH[name])


# -- measuring -------------------------------------------------------------------------------------------------------


def measure(workload: Workload, peaks: dict[str, int], repetitions: int) -> dict[str, Any]:
    """What came of the competitors whose `peaks` of memory are given, as one result of the report.

    Ends the program with status 1 where their losses differ at the start: then they do not compute the same.
    """
    competitors = {name: competitor(name, workload) for name in peaks}
    losses = {name: runner.loss() for name, runner in competitors.items()}
    if max(losses.values()) - min(losses.values()) > TOLERANCE * abs(losses[NPCONVNET]):
        click.echo(f"error: the losses differ before the first update, so something is wrong: {losses}", err=True)
        sys.exit(1)
    steps = {name: runner.step for name, runner in competitors.items()}
    medians = medians_in_turns(steps, repetitions, f"batch size {workload.batch_size}")
    best = min((median for name, median in medians.items() if name in TORCH), default=None)
    return {
        "batch_size": workload.batch_size,
        "loss": losses,
        "competitors": {
            name: {
                "milliseconds_per_batch": 1000 * median,
                "images_per_second": workload.batch_size / median,
                "peak_memory_bytes": peaks[name],
            }
            for name, median in medians.items()
        },
        "ratio": best and best / medians[NPCONVNET],
    }


def peak_memories(names: list[str], workload: Workload) -> dict[str, int]:
    """The peak memory of two steps, in bytes, of each competitor in a process of its own."""
    # A process that starts by exec takes over the ru_maxrss of its parent; one forked by a small server does not.
    context, peaks = multiprocessing.get_context("forkserver"), {}
    with tqdm(names, "peak memory", leave=False) as bar:
        for name in bar:
            with ProcessPoolExecutor(1, context) as pool:
                peaks[name] = pool.submit(_memory_of_two_steps, name, workload).result()
    return peaks


def _memory_of_two_steps(name: str, workload: Workload) -> int:
    if name in TORCH:
        import torch

        import bench.torch_peer  # noqa: F401 (an import is not a part of the step)

        torch.optim.SGD([torch.zeros(1)])  # the first optimizer imports the rest of PyTorch
    else:
        one = np.ones((1, 1), np.float32)
        kernels.relu_backward(one, one)  # imports numba, where it is installed, and starts its compiler
    before = _largest_resident_set()
    runner = competitor(name, workload)
    _forget_largest_resident_set()  # PyTorch's copy is made of a network that is gone by now
    runner.step()
    runner.step()
    return _largest_resident_set() - before


def _forget_largest_resident_set() -> None:
    """Makes the present resident set the largest; only Linux can, elsewhere what went before counts too."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _largest_resident_set() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# -- reporting -------------------------------------------------------------------------------------------------------


def as_text(report: dict[str, Any]) -> str:
    """The report as an aligned table."""
    lrn = "" if report["lrn"] else " without LRN"
    step = "class scores" if report["inference"] else "training step"
    lines = [
        f"{step} of {report['model']}{lrn} on the {report['device']}, medians of {report['repetitions']} rounds",
        as_line(report["versions"]),
        "",
        f"{'batch':>5}  {'':<19}  {'ms/batch':>9}  {'images/s':>9}  {'peak MiB':>9}",
    ]
    for result in report["results"]:
        for name, found in result["competitors"].items():
            lines.append(
                f"{result['batch_size']:>5}  {name:<19}  {found['milliseconds_per_batch']:>9.1f}  "
                f"{found['images_per_second']:>9.1f}  {found['peak_memory_bytes'] / 2**20:>9.0f}"
            )
        if result["ratio"] is not None:
            lines.append(f"{result['batch_size']:>5}  {'ratio':<19}  {result['ratio']:>9.2f}")
    return "\n".join(lines)


# -- the command -----------------------------------------------------------------------------------------------------


def require_torch(device: Device) -> None:
    """Raises InputError where PyTorch cannot run on `device`."""
    require_installed("--against torch", "torch", "pip install torch==2.13.0")
    if device == "gpu":
        require_cuda("--against torch")


def read_precisions(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> list[Precision | Literal["auto"]] | None:
    """The precisions in `value`, separated by commas."""
    if value is None:
        return None
    known = ("auto", *get_args(Precision))
    if unknown := [part for part in value.split(",") if part not in known]:
        raise InputError(f"--precision {value}: '{unknown[0]}' is none of {', '.join(known)}")
    return cast(list[Precision | Literal["auto"]], value.split(","))


def results_on_cpu(workloads: Iterable[Workload], against_torch: bool, repetitions: int) -> list[dict[str, Any]]:
    """What came of each workload, beside PyTorch if asked."""
    names, results = [NPCONVNET, *(TORCH if against_torch else ())], []
    for workload in workloads:
        try:
            results.append(measure(workload, peak_memories(names, workload), repetitions))
        except (MemoryError, BrokenProcessPool):
            raise InputError(f"batch size {workload.batch_size} needs more memory than there is; try less") from None
    return results


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--device", type=click.Choice(["cpu", "gpu"]), default="cpu", help="Where to compute.")
@click.option("--batch-size", "batch_sizes", default="64", callback=read_batch_sizes, help="One, or several: 16,64.")
@click.option("--model", type=click.Choice(list(MODELS)), default="paper", help="The architecture.")
@click.option("--lrn/--no-lrn", default=True, help="Local response normalisation (model paper only).")
@click.option(
    "--precision",
    "precisions",
    callback=read_precisions,
    help="Of npconvnet on a GPU, one or several: bfloat16,tf32,float32.  [default: bfloat16,tf32 beside PyTorch, whose "
    "are always these; else auto, what train_imagenet.py takes]",
)
@click.option("--against", type=click.Choice(["torch", "none"]), default="none", help="Whom to run beside.")
@click.option(
    "--compile-mode",
    type=click.Choice(["default", "max-autotune-no-cudagraphs"]),
    default="default",
    help="How long PyTorch may compile for a GPU: seconds, or minutes.",
)
@click.option("--inference", is_flag=True, help="Time the class scores alone, instead of a training step.")
@click.option("--repetitions", type=click.IntRange(1), default=7, help="Timed turns of each: a step, or ten on a GPU.")
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def main(
    device: Device,
    batch_sizes: list[int],
    model: str,
    lrn: bool,
    precisions: list[Precision | Literal["auto"]] | None,
    against: str,
    compile_mode: str,
    inference: bool,
    repetitions: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Time a whole training step of npconvnet, or its class scores alone, beside PyTorch's if asked."""
    device, against_torch = resolve_device(device), against == "torch"
    if not lrn and "lrn" not in MODELS[model]().options:
        raise InputError(f"--no-lrn: model {model} has no such option; it goes with --model paper")
    if against_torch:
        require_torch(device)
    if precisions is None:
        precisions = ["bfloat16", "tf32"] if device == "gpu" and against_torch else ["auto"]
    resolved = dict(resolve_precision(asked, device) for asked in precisions)
    for note in filter(None, resolved.values()):
        click.echo(note, err=True)
    workloads = [Workload(model, lrn, size, device, inference, threads) for size in batch_sizes]
    if device == "gpu":
        from bench import train_step_on_gpu

        found = train_step_on_gpu.results(workloads, list(resolved), against_torch, compile_mode, repetitions)
        text = train_step_on_gpu.as_text
    else:
        found, text = {"results": results_on_cpu(workloads, against_torch, repetitions)}, as_text
    report = {
        "model": model,
        "lrn": lrn,
        "device": device,
        "inference": inference,
        "repetitions": repetitions,
        "versions": versions(*(["torch"] if against_torch else [])),
        **found,
    }
    click.echo(json.dumps(report, indent=2) if as_json else text(report))


if __name__ == "__main__":
    run(main)
