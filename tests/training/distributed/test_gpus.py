"""The trainer on several GPUs, which stand-ins play."""

import numpy as np
import pytest

from npconvnet.training.log import read_log
from npconvnet.weights import read_file
from tests.training.distributed.mpi import on_ranks


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The ranks' own, in which the first of them prepares the toy set."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def train(toy, output, ranks, *options, gpus=None):
    """One epoch of 20 pictures."""
    script = ["-m", "tests.training.distributed.gpus", gpus] if gpus else []
    usual = ["--data", toy, "--output", output, "--model", "tiny", "--epochs", 1, "--batch-size", 3]
    return on_ranks(ranks, *script, "train_imagenet.py", *usual, "--device", "gpu" if gpus else "cpu", *options)


@pytest.mark.parametrize(("ranks", "wire", "tolerance"), [(2, "float32", 1e-4), (3, "bfloat16", 1e-2)])
def test_they_learn_what_cpus_learn(toy, tmp_path, ranks, wire, tolerance):
    """With three ranks, one of them has no picture of the last batch, of two."""
    learnt = []
    for gpus in (ranks, None):
        folder = tmp_path / str(gpus)
        done = train(toy, folder, ranks, "--precision", "float32", "--wire", wire, gpus=gpus)
        assert done.returncode == 0, done.stderr
        learnt.append(read_file(folder / "last.safetensors")[0])
    for name, expected in learnt[1].items():
        np.testing.assert_allclose(
            learnt[0][name], expected, rtol=0, atol=tolerance * abs(expected).max(), err_msg=name
        )


def test_two_learn_by_tensor_cores(toy, tmp_path):
    """In bfloat16, step by step and not captured: the gradients are summed between the ranks as they come."""
    done = train(toy, tmp_path / "gpus", 2, "--learning-rate", "1e-3", gpus="2,emulated")
    assert done.returncode == 0, done.stderr
    assert "in bfloat16 on the gpu" in done.stdout
    assert train(toy, tmp_path / "cpus", 2, "--learning-rate", "1e-3").returncode == 0
    on_gpus, on_cpus = (read_log(tmp_path / name)[-1]["validation_loss"] for name in ("gpus", "cpus"))
    assert on_gpus == pytest.approx(on_cpus, rel=1e-2)


def test_two_ranks_on_one_gpu(toy, tmp_path):
    done = train(toy, tmp_path / "run", 2, gpus=1)
    assert done.returncode == 2
    assert "error: ranks 0 and 1 on" in done.stderr
    assert "have one GPU between them; start as many ranks on a machine as it has GPUs" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
