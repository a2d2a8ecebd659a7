"""The benchmark of training steps on a GPU: what it makes of its competitors, and those that can run without one."""

import itertools
import json

import numpy as np
import pytest
from click.testing import CliRunner

from bench import train_step, train_step_on_gpu
from bench.floors import step_flop
from bench.train_step_on_gpu import (
    GPUCompetitor,
    competitors,
    npconvnet_competitor,
    torch_competitor,
    wgmma_competitor,
)
from bench.workload import Workload
from npconvnet.kernels.cuda.conv2d_tensor_core import BY_WGMMA
from npconvnet.kernels.cuda.conv2d_wgmma import PROBLEMS


def tiny(*, inference=False, batch_size=2):
    return Workload("tiny", True, batch_size, "gpu", inference, None)


@pytest.fixture
def clock(monkeypatch):
    """No GPU: a turn takes as many seconds per step as the step says, and every competitor a mebibyte."""
    free = itertools.count(2**40, -(2**20))
    monkeypatch.setattr(train_step_on_gpu, "give_back_memory", lambda torch: None)
    monkeypatch.setattr(train_step_on_gpu, "free_bytes", lambda: next(free))
    monkeypatch.setattr(train_step_on_gpu, "seconds_of_turn", lambda step, steps: float(step()))


def competitor(seconds, precision="bfloat16", loss=2.3, fails_at=None):
    calls = itertools.count()

    def step():
        if next(calls) == fails_at:
            raise MemoryError("out of memory\nallocated: everything")
        return np.float32(seconds)

    return lambda: GPUCompetitor(precision, lambda: loss, step)


def measured(**makers):
    makers = {name.replace("_", " "): make for name, make in makers.items()}
    return train_step_on_gpu.measure(tiny(), makers, None, {"bfloat16": 1e12}, 3)


def test_ratios_to_the_best(clock):
    found = measured(
        npconvnet_bfloat16=competitor(0.25),
        npconvnet_tf32=competitor(1.0, "tf32"),
        torch_bfloat16_eager=competitor(1.0),
        torch_bfloat16_graphed=competitor(0.5),
        torch_tf32_eager=competitor(2.0, "tf32"),
    )
    assert found["ratios"] == {
        "npconvnet bfloat16": {"same precision": 2, "any precision": 2},
        "npconvnet tf32": {"same precision": 2, "any precision": 0.5},
    }
    ours = found["competitors"]["npconvnet bfloat16"]
    assert ours["images_per_second"] == 8
    assert ours["milliseconds_per_batch"] == 250
    assert ours["peak_memory_bytes"] == 2**20
    flop = step_flop(tiny().network())
    assert ours["share_of_peak"] == pytest.approx(2 * flop / 0.25 / 1e12)
    assert found["competitors"]["npconvnet tf32"]["share_of_peak"] is None


def test_those_that_fail_are_named_and_the_others_go_on(clock):
    def missing():
        raise RuntimeError("no compiler\nlook here")

    found = measured(
        npconvnet_bfloat16=competitor(0.5),
        torch_bfloat16_eager=competitor(1.0),
        torch_bfloat16_compiled=missing,
        torch_bfloat16_graphed=competitor(0.1, fails_at=5),
        torch_tf32_eager=competitor(0.1, "tf32", loss=2.5),
        torch_tf32_graphed=competitor(np.nan, "tf32"),
    )
    failed = {name: result["failed"] for name, result in found["competitors"].items() if "failed" in result}
    assert failed == {
        "torch bfloat16 compiled": "failed: no compiler",
        "torch bfloat16 graphed": "failed: out of memory",
        "torch tf32 eager": "failed: its loss before the first update is 2.5000, and others' 2.3000",
        "torch tf32 graphed": "failed: what it computes is not finite after three steps",
    }
    assert found["ratios"] == {"npconvnet bfloat16": {"same precision": 2, "any precision": 2}}


def test_where_npconvnet_fails_there_is_no_ratio(clock):
    found = measured(npconvnet_bfloat16=competitor(1, fails_at=0), torch_bfloat16_eager=competitor(1.0))
    assert found["ratios"] == {}
    assert found["competitors"]["torch bfloat16 eager"]["images_per_second"] == 2


def test_all_peers_in_both_precisions(cupy):
    """And none of them beside wgmma, though the GPU has it."""
    names = list(competitors(tiny(), ["bfloat16", "tf32"], True, "default"))
    assert names[:2] == ["npconvnet bfloat16", "npconvnet tf32"]
    assert len(names) == 2 + 4 * 2
    assert all(name.startswith("torch") for name in names[2:])


@pytest.mark.parametrize(
    ("has_wgmma", "precisions", "by_wgmma"),
    [
        (True, ["bfloat16", "tf32"], ["npconvnet bfloat16 wgmma"]),
        (True, ["tf32"], []),
        (False, ["bfloat16"], []),
    ],
)
def test_bfloat16_by_wgmma_too(has_wgmma, precisions, by_wgmma, cupy, monkeypatch):
    monkeypatch.setattr(train_step_on_gpu, "runs_on", lambda xp: has_wgmma)
    names = list(competitors(tiny(), precisions, False, "default"))
    assert names == [*(f"npconvnet {precision}" for precision in precisions), *by_wgmma]


def test_how_much_faster_wgmma_is(clock):
    found = measured(npconvnet_bfloat16=competitor(1.0), npconvnet_bfloat16_wgmma=competitor(0.5))
    *_, last = train_step_on_gpu._lines(found)
    assert last.split() == ["2", "npconvnet", "bfloat16", "wgmma", "÷", "npconvnet", "bfloat16", "2.00"]


def test_every_product_of_its_steps_is_by_wgmma(monkeypatch):
    seen = []

    def product():
        seen.append(set(BY_WGMMA))
        return 2.3

    monkeypatch.setattr(
        train_step_on_gpu, "npconvnet_competitor", lambda *_: GPUCompetitor("bfloat16", product, product)
    )
    runner = wgmma_competitor(tiny())
    for function in (runner.loss, runner.step, runner.step):
        function()
    assert seen == [set(PROBLEMS)] * 3


def test_the_report(cupy, clock, monkeypatch):
    """From the command to the table."""
    monkeypatch.setattr(train_step, "resolve_device", lambda device: device)
    monkeypatch.setattr(train_step, "resolve_precision", lambda precision, device: (precision, None))
    monkeypatch.setattr(train_step_on_gpu, "gpu_versions", lambda: {"gpu": "stand-in"})
    monkeypatch.setattr(train_step_on_gpu, "npconvnet_competitor", lambda workload, precision: competitor(0.5)())
    arguments = ["--device", "gpu", "--model", "tiny", "--batch-size", "2,3", "--precision", "bfloat16,tf32"]
    arguments += ["--repetitions", "1", "--json"]
    result = CliRunner().invoke(train_step.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert [found["batch_size"] for found in report["results"]] == [2, 3]
    for found in report["results"]:
        assert [*found["competitors"]] == ["npconvnet bfloat16", "npconvnet tf32", "npconvnet bfloat16 wgmma"]
    title, versions, blank, head, first, *_ = train_step_on_gpu.as_text(report).splitlines()
    assert title == "training step of tiny on the gpu, medians of 1 turns of 10 steps"
    assert "gpu stand-in" in versions
    assert blank == ""
    assert len(head) == len(first)


def test_the_report_says_how_the_peers_ran(cupy, clock, monkeypatch):
    monkeypatch.setattr(train_step_on_gpu, "gpu_versions", lambda: {"gpu": "stand-in"})
    found = train_step_on_gpu.results([], ["bfloat16"], False, "default", 1) | {"matrix_rates": {"bfloat16": 8e14}}
    about = {"model": "tiny", "lrn": True, "inference": False, "repetitions": 1, "versions": {}}
    _, _, first, second, blank, _ = train_step_on_gpu.as_text(about | found).splitlines()
    assert first == "torch.compile in mode default; rates measured by large products: bfloat16 800 TFLOP/s"
    assert second.startswith("npconvnet's step begins with uint8 pictures")
    assert blank == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "bfloat16"], "--precision bfloat16 is for a GPU"),
        (["--precision", "int8"], "--precision int8: 'int8' is none of auto, float32, tf32, bfloat16"),
    ],
)
def test_precisions_that_there_are_not(arguments, message):
    result = CliRunner().invoke(train_step.main, ["--device", "cpu", *arguments])
    assert message in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "precisions"),
    [
        (["--against", "torch"], ["bfloat16", "tf32"]),
        (["--against", "torch", "--precision", "tf32"], ["tf32"]),
        ([], ["auto"]),
    ],
)
def test_both_precisions_beside_pytorchs(arguments, precisions, torch, monkeypatch):
    asked = []

    def results(workloads, own, *_):
        asked.extend(own)
        return {"results": []}

    monkeypatch.setattr(train_step, "resolve_device", lambda device: device)
    monkeypatch.setattr(train_step, "resolve_precision", lambda precision, device: (precision, None))
    monkeypatch.setattr(train_step, "require_cuda", lambda option: None)
    monkeypatch.setattr(train_step_on_gpu, "results", results)
    command = ["--device", "gpu", "--model", "tiny", *arguments, "--json"]
    CliRunner().invoke(train_step.main, command, catch_exceptions=False)
    assert asked == precisions


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@pytest.mark.parametrize("inference", [False, True])
def test_pytorch_eager(torch, monkeypatch, precision, inference):
    monkeypatch.setattr(train_step_on_gpu, "DEVICE", "cpu")
    runner = torch_competitor(tiny(inference=inference), precision, "eager", "default")
    before = runner.loss()
    result = runner.step()
    assert result.shape == ((2, 10) if inference else ())
    assert np.isfinite(float(result.max()))
    assert (runner.loss() == before) is inference  # something is learnt


def test_what_is_compiled(torch, monkeypatch):
    """The loss, as one graph without a break, in both precisions; compiled for nothing here."""
    modes, whole = [], torch.compile

    def compile(function, mode, dynamic):
        modes.append((mode, dynamic))
        return whole(function, backend="eager", fullgraph=True, dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(train_step_on_gpu, "DEVICE", "cpu")
    for precision in ("tf32", "bfloat16"):
        runner = torch_competitor(tiny(), precision, "compiled", "default")
        before = runner.loss()
        assert float(runner.step()) == pytest.approx(before, rel=0.2)  # but for dropout
    assert modes == [("default", False)] * 2


def test_what_npconvnets_step_is_given(cupy, monkeypatch):
    """Stored pictures on the GPU, with other chances in every step; and the network fused."""
    made, given = [], []

    def captured_step(network, optimizer, batch_size):
        made.append((network.precision, optimizer.weight_decay, batch_size))
        return lambda *batch: given.append(batch)

    monkeypatch.setattr(train_step_on_gpu, "CapturedStep", captured_step)
    runner = npconvnet_competitor(tiny(), "bfloat16")
    for _ in range(2):
        runner.step()
    assert made == [("bfloat16", 5e-4, 2)]
    (squares, views, labels, chances, rate), (_, other_views, _, others, _) = given
    assert isinstance(squares, cupy.ndarray)
    assert (squares.shape, squares.dtype, rate) == ((2, 73, 73, 3), np.uint8, 1e-3)
    assert labels.shape == views.top.shape == chances.items.shape == (2,)
    assert not np.array_equal(views.colour, other_views.colour)
    assert not np.array_equal(chances.key, others.key)
