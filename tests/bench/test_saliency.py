"""The benchmark of saliency."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from bench import measuring, saliency
from npconvnet import kernels
from npconvnet.kernels import twins


def report(*arguments):
    result = CliRunner().invoke(saliency.main, ["--repetitions", "1", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("numba", [None, "installed"])
def test_npconvnet_alone(monkeypatch, numba):
    monkeypatch.setattr(saliency, "find_spec", lambda name: numba)
    found = report()
    assert found["images_per_second"].keys() == {"npconvnet", *([saliency.WITHOUT_NUMBA] if numba else [])}
    assert found["ratio"] is None
    assert "ratio" not in saliency.as_text(found)


@pytest.mark.filterwarnings("ignore:Setting (forward|backward)")
def test_beside_captum():
    pytest.importorskip("captum")
    found = report("--against", "captum")
    speed = found["images_per_second"]
    assert found["ratio"] == pytest.approx(speed["npconvnet"] / max(speed[name] for name in saliency.CAPTUM))
    assert saliency.as_text(found).splitlines()[-1].startswith("ratio")


@pytest.mark.filterwarnings("ignore:Setting (forward|backward)")
def test_threads(torch, own_threads):
    pytest.importorskip("captum")
    count = torch.get_num_threads() + 1
    assert report("--against", "captum", "--threads", str(count))["versions"]["threads"] == count
    assert torch.get_num_threads() == count


def test_without_numba_no_loop_is_compiled(monkeypatch):
    monkeypatch.setattr(twins, "compiled_twin", lambda function: pytest.fail("it was asked for"))
    runner = saliency.without_numba(lambda: kernels.relu_backward(np.ones(3), np.ones(3)))
    assert runner().tolist() == [1, 1, 1]


def test_competitors_that_compute_something_else_are_an_error(monkeypatch):
    pytest.importorskip("captum")
    original = saliency.captum_runner

    def twice(*arguments):
        maps = original(*arguments)
        return lambda: 2 * maps()

    monkeypatch.setattr(saliency, "captum_runner", twice)
    result = CliRunner().invoke(saliency.main, ["--against", "captum"])
    assert result.exit_code == 1
    assert "the maps differ" in result.stderr


def test_without_captum(monkeypatch):
    monkeypatch.setattr(measuring, "find_spec", lambda name: None if name == "captum" else name)
    result = CliRunner().invoke(saliency.main, ["--against", "captum"])
    assert "captum is not installed; run: pip install captum" in str(result.exception)
