"""Times training steps on 1, 2, 4 … ranks, checks the model in scaling_model.py on them, and predicts 8 to 1024 GPUs.

    python bench/scaling.py                     1 and 2 ranks on CPU cores
    python bench/scaling.py --device gpu        1, 2, 4 … all GPUs of this machine
    python bench/scaling.py --no-measure        predicts and draws anew, from the measurements that are there

A step is that of train_imagenet.py, on random images that lie in memory: forward, loss, backward, sum over the ranks,
update. Every rank has a batch of its own, so that more ranks do more work (weak scaling), and as many threads as one
rank alone. In each round, a step of every kind is taken in turn: the first rank alone, the others idle; all ranks,
each for itself; all ranks with their gradients summed, in float32 and as bfloat16. A step is over when its last rank is
done.

    efficiency = images/s of N ranks ÷ (N · images/s of the first rank alone)

Beside them: when in a step of its own each bucket of gradients is ready (on a GPU each look at the clock waits for it,
so that such a step is a little slower), and how long sums of several sizes take by themselves. From these the model
predicts the summed steps. On the CPU it lets nothing overlap: a core that sums does not compute. The ranks of a machine
share its memory, so that what it starts from is a step of all ranks at once, each for itself.

The result overwrites scaling.json and scaling.md in --results, and --figure; what was measured on the other device, if
it is there, is kept.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, Python looks in bench/ only

from bench.measuring import WARM_UP_ROUNDS, require_installed, versions
from bench.scaling_model import (
    SHARE_OF_PEAK,
    SUMS,
    Step,
    assumed_images_per_second,
    assumed_step,
    bucket_bytes,
    bucket_names,
    fit,
    predictions,
    rank_counts,
)
from bench.scaling_report import as_markdown, draw
from bench.workload import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Workload, read_batch_sizes
from npconvnet.backend import Array, Device, module_of, resolve_device, resolve_precision, to_device
from npconvnet.cli import run
from npconvnet.cli.options import join_on
from npconvnet.errors import InputError
from npconvnet.layers import Gradients
from npconvnet.memory import keep_freed_memory
from npconvnet.models import MODELS
from npconvnet.outputs import require_outputs, write_bytes
from npconvnet.parallel import use_threads
from npconvnet.randomness import Chances, Purpose
from npconvnet.training.distributed.ranks import MPIRanks, Ranks
from npconvnet.training.distributed.reduction import Reduction, reduction_over
from npconvnet.training.distributed.wires import MPIWire, NCCLWire, Wire
from npconvnet.training.optimizer import SGD
from npconvnet.training.schedule import IMAGENET
from npconvnet.training.step import loss_and_gradients

ROOT = Path(__file__).resolve().parents[1]
#: The kinds of step beside those whose gradients are summed, which go by the name of the wire.
ALONE, EACH = "the first alone", "each for itself"
#: Bytes of the sums that are timed by themselves, up to those of all gradients.
SIZES = tuple(2**n for n in (10, 16, 20, 22, 24, 26, 27))


@dataclass(frozen=True, slots=True)
class Settings:
    """What each rank is asked to do."""

    model: str
    device: Device
    threads: int
    batch_sizes: tuple[int, ...]
    repetitions: int


# -- measuring: what runs in each rank ---------------------------------------------------------------------------------


class Clock(Reduction):
    """Sums nothing, and notes when the gradients are there."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now, self.ready, self.backward = now, dict[str, float](), 0.0

    def add(self, gradients: Gradients) -> None:
        """Notes the time."""
        self.ready |= dict.fromkeys(gradients, self._now())

    def finish(self, gradients: Gradients) -> Gradients:
        """Notes the time."""
        self.backward = self._now()
        return gradients


class Trainer:
    """A network of its own on each rank; `now` is when all that was begun is done."""

    def __init__(self, settings: Settings, ranks: Ranks) -> None:
        self._workload = partial(Workload, settings.model, True, device=settings.device, inference=False, threads=None)
        self._device, self._ranks = settings.device, ranks
        self.network = self._workload(batch_size=1).network().to(settings.device)
        precision, _ = resolve_precision("auto", settings.device)
        self._trained = self.network if precision == "float32" else self.network.fused(precision)
        self._optimizer = SGD(self.network, MOMENTUM, WEIGHT_DECAY)
        self._gradients: Gradients = {}

    def batch(self, size: int) -> tuple[Array, Array]:
        """Random images and labels."""
        images, labels = self._workload(batch_size=size).batch(self.network)
        return to_device(images, self._device), to_device(labels, self._device)

    def step(self, images: Array, labels: Array, reduction: Reduction) -> None:
        """As in train_imagenet.py."""
        count = len(labels) * self._ranks.size
        chances = Chances.of(np.arange(len(labels)), 2, Purpose.DROPOUT)
        _, gradients = loss_and_gradients(
            self._trained, images, labels, chances, into=self._gradients, of=count, ready=reduction.add
        )
        self._gradients = reduction.finish(gradients)
        self._optimizer.update(self._gradients, LEARNING_RATE, self._trained.copies)

    def timeline(self, images: Array, labels: Array) -> list[float]:
        """Seconds from the beginning of a step that sums nothing to each bucket, to the backward's end, to its own."""
        began = self.now()
        clock = Clock(lambda: self.now() - began)
        self.step(images, labels, clock)
        buckets = (max(clock.ready[name] for name in bucket) for bucket in bucket_names(self.network))
        return [*buckets, clock.backward, self.now() - began]

    def now(self) -> float:
        """Seconds on a clock."""
        if self._device == "gpu":
            module_of("gpu").cuda.get_current_stream().synchronize()
        return time.perf_counter()


def measure_in(ranks: Ranks, settings: Settings) -> dict[str, Any]:
    """What this many ranks take; of use on the first."""
    use_threads(settings.threads)
    trainer = Trainer(settings, ranks)
    reductions = {ALONE: Reduction()}
    if ranks.size > 1:
        reductions |= {EACH: Reduction()}
        reductions |= {wire: reduction_over(ranks, trainer.network, settings.device, wire) for wire in SUMS}
    return {
        "ranks": ranks.size,
        "batches": [_steps(trainer, ranks, size, reductions, settings.repetitions) for size in settings.batch_sizes],
        "sums": _sums(trainer, ranks, settings) if isinstance(ranks, MPIRanks) else {},
    }


def _steps(
    trainer: Trainer, ranks: Ranks, size: int, reductions: Mapping[str, Reduction], repetitions: int
) -> dict[str, Any]:
    images, labels = trainer.batch(size)
    seconds: dict[str, list[float]] = {kind: [] for kind in reductions}
    timelines: list[list[float]] = []
    for _ in _rounds(ranks, repetitions, f"{ranks.size} ranks, batch size {size}"):
        for kind, reduction in reductions.items():
            takes_part = ranks.is_first or kind != ALONE
            step = partial(trainer.step, images, labels, reduction) if takes_part else lambda: None
            seconds[kind].append(_seconds_of_the_last(ranks, trainer, step))
        ranks.gather(None)
        everyone = ranks.gather(trainer.timeline(images, labels))
        timelines.append([max(times) for times in zip(*everyone, strict=True)])
    *ready, backward, end = (statistics.median(times) for times in zip(*timelines[WARM_UP_ROUNDS:], strict=True))
    return {
        "seconds": {kind: statistics.median(times[WARM_UP_ROUNDS:]) for kind, times in seconds.items()},
        "step": asdict(Step(size, bucket_bytes(trainer.network), tuple(ready), backward, end - backward)),
    }


def _sums(trainer: Trainer, ranks: MPIRanks, settings: Settings) -> dict[str, list[tuple[int, float]]]:
    """(Bytes, seconds) by wire."""
    largest = sum(bucket_bytes(trainer.network))
    found: dict[str, list[tuple[int, float]]] = {}
    for form in SUMS:
        wire = (NCCLWire if settings.device == "gpu" else MPIWire)(ranks, form)
        found[form] = []
        for size in (size for size in SIZES if size <= largest):
            add_up = partial(_add_up, wire, module_of(settings.device).zeros(size // 4, np.float32))
            rounds = _rounds(ranks, settings.repetitions, f"{ranks.size} ranks, {size} bytes in {form}")
            times = [_seconds_of_the_last(ranks, trainer, add_up) for _ in rounds]
            found[form].append((size, statistics.median(times[WARM_UP_ROUNDS:])))
    return found


def _add_up(wire: Wire, x: Array) -> None:
    wire.begin_sum(x)()


def _seconds_of_the_last(ranks: Ranks, trainer: Trainer, action: Callable[[], None]) -> float:
    """From when all ranks begin."""
    ranks.gather(None)
    began = trainer.now()
    action()
    return max(ranks.gather(trainer.now() - began))


def _rounds(ranks: Ranks, repetitions: int, label: str) -> Any:
    return tqdm(range(WARM_UP_ROUNDS + repetitions), label, unit="round", leave=False, disable=not ranks.is_first)


# -- measuring: what starts the ranks ----------------------------------------------------------------------------------


def measured(settings: Settings, most: int) -> dict[str, Any]:
    """The measurements with up to `most` ranks. One alone is a part of each that has more."""
    counts = [count for count in rank_counts(most) if count > 1] or [1]
    packages = ["mpi4py"] if most > 1 else []
    return {
        **asdict(settings),
        "versions": {**versions(*packages), "threads": settings.threads, **_gpu(settings.device)},
        "runs": [_in_ranks(settings, count) for count in counts],
    }


def _gpu(device: Device) -> dict[str, str]:
    if device == "cpu":
        return {}
    cupy, (precision, _) = module_of(device), resolve_precision("auto", device)
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    return {"cupy": cupy.__version__, "gpu": name, "precision": precision}


def _in_ranks(settings: Settings, count: int) -> dict[str, Any]:
    launcher = [_mpiexec(), "-n", str(count)] if count > 1 else []
    command = [*launcher, sys.executable, str(Path(__file__).resolve()), "--as-rank", json.dumps(asdict(settings))]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # progress and errors are shown
    if ended.returncode:
        raise InputError(f"the measurement with {count} ranks ended with exit status {ended.returncode}; see above")
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def _mpiexec() -> str:
    how = "run: pip install 'npconvnet[mpi]', or measure one: --ranks 1"
    require_installed("--ranks", "mpi4py", how.removeprefix("run: "))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    launcher = shutil.which("mpiexec", path=path)
    if launcher is None:
        raise InputError(f"--ranks: there is no mpiexec; {how}")
    return launcher


def most_ranks(asked: int | None, device: Device, threads: int) -> int:
    """As many ranks as are `asked` for, or the default. Raises InputError where there is no room for them."""
    if device == "gpu":
        room: int = module_of("gpu").cuda.runtime.getDeviceCount()
        places, most = f"GPUs on this machine: {room}", asked or room
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        room = max(1, cores // threads)
        places, most = f"cores on this machine: {cores}, threads of a rank: {threads}", asked or min(2, room)
    if most > room:
        raise InputError(f"--ranks {most}: {places}; ask for {room} at most, or what is measured is how they wait")
    return most


# -- what follows from it ----------------------------------------------------------------------------------------------


def comparisons(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was measured on one device, a row for each kind of step, beside what the model says of it."""
    rows = []
    for result in found["runs"]:
        lines = {wire: fit(times) for wire, times in result["sums"].items()}
        for batch in result["batches"]:
            step = Step(**batch["step"])
            alone = step.batch / batch["seconds"][ALONE]
            for kind, seconds in batch["seconds"].items():
                ranks = 1 if kind == ALONE else result["ranks"]
                speed = ranks * step.batch / seconds
                row = {"batch_size": step.batch, "ranks": ranks, "kind": kind, "images_per_second": speed}
                row |= {"efficiency": speed / (ranks * alone), "predicted": None, "error": None}
                if kind in lines:
                    sums = [lines[kind].seconds(size) for size in step.buckets]
                    said = step.images_per_second(ranks, step.exposed(sums, overlap=found["device"] == "gpu"))
                    row |= {"predicted": said, "error": said / speed - 1}
                rows.append(row)
    return rows


def one_gpu(devices: Mapping[str, Any], given: Step | None) -> tuple[Step, str]:
    """A step of the paper's network on one GPU, and how it is known: as `given`, measured, or assumed."""
    network = MODELS["paper"]()
    if given is not None:
        return given, f"given as {given.images_per_second():,.0f} images/s"
    if "gpu" in devices and devices["gpu"]["model"] == network.model:
        step = Step(**devices["gpu"]["runs"][0]["batches"][-1]["step"])
        return step, f"measured, {step.images_per_second():,.0f} images/s"
    speed = assumed_images_per_second(network)
    share = f"{SHARE_OF_PEAK:.0%} of the peak of an H100"
    source = f"ASSUMED, not measured: {speed:,.0f} images/s, {share}"
    return assumed_step(network, speed, IMAGENET.batch_size), source


def conclude(devices: Mapping[str, Any], given: Step | None = None) -> dict[str, Any]:
    """The report on what was measured on the `devices`, by their names."""
    step, source = one_gpu(devices, given)
    return {
        "measured": devices,
        "compared": {device: comparisons(found) for device, found in devices.items()},
        "one_gpu": {"source": source, "step": asdict(step)},
        "predicted": predictions(step),
    }


# -- the command -------------------------------------------------------------------------------------------------------


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--device", type=click.Choice(["cpu", "gpu"]), default="cpu", help="Where to measure.")
@click.option("--ranks", type=click.IntRange(1), help="At most so many.  [default: 2 on the CPU, all GPUs]")
@click.option("--threads", type=click.IntRange(1, 1024), default=1, help="Cores of a rank.")
@click.option("--batch-size", "batch_sizes", default="32,64", callback=read_batch_sizes, help="Of a rank; or several.")
@click.option("--model", type=click.Choice(list(MODELS)), default="paper", help="What to measure.")
@click.option("--repetitions", type=click.IntRange(1), default=5, help="Timed rounds.")
@click.option("--measure/--no-measure", default=True, help="Or go by the measurements in --results.")
@click.option(
    "--images-per-second",
    type=click.FloatRange(0, min_open=True),
    help=f"Of one GPU, batches of {IMAGENET.batch_size}.  [default: as measured, if it was; else assumed]",
)
@click.option(
    "--results", type=click.Path(path_type=Path), default=ROOT / "bench" / "results", help="For scaling.json and .md."
)
@click.option(
    "--figure", type=click.Path(path_type=Path), default=ROOT / "docs" / "images" / "scaling.png", help="Its plot."
)
@click.option("--as-rank", hidden=True, help="What a rank is to measure, as JSON.")
def main(
    device: Device,
    ranks: int | None,
    threads: int,
    batch_sizes: list[int],
    model: str,
    repetitions: int,
    measure: bool,
    images_per_second: float | None,
    results: Path,
    figure: Path,
    as_rank: str | None,
) -> None:
    """Time training steps on several ranks, and predict how they scale."""
    if as_rank is not None:
        work_as_rank(Settings(**json.loads(as_rank)))
        return
    given = None
    if images_per_second is not None:
        given = assumed_step(MODELS["paper"](), images_per_second, IMAGENET.batch_size)
    record = results / "scaling.json"
    require_outputs([record, results / "scaling.md", figure], [])
    devices = kept(record)
    if measure:
        settings = Settings(model, resolve_device(device), threads, tuple(batch_sizes), repetitions)
        devices[device] = measured(settings, most_ranks(ranks, device, threads))
    elif not devices:
        raise InputError(f"--no-measure: {record} holds no measurements; leave it out to make some")
    report = conclude(devices, given)
    text = as_markdown(report)
    write_bytes(record, (json.dumps(report, indent=2) + "\n").encode())
    write_bytes(results / "scaling.md", text.encode())
    draw(figure, report)
    click.echo(text)


def work_as_rank(settings: Settings) -> None:
    """Measures, as one of the ranks that were started together; the first prints what came of it as JSON."""
    keep_freed_memory()  # as train_imagenet.py does
    ranks = join_on(settings.device)
    found = measure_in(ranks, settings)
    if ranks.is_first:
        click.echo(json.dumps(found))


def kept(record: Path) -> dict[str, Any]:
    """What an earlier run measured, by device. Raises InputError where the file is something else."""
    try:
        devices: dict[str, Any] = json.loads(record.read_text())["measured"]
        as_markdown(conclude(devices))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{record}: cannot be read as measurements ({error}); remove it to begin anew") from error
    return devices


if __name__ == "__main__":
    run(main)
