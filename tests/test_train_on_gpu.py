"""The trainer on a GPU, played by the emulator: the captured steps, the short batch, validation, and going on."""

import re
import subprocess
import sys

import numpy as np
import pytest

from npconvnet.training.log import read_log
from npconvnet.weights import read_file

#: Rounding puts some numbers on the other side of a ReLU, or of a window's maximum: PyTorch's gradients by bfloat16
#: autocast are as far from those in float32, 25% in conv1 of this network.
TOLERANCE = 0.3

GPU = [sys.executable, "-m", "tests.training.distributed.gpus", "1,emulated", "train_imagenet.py"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The trainer's own, in which it prepares the toy set."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def train(command, *options):
    return subprocess.run([*command, *map(str, options)], capture_output=True, text=True, timeout=900)


def test_it_learns_what_a_cpu_learns(toy, tmp_path):
    """Twenty pictures, three at a time: two buffers with a graph each, and two pictures that are left over."""
    usual = ["--data", toy, "--model", "tiny", "--epochs", 1, "--batch-size", 3, "--learning-rate", 1e-3]
    on_gpu = train(GPU, *usual, "--device", "gpu", "--output", tmp_path / "gpu")
    assert on_gpu.returncode == 0, on_gpu.stderr
    assert "in bfloat16 on the gpu" in on_gpu.stdout

    on_cpu = train([sys.executable, "train_imagenet.py"], *usual, "--device", "cpu", "--output", tmp_path / "cpu")
    assert on_cpu.returncode == 0, on_cpu.stderr
    (gpu,), (cpu,) = ([r for r in read_log(tmp_path / name) if r["event"] == "epoch"] for name in ("gpu", "cpu"))
    assert gpu["training_loss"] == pytest.approx(cpu["training_loss"], rel=1e-2)
    assert gpu["validation_loss"] == pytest.approx(cpu["validation_loss"], rel=1e-2)
    learnt, expected = (read_file(tmp_path / name / "last.safetensors")[0] for name in ("gpu", "cpu"))
    for name, velocity in expected.items():
        if name.startswith("velocity/"):  # the weights themselves hardly move in seven steps
            assert np.linalg.norm(learnt[name] - velocity) < TOLERANCE * np.linalg.norm(velocity), name


def test_tensor_cores_are_refused_on_a_cpu(toy):
    done = train([sys.executable, "train_imagenet.py"], "--data", toy, "--device", "cpu", "--precision", "bfloat16")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --precision bfloat16 is for a GPU; run with --device gpu, or with ")
    assert done.stderr.count("\n") == 1


def test_a_run_that_diverges_names_the_step_and_the_way_out(toy, tmp_path):
    """The loss is read every tenth step, and it is the first that is not a number that counts."""
    usual = ["--data", toy, "--model", "tiny", "--epochs", 1, "--batch-size", 3, "--learning-rate", 1e30]
    done = train(GPU, *usual, "--device", "gpu", "--output", tmp_path / "run")
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert re.fullmatch(r"error: the loss is (nan|inf) after step [12] \(epoch 1\): .* or --precision float32", line), (
        line
    )
