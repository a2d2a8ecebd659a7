"""What a training step has to compute and to move, counted by hand where that is easy."""

import math
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import floors
from npconvnet.cli import run
from npconvnet.errors import InputError
from npconvnet.models import MODELS

ROOT = Path(__file__).parents[2]

#: Multiplications of one image forward: outputs × the numbers of a filter.
PAPER = {
    "conv1": 54 * 54 * 64 * 11 * 11 * 3,
    "conv2": 27 * 27 * 256 * 5 * 5 * 64,
    "conv3": 13 * 13 * 256 * 3 * 3 * 256,
    "conv4": 13 * 13 * 256 * 3 * 3 * 256,
    "conv5": 13 * 13 * 256 * 3 * 3 * 256,
    "fc6": 4096 * 9216,
    "fc7": 4096 * 4096,
    "fc8": 1000 * 4096,
}


def item(items, kernel, layer):
    (found,) = [item for item in items if (item.kernel, item.layer) == (kernel, layer)]
    return found


def test_the_papers_operations():
    network = MODELS["paper"]()
    assert floors.scores_flop(network) == 2 * sum(PAPER.values())
    assert floors.step_flop(network) == 6 * sum(PAPER.values()) - 2 * PAPER["conv1"]
    items = floors.work(network, 7, "bfloat16")
    assert sum(item.flop for item in items) == 7 * floors.step_flop(network)
    for kernel in ("fprop", "wgrad", "dgrad"):
        assert item(items, kernel, "conv2").flop == 7 * 2 * PAPER["conv2"]


@pytest.mark.parametrize(("precision", "size"), [("bfloat16", 2), ("tf32", 4)])
def test_bytes(precision, size):
    network = MODELS["paper"]()
    items = floors.work(network, 1, precision)
    x, w, y = 13 * 13 * 256, 256 * 3 * 3 * 256, 13 * 13 * 256
    assert item(items, "fprop", "conv3").bytes == (x + w + y) * size
    assert item(items, "dgrad", "conv3").bytes == (x + w + y) * size
    assert item(items, "wgrad", "conv3").bytes == (x + y) * size + 4 * w
    assert item(items, "fprop+pool", "conv5").bytes == (x + w + 6 * 6 * 256) * size + 6 * 6 * 256
    assert item(items, "fprop", "conv1").bytes == (56 * 56 * 48 + 64 * 363 + 54 * 54 * 64) * size
    assert item(items, "augment", "conv1").bytes == 224 * 224 * 3 + 56 * 56 * 48 * size
    assert item(items, "lrn+pool backward", "conv2").bytes == 13 * 13 * 256 * (size + 1) + 2 * 27 * 27 * 256 * size
    assert item(items, "fprop", "fc8").bytes == (4096 + 4096 * 1000) * size + 4 * 1000
    w, cells = 64 * 11 * 11 * 3, 64 * 3 * 3 * 48
    assert item(items, "filter cells", "conv1").bytes == w * 4 + cells * size
    assert item(items, "filters of cells", "conv1").bytes == (w + cells) * 4
    assert item(items, "bias backward", "fc8").bytes == 1000 * size
    parameters = sum(parameter.size for parameter in network.parameters.values())
    assert item(items, "sgd", "all").bytes == parameters * {"bfloat16": 22, "tf32": 20}[precision]


def test_every_kernel_of_the_step_once():
    items = floors.work(MODELS["paper"](), 2, "bfloat16")
    names = [(item.kernel, item.layer) for item in items]
    assert len(set(names)) == len(names)
    assert ("dgrad", "conv1") not in names
    without = {item.kernel for item in floors.work(MODELS["paper"](lrn=False), 2, "bfloat16")}
    assert without == {item.kernel for item in items} - {"lrn+pool", "lrn+pool backward"}
    assert all(math.isfinite(item.bytes) and item.bytes > 0 for item in items)


def test_the_larger_of_two_times_counts():
    assert floors.Work("", "", 6, 10).seconds(2, 5) == 3
    assert floors.Work("", "", 6, 20).seconds(2, 5) == 4


def test_other_networks_are_counted_but_have_no_floor():
    network = MODELS["squeezenet"]()
    assert floors.step_flop(network) > 2 * floors.scores_flop(network)
    with pytest.raises(InputError, match="no chain"):
        floors.runs(network)


def test_the_readme_says_what_is_printed():
    """Whatever is predicted there comes from the command beside it."""
    text = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    for arguments in ([], ["--no-lrn"], ["--precision", "tf32"]):
        printed = CliRunner().invoke(floors.main, arguments, catch_exceptions=False).output.splitlines()
        assert printed[-1] in text
        if not arguments:
            assert "\n".join(printed[:-2]) in text


def test_bad_input_ends_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["floors.py", "--batch-size", "0"])
    with pytest.raises(SystemExit) as end:
        run(floors.main)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: Invalid value for '--batch-size'")
