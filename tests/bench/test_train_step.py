"""The benchmark of the whole training step, on the smallest network."""

import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from click.testing import CliRunner

from bench import measuring, train_step
from bench.workload import Workload
from npconvnet.cli import run
from npconvnet.parallel import threads

QUICK = ["--model", "tiny", "--repetitions", "1"]
TORCH = {"torch contiguous", "torch channels_last"}


def report(*arguments):
    result = CliRunner().invoke(train_step.main, [*QUICK, *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.stdout)


def tiny(batch_size=2, *, inference=False, threads=None):
    return Workload("tiny", True, batch_size, "cpu", inference, threads)


@pytest.fixture(scope="module")
def beside_torch():
    pytest.importorskip("torch")
    return report("--batch-size", "3", "--against", "torch")


def test_json_beside_pytorch(beside_torch, torch):
    found = beside_torch
    assert (found["model"], found["lrn"], found["device"], found["repetitions"]) == ("tiny", True, "cpu", 1)
    assert found["inference"] is False
    assert found["versions"].keys() == {"python", "numpy", "blas", "torch", "cpu", "threads"}
    assert found["versions"]["torch"] == torch.__version__
    (result,) = found["results"]
    assert result["batch_size"] == 3
    assert result["competitors"].keys() == result["loss"].keys() == {"npconvnet", *TORCH}
    speed = {name: measured["images_per_second"] for name, measured in result["competitors"].items()}
    assert result["ratio"] == pytest.approx(speed["npconvnet"] / max(speed[name] for name in TORCH))
    for measured in result["competitors"].values():
        assert measured["images_per_second"] * measured["milliseconds_per_batch"] == pytest.approx(3 * 1000)
        assert measured["peak_memory_bytes"] > 3 * 4 * 380_554  # parameters, velocities and gradients


def test_the_table_is_aligned(beside_torch):
    title, _, blank, *table = train_step.as_text(beside_torch).splitlines()
    assert title == "training step of tiny on the cpu, medians of 1 rounds"
    assert blank == ""
    rows = ["npconvnet", *sorted(TORCH, reverse=True), "ratio"]
    assert [line[7:26].strip() for line in table] == ["", *rows]
    assert len({len(line) for line in table if "ratio" not in line}) == 1


def test_npconvnet_alone_in_several_batch_sizes():
    results = report("--batch-size", "2,3")["results"]
    assert [result["batch_size"] for result in results] == [2, 3]
    for result in results:
        assert result["competitors"].keys() == {"npconvnet"}
        assert result["ratio"] is None


def test_inference_beside_pytorch(torch, beside_torch):
    found = report("--batch-size", "1,3", "--against", "torch", "--inference")
    assert found["inference"] is True
    assert train_step.as_text(found).startswith("class scores of tiny on the cpu, medians of 1 rounds")
    assert [result["batch_size"] for result in found["results"]] == [1, 3]
    training, inference = beside_torch["results"][0], found["results"][1]
    assert inference["loss"] == pytest.approx(training["loss"])
    for name, measured in inference["competitors"].items():
        assert measured["peak_memory_bytes"] < training["competitors"][name]["peak_memory_bytes"], name


def growth_before_and_after_forgetting():
    before = train_step._largest_resident_set()
    np.ones(2**25)  # 256 MiB, gone at once
    with_it = train_step._largest_resident_set()
    train_step._forget_largest_resident_set()
    return with_it - before, train_step._largest_resident_set() - before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can forget a peak")
def test_what_was_before_the_steps_is_no_part_of_their_memory():
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as pool:
        grown, left = pool.submit(growth_before_and_after_forgetting).result()
    assert grown > 2**27 > left


@pytest.mark.parametrize("name", ["npconvnet", *TORCH])
def test_inference_trains_nothing(name, torch, monkeypatch):
    """The weights stay as they are, and there is neither an optimizer's memory nor dropout."""
    monkeypatch.setattr(train_step, "SGD", None)
    monkeypatch.setattr(train_step, "loss_and_gradients", None)
    runner = train_step.competitor(name, tiny(inference=True))
    monkeypatch.setattr("torch.Tensor.backward", None)
    monkeypatch.setattr("torch.nn.functional.dropout", lambda x, rate, training, inplace: {False: x}[training])
    before = runner.loss()
    runner.step()
    assert runner.loss() == before


@pytest.mark.parametrize("name", ["npconvnet", *TORCH])
def test_threads(name, torch, own_threads):
    """Of a competitor, wherever it runs: beside the others, or alone where its memory is measured."""
    number = {"npconvnet": threads}.get(name, torch.get_num_threads)
    count = number() + 1
    train_step.competitor(name, tiny(threads=count))
    assert number() == count


def test_threads_are_reported(own_threads):
    found = report("--batch-size", "2", "--threads", "3")
    assert found["versions"]["threads"] == 3
    assert train_step.as_text(found).splitlines()[1].endswith("threads 3")


def test_competitors_that_compute_something_else_are_an_error(torch, monkeypatch):
    wrong = train_step.Competitor(lambda: 1.0, lambda: None)
    monkeypatch.setattr(train_step, "torch_competitor", lambda *_: wrong)
    monkeypatch.setattr(train_step, "peak_memories", lambda names, _: dict.fromkeys(names, 0))
    result = CliRunner().invoke(train_step.main, [*QUICK, "--batch-size", "2", "--against", "torch"])
    assert result.exit_code == 1
    assert "the losses differ before the first update" in result.stderr


def test_the_competitors_make_the_same_steps(torch, monkeypatch):
    """Without dropout, which each draws in its own way, the losses stay together over several updates."""
    monkeypatch.setattr("npconvnet.layers.Dropout.forward", lambda self, x, chances=None: (x, None))
    monkeypatch.setattr("torch.nn.Dropout.forward", lambda self, x: x)
    monkeypatch.setattr(train_step, "LEARNING_RATE", 0.01)
    workload = tiny()
    runners = [train_step.competitor(name, workload) for name in ("npconvnet", *TORCH)]
    at_first = runners[0].loss()
    for runner in runners:
        for _ in range(4):
            runner.step()
    ours, *theirs = (runner.loss() for runner in runners)
    assert abs(ours - at_first) > 0.1
    assert theirs == pytest.approx([ours, ours], rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "16,x"], "error: --batch-size 16,x: give whole numbers from 1, separated by commas"),
        (["--batch-size", "0"], "error: --batch-size 0: give whole numbers from 1"),
        (["--batch-size", "4,"], "error: --batch-size 4,: give whole numbers from 1"),
        (["--model", "lenet"], "error: Invalid value for '--model': 'lenet' is not one of"),
        (["--model", "tiny", "--no-lrn"], "error: --no-lrn: model tiny has no such option; it goes with --model paper"),
        (["--repetitions", "0"], "error: Invalid value for '--repetitions'"),
        (["--threads", "0"], "error: Invalid value for '--threads': 0 is not in the range 1<=x<=1024"),
        (["--device", "tpu"], "error: Invalid value for '--device'"),
    ],
)
def test_bad_input_ends_in_one_line(arguments, message, monkeypatch, capsys):
    assert_refused(arguments, message, monkeypatch, capsys)


def test_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr("npconvnet.backend.why_no_gpu", lambda: "there is none")
    assert_refused(["--device", "gpu"], "error: no GPU can be used: there is none", monkeypatch, capsys)


def test_without_pytorch(monkeypatch, capsys):
    monkeypatch.setattr(measuring, "find_spec", lambda name: None)
    message = "error: --against torch: torch is not installed; run: pip install torch==2.13.0"
    assert_refused(["--against", "torch"], message, monkeypatch, capsys)


def assert_refused(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_step.py", *arguments])
    with pytest.raises(SystemExit) as end:
        run(train_step.main)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)
