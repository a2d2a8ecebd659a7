"""The benchmark of every kernel on a GPU: on the stand-in, with the smallest network, where it times nothing."""

import importlib
import json
import sys

import pytest
from click.testing import CliRunner

from npconvnet.cli import run
from npconvnet.models import MODELS

pytest.importorskip("torch")

import torch

from bench import kernels, measuring
from bench.floors import work
from npconvnet.kernels.cuda import conv2d_wgmma
from npconvnet.kernels.cuda.conv2d_tensor_core import BY_WGMMA, linear_backward_input
from npconvnet.kernels.cuda.convolution_tile import DGRAD, FPROP, WGRAD


@pytest.fixture
def on_the_stand_in(cupy, monkeypatch):
    """Every launch takes a millisecond."""

    def median_seconds(function, repetitions):
        function()
        return 1e-3

    monkeypatch.setattr(kernels, "DEVICE", "cpu")
    monkeypatch.setattr(kernels, "median_seconds", median_seconds)


def rows(precision, *wanted, count=1, both_multipliers=False):
    network = MODELS["tiny"]()
    items = [item for item in work(network, count, precision) if (item.kernel, item.layer) in wanted]
    assert len(items) == len(wanted)
    bench = kernels.Bench(torch, network, count, precision)
    return {row["kernel"]: row for row in kernels.measure(bench, items, precision, (1e12, 1e9), 1, both_multipliers)}


def test_every_kernel_has_a_case():
    for network in (MODELS["paper"](), MODELS["paper"](lrn=False)):
        assert {item.kernel for item in work(network, 1, "bfloat16")} <= kernels.CASES.keys()


SOME = {
    "bfloat16": [
        ("fprop+pool", "conv5"),
        ("fprop", "fc8"),
        ("softmax", "fc8"),
        ("bias backward", "fc8"),
        ("filter cells", "conv1"),
        ("filters of cells", "conv1"),
        ("pool backward", "conv5"),
        ("dgrad", "conv5"),
        ("wgrad", "conv5"),
        ("sgd", "all"),
    ],
    "tf32": [
        ("augment", "conv1"),
        ("lrn+pool", "conv2"),
        ("dropout", "fc7"),
        ("dropout backward", "fc7"),
        ("relu backward", "fc7"),
        ("lrn+pool backward", "conv2"),
    ],
}


@pytest.mark.parametrize("precision", SOME)
def test_kernels_are_checked_and_timed(on_the_stand_in, precision):
    found = rows(precision, *SOME[precision])
    for kernel, row in found.items():
        assert "failed" not in row, kernel
        assert row["error"] <= kernels.TOLERANCE[precision]
        assert row["of_floor"] == pytest.approx(max(row["flop"] / 1e12, row["bytes"] / 1e9) / 1e-3)
        assert row.get("torch_seconds", 1e-3) == 1e-3


def test_products_by_both_multipliers(on_the_stand_in, monkeypatch):
    asked, right = [], conv2d_wgmma.planned

    def planned(problem, *rest):
        asked.append(problem)
        return right(problem, *rest)

    monkeypatch.setattr(conv2d_wgmma, "planned", planned)
    products = ("fprop", "fc8"), ("dgrad", "conv5"), ("wgrad", "conv5")
    found = rows("bfloat16", *products, ("softmax", "fc8"), both_multipliers=True)
    assert set(asked) == {FPROP, DGRAD, WGRAD}
    assert "by" not in found.pop("softmax")
    for row in found.values():
        assert row["by"].keys() == {"mma.sync", "wgmma"}
        for by in row["by"].values():
            assert by["error"] <= kernels.TOLERANCE["bfloat16"]
            assert by["seconds"] == row["seconds"] == 1e-3


def test_a_wrong_multiplier_leaves_the_other_its_numbers(on_the_stand_in, monkeypatch):
    right = linear_backward_input
    monkeypatch.setattr(kernels, "linear_backward_input", lambda dy, w: right(dy, w) * (DGRAD not in BY_WGMMA))
    row = rows("bfloat16", ("dgrad", "fc8"), both_multipliers=True)["dgrad"]
    assert row["by"]["wgmma"]["failed"] == "wrong: it is off by 1.0e+00"
    assert row["seconds"] == row["by"]["mma.sync"]["seconds"] == 1e-3
    (line,) = kernels.verdicts([row])
    assert line == ("wgmma / mma.sync, dgrad: fc8 by wgmma wrong: it is off by 1.0e+00; leave DGRAD out of BY_WGMMA")


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        ([(3, 2), (1, 2)], "wgmma / mma.sync, fprop: 1.00 (conv2 1.50, fc8 0.50); leave FPROP out of BY_WGMMA"),
        ([(6, 3), (1, 2)], "wgmma / mma.sync, fprop: 1.40 (conv2 2.00, fc8 0.50); put FPROP into BY_WGMMA"),
    ],
)
def test_what_belongs_into_by_wgmma(seconds, line):
    """The sum over the layers decides."""
    rows = [
        {"kernel": "fprop", "layer": layer, "by": {"mma.sync": {"seconds": mma}, "wgmma": {"seconds": wgmma}}}
        for layer, (mma, wgmma) in zip(("conv2", "fc8"), seconds, strict=True)
    ]
    assert [*kernels.verdicts(rows)] == [line]


def test_a_wrong_kernel_is_named_and_not_timed(on_the_stand_in, monkeypatch):
    right = linear_backward_input
    monkeypatch.setattr(kernels, "linear_backward_input", lambda dy, w: right(dy, w) * 1.02)
    row = rows("tf32", ("dgrad", "fc8"))["dgrad"]
    assert row["failed"].startswith("wrong: it is off by 2.0e-02")
    assert "seconds" not in row


def test_what_fails_is_named_and_the_others_go_on(on_the_stand_in, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no such tile\nand more")

    monkeypatch.setattr(kernels, "linear_backward_input", broken)
    monkeypatch.setattr(kernels.Product, "backward", broken)
    found = rows("tf32", ("dgrad", "fc8"), ("softmax", "fc8"))
    assert found["dgrad"]["failed"] == "failed: no such tile"
    assert found["softmax"]["seconds"] == 1e-3


def test_a_peer_that_fails_costs_only_its_own_number(on_the_stand_in, monkeypatch):
    monkeypatch.setattr(torch.ops.aten, "native_dropout_backward", None)
    row = rows("tf32", ("dropout backward", "fc7"))["dropout backward"]
    assert row["seconds"] == 1e-3
    assert row["torch_failed"].startswith("failed: ")


@pytest.fixture
def reported(on_the_stand_in, monkeypatch):
    """What the command reports of the layer fc8."""
    monkeypatch.setattr(kernels, "require_gpu", lambda: None)
    monkeypatch.setattr(kernels, "require_cuda", lambda option: None)
    monkeypatch.setattr(kernels, "matrix_rate", lambda torch, precision: 1e12)
    monkeypatch.setattr(kernels, "copy_rate", lambda: 1e9)
    monkeypatch.setattr(kernels, "gpu_versions", lambda: {"gpu": "stand-in"})
    arguments = ["--model", "tiny", "--batch-size", "1", "--layer", "fc8", "--json"]

    def report(*options):
        result = CliRunner().invoke(kernels.main, [*arguments, *options], catch_exceptions=False)
        return json.loads(result.stdout)

    return report


@pytest.mark.parametrize(("options", "count"), [([], 5), (["--products", "--precision", "tf32"], 3)])
def test_by_one_multiplier(options, count, reported):
    report = reported(*options)
    assert not any("by" in row for row in report["rows"])
    assert kernels.as_text(report).splitlines()[-1].startswith(f"{count} of {count} kernels")


def test_the_report(reported):
    report = reported("--products")
    assert [row["kernel"] for row in report["rows"]] == ["fprop", "wgrad", "dgrad"]
    assert report["versions"]["gpu"] == "stand-in"
    title, versions, _, _, *table, sums, fprop, dgrad, wgrad = kernels.as_text(report).splitlines()
    assert title == "kernels of a training step of tiny, bfloat16, batch 1, medians of 20"
    assert "gpu stand-in" in versions
    assert len({len(line) for line in table}) == 1
    assert sums.startswith("3 of 3 kernels: 3.00 ms")
    for line, product in ((fprop, "fprop"), (dgrad, "dgrad"), (wgrad, "wgrad")):
        assert line.startswith(f"wgmma / mma.sync, {product}: 1.00 (fc8 1.00); leave {product.upper()} out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: no GPU can be used: there is none"),
        (["--device", "cpu"], "error: Invalid value for '--device': 'cpu' is not 'gpu'"),
        (["--precision", "float16"], "error: Invalid value for '--precision'"),
    ],
)
def test_bad_input_ends_in_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr("bench.gpu.why_no_gpu", lambda: "there is none")
    assert_refused(arguments, message, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer", "conv9"], "error: --layer conv9: there is none; there are conv1, conv2, conv3, conv4, conv5, fc6"),
        (["--model", "tiny", "--no-lrn"], "error: --no-lrn: model tiny has no such option"),
    ],
)
def test_bad_input_on_a_gpu_ends_in_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(kernels, "require_gpu", lambda: None)
    monkeypatch.setattr(kernels, "require_cuda", lambda option: None)
    assert_refused(arguments, message, monkeypatch, capsys)


def test_without_pytorch(monkeypatch, capsys):
    monkeypatch.setattr(kernels, "require_gpu", lambda: None)
    monkeypatch.setattr(measuring, "find_spec", lambda name: None)
    assert_refused([], "error: bench/kernels.py: torch is not installed; run: pip install torch", monkeypatch, capsys)


def test_pytorch_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(kernels, "require_gpu", lambda: None)
    monkeypatch.setattr(importlib.import_module("torch").cuda, "is_available", lambda: False)
    assert_refused([], "error: bench/kernels.py: this PyTorch finds no GPU", monkeypatch, capsys)


def assert_refused(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kernels.py", *arguments])
    with pytest.raises(SystemExit) as end:
        run(kernels.main)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)
