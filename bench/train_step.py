"""Times a whole training step, forward, loss, backward and update, of npconvnet and of PyTorch, side by side.

    python bench/train_step.py --device cpu --batch-size 64 --model paper --against torch
    python bench/train_step.py --device cpu --batch-size 64 --model paper --against torch --inference

With --inference a step is the forward alone, from the images to the class scores, which keeps nothing for a backward.

All competitors take the same layers (bench/torch_peer.py) and the same batch, in one process, in turns: a step of one,
a step of the next, and again. PyTorch runs in both of its memory formats, with its fused SGD; the faster one counts.

    ratio = images/s of npconvnet ÷ images/s of PyTorch's best            > 1: npconvnet is faster

All have the malloc that Python starts with; the commands of npconvnet keep what is freed, and are faster for it, as
PyTorch would be (npconvnet/memory.py).

The peak memory of each is measured in a process of its own. On the CPU it is how far the largest resident set
(ru_maxrss) of two steps lies above that of the imports; on a GPU, what the memory pool holds after them.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, Python looks in bench/ only

from bench.measuring import NPCONVNET, as_line, medians_in_turns, require_installed, threads_option, versions
from npconvnet import kernels
from npconvnet.backend import Array, Device, array_module, resolve_device, to_device
from npconvnet.cli import run
from npconvnet.errors import InputError
from npconvnet.forward_pass import class_scores
from npconvnet.layers import Gradients
from npconvnet.models import MODELS
from npconvnet.network import Network
from npconvnet.parallel import use_threads
from npconvnet.randomness import Chances, Purpose
from npconvnet.training.optimizer import SGD
from npconvnet.training.schedule import BIAS_RATE
from npconvnet.training.step import loss_and_gradients

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
#: Small: however many steps are timed, the network stays near its beginning and its numbers ordinary.
LEARNING_RATE = 1e-3
#: How far the losses of two competitors may differ, relatively, before the first update.
TOLERANCE = 1e-3

#: PyTorch's memory formats, by what the table calls them.
TORCH = {"torch contiguous": "contiguous_format", "torch channels_last": "channels_last"}


@dataclass(frozen=True, slots=True)
class Workload:
    """What every competitor does: a training step or, in `inference`, the class scores; None leaves it its threads."""

    model: str
    lrn: bool
    batch_size: int
    device: Device
    inference: bool
    threads: int | None

    def network(self) -> Network:
        """The network with its initial weights; the same ones every time."""
        network = MODELS[self.model](**({} if self.lrn else {"lrn": False}))
        network.initialize(np.random.default_rng(0))
        return network

    def batch(self, network: Network) -> tuple[Array, Array]:
        """Random images and labels; the same ones every time."""
        rng = np.random.default_rng(1)
        images = rng.standard_normal((self.batch_size, *network.shapes["input"]), np.float32)
        return images, rng.integers(0, network.shapes[network.last][0], self.batch_size)


@dataclass(frozen=True, slots=True)
class Competitor:
    """`loss()` with dropout off; `step()`, what is timed, which has ended when it returns."""

    loss: Callable[[], float]
    step: Callable[[], None]
    gpu_memory: Callable[[], int]


# -- the competitors -------------------------------------------------------------------------------------------------


def npconvnet_competitor(workload: Workload) -> Competitor:
    """npconvnet, by the steps of train_imagenet.py."""
    use_threads(workload.threads)
    network = workload.network().to(workload.device)
    images, labels = (to_device(array, workload.device) for array in workload.batch(network))
    optimizer = None if workload.inference else SGD(network, MOMENTUM, WEIGHT_DECAY)
    numbers, xp = np.arange(len(labels)), array_module(images)
    gradients: Gradients = {}

    def loss() -> float:
        return float(kernels.softmax_cross_entropy_forward(class_scores(network, images), labels)[0])

    def step() -> None:
        if optimizer is None:
            class_scores(network, images)
        else:
            chances = Chances.of(numbers, 2, Purpose.DROPOUT)
            _, found = loss_and_gradients(network, images, labels, chances, into=gradients)
            gradients.update(found)
            optimizer.update(gradients, LEARNING_RATE)
        if workload.device == "gpu":
            xp.cuda.Device().synchronize()

    return Competitor(loss, step, lambda: int(xp.get_default_memory_pool().total_bytes()))


def torch_competitor(workload: Workload, memory_format: str) -> Competitor:
    """PyTorch, with the same parameters and the same recipe."""
    import torch

    from bench.torch_peer import TorchPeer

    if workload.threads is not None:
        torch.set_num_threads(workload.threads)
    torch.manual_seed(2)
    place = {"device": {"cpu": "cpu", "gpu": "cuda"}[workload.device], "memory_format": getattr(torch, memory_format)}
    network = workload.network()
    peer = TorchPeer(network).to(**place).train(not workload.inference)
    images, labels = (torch.from_numpy(array) for array in workload.batch(network))
    images, labels = images.permute(0, 3, 1, 2).contiguous().to(**place), labels.to(place["device"])
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
        if workload.device == "gpu":
            torch.cuda.synchronize()

    return Competitor(loss, step, lambda: int(torch.cuda.max_memory_reserved()))


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
    before = _largest_resident_set()
    runner = competitor(name, workload)
    _forget_largest_resident_set()  # PyTorch's copy is made of a network that is gone by now
    runner.step()
    runner.step()
    return runner.gpu_memory() if workload.device == "gpu" else _largest_resident_set() - before


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


def read_batch_sizes(_context: click.Context, _option: click.Parameter, value: str) -> list[int]:
    """The whole numbers in `value`, separated by commas."""
    sizes = [int(part) for part in value.split(",") if part.strip().isdecimal()]
    if len(sizes) != value.count(",") + 1 or min(sizes) < 1:
        raise InputError(f"--batch-size {value}: give whole numbers from 1, separated by commas, such as 16,64")
    return sizes


def require_torch(device: Device) -> None:
    """Raises InputError where PyTorch cannot run on `device`."""
    require_installed("--against torch", "torch", "pip install torch==2.13.0")
    if device == "gpu":
        import torch

        if not torch.cuda.is_available():
            raise InputError("--against torch: this PyTorch finds no GPU; install its CUDA build, or omit --against")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--device", type=click.Choice(["cpu", "gpu"]), default="cpu", help="Where to compute.")
@click.option("--batch-size", "batch_sizes", default="64", callback=read_batch_sizes, help="One, or several: 16,64.")
@click.option("--model", type=click.Choice(list(MODELS)), default="paper", help="The architecture.")
@click.option("--lrn/--no-lrn", default=True, help="Local response normalisation (model paper only).")
@click.option("--against", type=click.Choice(["torch", "none"]), default="none", help="Whom to run beside.")
@click.option("--inference", is_flag=True, help="Time the class scores alone, instead of a training step.")
@click.option("--repetitions", type=click.IntRange(1), default=7, help="Timed steps of each.")
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def main(
    device: Device,
    batch_sizes: list[int],
    model: str,
    lrn: bool,
    against: str,
    inference: bool,
    repetitions: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Time a whole training step of npconvnet, or its class scores alone, beside PyTorch's if asked."""
    device = resolve_device(device)
    if not lrn and "lrn" not in MODELS[model]().options:
        raise InputError(f"--no-lrn: model {model} has no such option; it goes with --model paper")
    if against == "torch":
        require_torch(device)
    names = [NPCONVNET, *(TORCH if against == "torch" else ())]
    results = []
    for batch_size in batch_sizes:
        workload = Workload(model, lrn, batch_size, device, inference, threads)
        try:
            results.append(measure(workload, peak_memories(names, workload), repetitions))
        except (MemoryError, BrokenProcessPool):
            raise InputError(f"batch size {batch_size} needs more memory than there is; try less") from None
    report = {
        "model": model,
        "lrn": lrn,
        "device": device,
        "inference": inference,
        "repetitions": repetitions,
        "versions": versions(*(["torch"] if against == "torch" else [])),
        "results": results,
    }
    click.echo(json.dumps(report, indent=2) if as_json else as_text(report))


if __name__ == "__main__":
    run(main)
