"""The benchmark once through on the smallest network, and what it says of bad input."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from bench import measuring, scaling, scaling_report
from bench.scaling_model import SUMS, Step, predictions
from npconvnet.backend import to_host
from npconvnet.cli import run
from npconvnet.errors import InputError
from npconvnet.kernels.cpu.bfloat16 import to_bfloat16
from npconvnet.training.distributed.ranks import ALONE
from npconvnet.training.distributed.reduction import Reduction

QUICK = ["--model", "tiny", "--batch-size", "2,4", "--repetitions", "1", "--ranks", "2"]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scaling")
    return ["--results", str(folder), "--figure", str(folder / "scaling.png")]


@pytest.fixture
def enough_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)


@pytest.fixture
def quick_ranks(monkeypatch):
    monkeypatch.setattr("subprocess.run", partial(subprocess.run, timeout=120))


def report(*arguments):
    result = CliRunner().invoke(scaling.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout, json.loads((Path(arguments[-3]) / "scaling.json").read_text())


@pytest.fixture
def two_ranks(places, enough_cores, quick_ranks):
    """Measured once; from then on the record speaks."""
    measured = (Path(places[1]) / "scaling.json").exists()
    return report(*(["--no-measure"] if measured else QUICK), *places)


def test_two_ranks(two_ranks, places):
    text, found = two_ranks
    assert found["measured"].keys() == {"cpu"}
    assert found["measured"]["cpu"]["versions"]["threads"] == 1
    kinds = [(row["batch_size"], row["ranks"], row["kind"]) for row in found["compared"]["cpu"]]
    each = [(1, scaling.ALONE), (2, scaling.EACH), (2, "float32"), (2, "bfloat16")]
    assert kinds == [(size, *rest) for size in (2, 4) for rest in each]
    for row in found["compared"]["cpu"]:
        assert row["images_per_second"] > 0
        if row["kind"] in SUMS:
            assert row["error"] == pytest.approx(row["predicted"] / row["images_per_second"] - 1)
    (result,) = found["measured"]["cpu"]["runs"]
    for batch in result["batches"]:
        step = Step(**batch["step"])
        assert 0 < step.ready[0] <= step.backward
        assert step.update > 0
        assert sum(step.buckets) == 4 * 380_554
    folder = Path(places[1])
    assert (folder / "scaling.md").read_text() == text.removesuffix("\n")
    assert (folder / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_predictions_say_that_one_gpu_is_assumed(two_ranks):
    text, found = two_ranks
    assert "One GPU: ASSUMED, not measured: 23,500 images/s, 10% of the peak of an H100" in text
    assert scaling_report.UNCHECKED in text
    assert found["predicted"] == json.loads(json.dumps(predictions(Step(**found["one_gpu"]["step"]))))


def test_tables_name_what_a_reader_has_to_know(two_ranks):
    text, found = two_ranks
    assert "| gradients of fc8.bias, fc8.weight, fc7.bias" in text
    assert "| 2 | 1 | not summed |" in text
    (header,) = [line for line in text.splitlines() if "| 1 GPU |" in line]
    assert "| 8 GPUs | 16 GPUs | 64 GPUs | 256 GPUs | 1024 GPUs |" in header
    for factor in scaling_report.FACTORS:
        speed = Step(**found["one_gpu"]["step"]).faster(factor).images_per_second()
        assert f"{factor:g} × as fast ({float(f'{speed:.3g}'):,.0f} images/s)" in text


def test_one_gpu_as_given(two_ranks, places):
    text, found = report("--no-measure", "--images-per-second", "5000", *places)
    assert "One GPU: given as 5,000 images/s" in text
    assert [row["images_per_second"]["1"] for row in found["predicted"]] == pytest.approx([5000] * 6)


def test_one_gpu_as_measured(two_ranks, tmp_path):
    """What a GPU took is kept beside the CPU's, and counts."""
    _, found = two_ranks
    step = {"batch": 64, "buckets": [8] * 5, "ready": [0, 0, 0, 0.25, 0.5], "backward": 0.5, "update": 0.5}
    seconds = {scaling.ALONE: 1.0, "float32": 1.25}
    sums = {"float32": [[1024, 0.125], [2048, 0.125]]}
    runs = [{"ranks": 2, "batches": [{"seconds": seconds, "step": step}], "sums": sums}]
    found["measured"]["gpu"] = found["measured"]["cpu"] | {"model": "paper", "device": "gpu", "runs": runs}
    (tmp_path / "scaling.json").write_text(json.dumps(found))
    text, found = report("--no-measure", "--results", str(tmp_path), "--figure", str(tmp_path / "f.png"))
    assert "One GPU: measured, 64 images/s" in text
    assert scaling_report.UNCHECKED not in text
    summed = found["compared"]["gpu"][-1]
    assert summed["efficiency"] == 0.8
    assert summed["predicted"] == pytest.approx(128 / 1.125)  # of five sums of 0.125 s only the last does not hide


def test_one_rank_needs_no_mpi(tmp_path, monkeypatch, quick_ranks):
    monkeypatch.setattr(measuring, "find_spec", lambda name: None)
    places = ["--results", str(tmp_path), "--figure", str(tmp_path / "f.png")]
    text, found = report(*QUICK[:-1], "1", *places)
    assert [row["kind"] for row in found["compared"]["cpu"]] == [scaling.ALONE] * 2
    assert "How long one sum" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "16,x"], "error: --batch-size 16,x: give whole numbers from 1, separated by commas"),
        (["--ranks", "0"], "error: Invalid value for '--ranks'"),
        (["--ranks", "3"], "error: --ranks 3: cores on this machine: 2, threads of a rank: 1; ask for 2 at most"),
        (
            ["--ranks", "2", "--threads", "2"],
            "error: --ranks 2: cores on this machine: 2, threads of a rank: 2; ask for 1",
        ),
        (["--images-per-second", "0"], "error: Invalid value for '--images-per-second'"),
        (["--images-per-second", "inf"], "error: --images-per-second inf: the update alone takes a GPU 0.36 ms"),
        (["--images-per-second", "nan"], "error: --images-per-second nan: the update alone takes a GPU 0.36 ms"),
        (["--images-per-second", "9000", "--no-measure"], "error: --no-measure: "),
        (["--model", "lenet"], "error: Invalid value for '--model': 'lenet' is not one of"),
    ],
)
def test_bad_input_ends_in_one_line(arguments, message, tmp_path, monkeypatch, capsys, enough_cores):
    assert_refused([*arguments, "--results", str(tmp_path)], message, monkeypatch, capsys)


def test_a_folder_that_is_not_there(tmp_path, monkeypatch, capsys):
    arguments = ["--results", str(tmp_path / "none")]
    assert_refused(arguments, f"error: {tmp_path}/none/scaling.json: there is no folder", monkeypatch, capsys)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"measured": {"cpu": {}}}', '{"measured": {"cpu": {"runs": [{}]}}}'])
def test_a_record_that_is_something_else(text, tmp_path, monkeypatch, capsys):
    (tmp_path / "scaling.json").write_text(text)
    arguments = ["--no-measure", "--results", str(tmp_path), "--figure", str(tmp_path / "f.png")]
    message = f"error: {tmp_path}/scaling.json: cannot be read as measurements"
    assert_refused(arguments, message, monkeypatch, capsys)


def test_without_mpi(tmp_path, monkeypatch, capsys, enough_cores):
    monkeypatch.setattr(measuring, "find_spec", lambda name: None)
    message = "error: --ranks: mpi4py is not installed; run: pip install 'npconvnet[mpi]', or measure one: --ranks 1"
    assert_refused([*QUICK, "--results", str(tmp_path)], message, monkeypatch, capsys)


def test_without_a_launcher(tmp_path, monkeypatch, capsys, enough_cores):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    message = "error: --ranks: there is no mpiexec; run: pip install 'npconvnet[mpi]'"
    assert_refused([*QUICK, "--results", str(tmp_path)], message, monkeypatch, capsys)


def test_without_a_gpu(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("npconvnet.backend.why_no_gpu", lambda: "there is none")
    arguments = ["--device", "gpu", "--results", str(tmp_path)]
    assert_refused(arguments, "error: no GPU can be used: there is none", monkeypatch, capsys)


def test_fewer_gpus_than_asked_for(monkeypatch):
    runtime = SimpleNamespace(getDeviceCount=lambda: 2)
    monkeypatch.setattr(scaling, "module_of", lambda device: SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))
    assert scaling.most_ranks(None, "gpu", 1) == 2
    with pytest.raises(InputError, match=r"^--ranks 4: GPUs on this machine: 2; ask for 2 at most"):
        scaling.most_ranks(4, "gpu", 1)


def test_one_gpu_alone(cupy, own_threads):
    """By a stand-in: the times are its own, but what is moved and waited for is a GPU's."""
    found = scaling.measure_in(ALONE, scaling.Settings("tiny", "gpu", 1, (2,), 1))
    (batch,) = found["batches"]
    step = Step(**batch["step"])
    assert batch["seconds"].keys() == {scaling.ALONE}
    assert 0 < step.ready[0] <= step.backward


def test_a_gpu_trains_by_tensor_cores(cupy):
    trainer = scaling.Trainer(scaling.Settings("tiny", "gpu", 1, (2,), 1), ALONE)
    before = {name: copy.copy() for name, copy in trainer._trained.copies.items()}
    trainer.step(*trainer.batch(2), Reduction())
    assert before
    for name, copy in trainer._trained.copies.items():
        assert not np.array_equal(to_host(before[name]), to_host(copy)), name
        np.testing.assert_array_equal(
            to_host(copy), to_bfloat16(to_host(trainer.network.parameters[name])), err_msg=name
        )


def test_ranks_that_fail(tmp_path, monkeypatch, capsys, enough_cores):
    monkeypatch.setattr("subprocess.run", lambda *_, **__: SimpleNamespace(returncode=3))
    message = "error: the measurement with 2 ranks ended with exit status 3; see above"
    assert_refused([*QUICK, "--results", str(tmp_path)], message, monkeypatch, capsys)
    assert not (tmp_path / "scaling.json").exists()


def assert_refused(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scaling.py", *arguments])
    with pytest.raises(SystemExit) as end:
        run(scaling.main)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)
