"""What bench/train_step.py runs on a GPU: npconvnet's captured step, and the best that PyTorch can do.

npconvnet, in each precision that is asked for, augments uint8 pictures on the GPU, and does all else that
train_imagenet.py does with a batch that is there; the whole step is one CUDA graph (in float32 there is none). PyTorch
is given float32 images that are augmented already. Its peers are, in bfloat16 (autocast) and in TF32, both in
channels_last and with the fused SGD:

    eager              launch by launch
    compiled           forward, loss and backward by torch.compile
    graphed            eager, the whole step captured once by torch.cuda.graph, its learning rate with it
    compiled, graphed  compiled, captured in the same way; most likely PyTorch's best

Without PyTorch, on a GPU that has wgmma, npconvnet in bfloat16 has a second competitor: itself, with every product by
wgmma for which there is a kernel. PyTorch's would fail with it, as a fault on the GPU ends all work of a process there.

A turn of one is followed by a turn of the next. None waits for its losses. A competitor that fails, out of memory or
for any other reason, is named with the reason, and the others go on.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import count, cycle
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from bench.floors import scores_flop, step_flop
from bench.gpu import (
    WARM_UP,
    free_bytes,
    give_back_memory,
    gpu_versions,
    matrix_rate,
    reason,
    seconds_of_turn,
    use_tf32,
)
from bench.measuring import NPCONVNET, WARM_UP_ROUNDS, as_line
from bench.workload import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Workload
from npconvnet import kernels
from npconvnet.backend import Precision, module_of, to_device
from npconvnet.data.augment import Augmentation, ColourStatistics
from npconvnet.kernels import Views
from npconvnet.kernels.cuda.conv2d_tensor_core import using_wgmma
from npconvnet.kernels.cuda.conv2d_wgmma import runs_on
from npconvnet.layers import Gradients
from npconvnet.network import Network
from npconvnet.randomness import Chances, Purpose
from npconvnet.training.captured_step import CapturedStep
from npconvnet.training.optimizer import SGD
from npconvnet.training.schedule import BIAS_RATE
from npconvnet.training.step import loss_and_gradients

#: Where PyTorch computes.
DEVICE = "cuda"
TORCH = "torch"
#: What the table calls npconvnet in bfloat16, as it trains, and with every product by wgmma.
BFLOAT16 = f"{NPCONVNET} bfloat16"
WGMMA = f"{BFLOAT16} wgmma"
TORCH_PRECISIONS: tuple[Precision, ...] = ("bfloat16", "tf32")
#: What PyTorch makes of a step; see above.
WAYS = ("eager", "compiled", "graphed", "compiled, graphed")
#: How far the loss of a competitor may lie from the others', relatively, before the first update.
TOLERANCE = {"float32": 1e-3, "tf32": 1e-3, "bfloat16": 1e-2}
#: Steps of a turn: they follow each other without a pause.
STEPS = 10
#: Views that were drawn beforehand, as a loader does while the GPU computes.
VIEWS = 4


@dataclass(frozen=True, slots=True)
class GPUCompetitor:
    """`loss()` of the float32 images with dropout off; `step()`, what is timed.

    A step returns its loss, or the class scores, on the GPU, and need not have ended by then.
    """

    precision: Precision
    loss: Callable[[], float]
    step: Callable[[], Any]


# -- npconvnet -------------------------------------------------------------------------------------------------------


def npconvnet_competitor(workload: Workload, precision: Precision) -> GPUCompetitor:
    """npconvnet, by the steps of train_imagenet.py."""
    network = workload.network()
    images, labels = workload.batch(network)
    squares, colours = _pictures(network, len(labels))
    network.preprocessing = colours.normalising(network.preprocessing)
    network.to("gpu")
    trained = network.fused(precision)
    on_gpu, labels_on_gpu = to_device(images, "gpu"), to_device(labels, "gpu")

    def loss() -> float:
        return float(kernels.softmax_cross_entropy(trained.scores(on_gpu), labels_on_gpu, len(labels_on_gpu))[0])

    if workload.inference:
        return GPUCompetitor(precision, loss, lambda: trained.scores(on_gpu))
    optimizer = SGD(network, MOMENTUM, WEIGHT_DECAY)
    numbers, positions = np.arange(len(labels)), count()
    on_gpu_squares, views = to_device(squares, "gpu"), cycle(_views(network, colours, numbers))
    captured = None if precision == "float32" else CapturedStep(trained, optimizer, len(labels))
    gradients: Gradients = {}

    def step() -> Any:
        nonlocal gradients
        view, chances = next(views), Chances.of(numbers, 2, Purpose.DROPOUT, next(positions))
        if captured is not None:
            return captured(on_gpu_squares, view, labels, chances, LEARNING_RATE)
        x = network.preprocessing.apply(on_gpu_squares, view)
        found, gradients = loss_and_gradients(trained, x, labels_on_gpu, chances, into=gradients)
        optimizer.update(gradients, LEARNING_RATE)
        return found

    return GPUCompetitor(precision, loss, step)


def wgmma_competitor(workload: Workload) -> GPUCompetitor:
    """npconvnet in bfloat16 with every product by wgmma that can be; what it captures remains so."""
    made = npconvnet_competitor(workload, "bfloat16")
    return GPUCompetitor("bfloat16", using_wgmma()(made.loss), using_wgmma()(made.step))


def _pictures(network: Network, count: int) -> tuple[npt.NDArray[np.uint8], ColourStatistics]:
    """Random squares as they come from a shard, and the statistics of their colours."""
    resize = network.preprocessing.resize
    squares = np.random.default_rng(3).integers(0, 256, (count, resize, resize, 3), np.uint8)
    return squares, ColourStatistics.of(squares[:16])


def _views(network: Network, colours: ColourStatistics, numbers: npt.NDArray[np.int64]) -> list[Views]:
    draw = Augmentation().draw
    return [draw(4, epoch, numbers, network.preprocessing, colours.components) for epoch in range(VIEWS)]


# -- PyTorch ---------------------------------------------------------------------------------------------------------


def torch_competitor(workload: Workload, precision: Precision, way: str, mode: str) -> GPUCompetitor:
    """PyTorch with the same parameters and the same recipe; `mode` is that of torch.compile."""
    import torch

    from bench.torch_peer import TorchPeer

    torch.manual_seed(2)
    place = {"device": DEVICE, "memory_format": torch.channels_last}
    network = workload.network()
    peer = TorchPeer(network).to(**place).train(not workload.inference)
    images, labels = (torch.from_numpy(array) for array in workload.batch(network))
    images, labels = images.permute(0, 3, 1, 2).contiguous().to(**place), labels.to(DEVICE)

    def scores() -> Any:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bfloat16"):
            return peer(images)

    def mean_loss() -> Any:
        return torch.nn.functional.cross_entropy(scores().float(), labels)

    def loss() -> float:
        peer.eval()
        with torch.inference_mode():
            found = float(mean_loss())
        peer.train(not workload.inference)
        return found

    forward = scores if workload.inference else mean_loss
    if "compiled" in way:
        forward = torch.compile(forward, mode=mode, dynamic=False)
    optimizer = torch_sgd(torch, peer)

    def step() -> Any:
        if workload.inference:
            with torch.inference_mode():
                return forward()
        optimizer.zero_grad(set_to_none=True)
        found = forward()
        found.backward()
        optimizer.step()
        return found.detach()

    return GPUCompetitor(precision, loss, _graphed(torch, step) if "graphed" in way else step)


def torch_sgd(torch: Any, peer: Any, rate: float = LEARNING_RATE) -> Any:
    """PyTorch's fused SGD by the recipe of npconvnet/training/optimizer.py."""
    weights, biases = ([p for p in peer.parameters() if (p.ndim == 1) is bias] for bias in (False, True))
    groups = [{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": biases, "lr": BIAS_RATE * rate}]
    return torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM, fused=True)


def _graphed(torch: Any, step: Callable[[], Any]) -> Callable[[], Any]:
    """`step`, captured once and replayed; captured by the recipe in PyTorch's documentation of torch.cuda.graph."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()

    def replay() -> Any:
        graph.replay()
        return result

    return replay


# -- measuring -------------------------------------------------------------------------------------------------------


def results(
    workloads: Iterable[Workload], precisions: Sequence[Precision], against_torch: bool, mode: str, repetitions: int
) -> dict[str, Any]:
    """What came of each workload, as parts of the report."""
    torch = import_module("torch") if against_torch else None
    rates: dict[str, float] = {
        precision: matrix_rate(torch, precision)
        for precision in (dict.fromkeys([*TORCH_PRECISIONS, *precisions]) if torch is not None else ())
    }
    return {
        "compile_mode": mode,
        "matrix_rates": rates,
        "versions_of_gpu": gpu_versions(),
        "results": [
            measure(workload, competitors(workload, precisions, against_torch, mode), torch, rates, repetitions)
            for workload in workloads
        ],
    }


def competitors(
    workload: Workload, precisions: Sequence[Precision], against_torch: bool, mode: str
) -> dict[str, Callable[[], GPUCompetitor]]:
    """What makes each of them, by the name that the table gives it."""
    makers: dict[str, Callable[[], GPUCompetitor]] = {
        f"{NPCONVNET} {own}": partial(npconvnet_competitor, workload, own) for own in precisions
    }
    if against_torch:
        makers |= {
            f"{TORCH} {precision} {way}": partial(torch_competitor, workload, precision, way, mode)
            for way in WAYS
            for precision in TORCH_PRECISIONS
        }
    elif "bfloat16" in precisions and runs_on(module_of("gpu")):
        makers[WGMMA] = partial(wgmma_competitor, workload)
    return makers


def measure(
    workload: Workload,
    makers: Mapping[str, Callable[[], GPUCompetitor]],
    torch: Any | None,
    rates: Mapping[str, float],
    repetitions: int,
) -> dict[str, Any]:
    """What came of them, as one result of the report; `rates` are what the GPU reaches, FLOP/s by precision."""
    if torch is not None:
        torch._dynamo.reset()  # or it would give up compiling, after a few batch sizes
        use_tf32(torch, on=True)
    found: dict[str, dict[str, Any]] = {}
    runners: dict[str, GPUCompetitor] = {}
    with tqdm(makers.items(), f"batch size {workload.batch_size}: making", leave=False) as bar:
        for name, make in bar:
            try:
                runners[name], found[name] = _made(make, torch)
            except Exception as error:
                found[name] = {"failed": reason(error)}
    _refuse_others(runners, found)
    _time_in_turns(runners, found, workload, repetitions, rates)
    return {"batch_size": workload.batch_size, "competitors": found, "ratios": ratios(found)}


def _made(make: Callable[[], GPUCompetitor], torch: Any) -> tuple[GPUCompetitor, dict[str, Any]]:
    """A competitor that has made its first steps, its loss before them, and the memory that it takes."""
    give_back_memory(torch)
    before = free_bytes()
    runner = make()
    loss = runner.loss()
    for _ in range(WARM_UP):
        last = runner.step()
    if not math.isfinite(float(last.max())):
        raise ArithmeticError("what it computes is not finite after three steps")
    give_back_memory(torch)
    runner.step()  # in no more memory than it takes
    return runner, {"loss": loss, "peak_memory_bytes": before - free_bytes()}


def _refuse_others(runners: dict[str, GPUCompetitor], found: dict[str, dict[str, Any]]) -> None:
    """Leaves out those whose loss before the first update differs: they do not compute the same."""
    usual = statistics.median([found[name]["loss"] for name in runners] or [math.nan])
    for name, runner in list(runners.items()):
        loss = found[name]["loss"]
        if not abs(loss - usual) <= TOLERANCE[runner.precision] * abs(usual):
            found[name] = {"failed": f"failed: its loss before the first update is {loss:.4f}, and others' {usual:.4f}"}
            del runners[name]


def _time_in_turns(
    runners: dict[str, GPUCompetitor],
    found: dict[str, dict[str, Any]],
    workload: Workload,
    repetitions: int,
    rates: Mapping[str, float],
) -> None:
    """Adds to each of `found` what its turns took; each of `runners` has one, and again."""
    network = workload.network()
    flop = workload.batch_size * (scores_flop if workload.inference else step_flop)(network)
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in tqdm(range(WARM_UP_ROUNDS + repetitions), f"batch size {workload.batch_size}", unit="round", leave=False):
        for name, runner in list(runners.items()):
            try:
                seconds[name].append(seconds_of_turn(runner.step, STEPS))
            except Exception as error:
                found[name] = {"failed": reason(error)}
                del runners[name]
    for name, runner in runners.items():
        median, rate = statistics.median(seconds[name][WARM_UP_ROUNDS:]), rates.get(runner.precision)
        found[name] |= {
            "milliseconds_per_batch": 1000 * median,
            "images_per_second": workload.batch_size / median,
            "share_of_peak": rate and flop / median / rate,
        }


def ratios(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """images/s of each of npconvnet ÷ those of PyTorch's best, as far as neither failed."""
    speeds = {name: result["images_per_second"] for name, result in found.items() if "images_per_second" in result}
    theirs = {name: speed for name, speed in speeds.items() if name.startswith(TORCH)}
    return {
        name: {
            which: speed / max(peers)
            for which, peers in (
                ("same precision", [theirs[peer] for peer in theirs if peer.split()[1] == name.split()[1]]),
                ("any precision", list(theirs.values())),
            )
            if peers
        }
        for name, speed in speeds.items()
        if name.startswith(NPCONVNET)
    }


# -- reporting -------------------------------------------------------------------------------------------------------


def as_text(report: dict[str, Any]) -> str:
    """The report as aligned tables."""
    lrn = "" if report["lrn"] else " without LRN"
    step = "class scores" if report["inference"] else "training step"
    versions = report["versions"] | report["versions_of_gpu"]
    return "\n".join(
        [
            f"{step} of {report['model']}{lrn} on the gpu, medians of {report['repetitions']} turns of {STEPS} steps",
            as_line(versions),
            *(_about_peers(report) if report["matrix_rates"] else ()),
            "",
            f"{'batch':>5}  {'':<36}  {'ms/batch':>9}  {'images/s':>9}  {'of peak':>7}  {'peak MiB':>9}",
            *(line for result in report["results"] for line in _lines(result)),
        ]
    )


def _about_peers(report: Mapping[str, Any]) -> Iterator[str]:
    rates = (f"{name} {rate / 1e12:.0f} TFLOP/s" for name, rate in report["matrix_rates"].items())
    yield f"torch.compile in mode {report['compile_mode']}; rates measured by large products: {', '.join(rates)}"
    yield (
        "npconvnet's step begins with uint8 pictures and augments them, PyTorch's with float32 ones; "
        "PyTorch's graphed steps keep one learning rate for ever"
    )


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    batch_size = result["batch_size"]
    for name, found in result["competitors"].items():
        begin = f"{batch_size:>5}  {name:<36}"
        if "failed" in found:
            yield f"{begin}  {found['failed']}"
            continue
        share = found["share_of_peak"]
        yield (
            f"{begin}  {found['milliseconds_per_batch']:>9.2f}  {found['images_per_second']:>9.0f}  "
            f"{'' if share is None else f'{share:.1%}':>7}  {found['peak_memory_bytes'] / 2**20:>9.0f}"
        )
    for name, of in result["ratios"].items():
        for which, ratio in of.items():
            yield f"{batch_size:>5}  {f'{name} ÷ best of {which}':<47}  {ratio:>9.2f}"
    speeds = [result["competitors"].get(name, {}).get("images_per_second") for name in (WGMMA, BFLOAT16)]
    if all(speeds):
        yield f"{batch_size:>5}  {f'{WGMMA} ÷ {BFLOAT16}':<47}  {speeds[0] / speeds[1]:>9.2f}"
