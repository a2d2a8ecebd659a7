"""The script that measures all on a GPU, with a Python that only pretends to; and the report that it writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import gpu_report
from npconvnet.cli import run

ROOT = Path(__file__).parents[2]

#: Tests fail, kernels hang, and training steps are said to be timed; the report itself is the real one.
PRETENDING = """#!/bin/sh
case "$*" in
*gpu_report.py*) exec "{python}" "$@" ;;
*pytest*) echo "1 failed"; exit 1 ;;
*kernels.py*) echo '{{"half":'; exec sleep 60 ;;
*train_step.py*) echo "out of memory" >&2; exit 2 ;;
*) exit 1 ;;
esac
"""
STEP = {
    "model": "paper",
    "lrn": True,
    "inference": False,
    "repetitions": 5,
    "compile_mode": "default",
    "versions": {"torch": "2"},
    "versions_of_gpu": {"gpu": "Some GPU"},
    "matrix_rates": {"bfloat16": 8e14},
    "results": [
        {
            "batch_size": 256,
            "competitors": {
                "npconvnet bfloat16": {
                    "milliseconds_per_batch": 3.0,
                    "images_per_second": 85333.0,
                    "share_of_peak": 0.45,
                    "peak_memory_bytes": 2**30,
                },
                "torch bfloat16 eager": {"failed": "failed: out of memory"},
            },
            "ratios": {"npconvnet bfloat16": {}},
        }
    ],
}


def test_one_part_does_not_stop_the_next(tmp_path):
    python = tmp_path / "python"
    python.write_text(PRETENDING.format(python=sys.executable))
    python.chmod(0o755)
    out = tmp_path / "out"
    done = subprocess.run(
        ["bash", str(ROOT / "bench" / "gpu_report.sh"), str(out)],
        env=os.environ | {"PYTHON": str(python), "GPU_REPORT_SECONDS": "17", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    parts = {part.file: part for part in gpu_report.read_parts(out)}
    assert parts["tests.txt"].ending == "failed with status 1"
    assert parts["train_step_256.json"].ending == "failed with status 2"
    assert parts["kernels_bfloat16.json"].ending == "out of time"
    assert parts["train_step_1024.json"].ending == "skipped: no time was left"
    report = json.loads((out / "unknown-gpu.json").read_text())
    assert report["results"]["tests.txt"] == "1 failed"
    assert report["results"]["train_step_256.json"] == "out of memory"
    assert "train_step_1024.json" not in report["results"]
    assert (out / "unknown-gpu.md").read_text() in done.stdout


def folder_of(tmp_path, **files):
    (tmp_path / "gpu.csv").write_text("name, driver_version\nNVIDIA H100 80GB HBM3, 580.1\n")
    lines = ["gpu.csv\t0\t1\t20"]
    for name, text in files.items():
        file = name.replace("__", ".")
        (tmp_path / file).write_text(text)
        lines.append(f"{file}\t0\t7\t60")
    (tmp_path / "parts.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_it_is_named_for_the_device_and_holds_everything(tmp_path):
    folder = folder_of(tmp_path, tests__txt="12 passed\n", train_step_256__json=json.dumps(STEP))
    result = CliRunner().invoke(gpu_report.main, [str(folder)], catch_exceptions=False)
    assert result.exit_code == 0
    report = json.loads((folder / "nvidia-h100-80gb-hbm3.json").read_text())
    assert report["versions"]["gpu"] == "NVIDIA H100 80GB HBM3, 580.1"
    assert report["versions"].keys() >= {"commit", "numpy"}
    assert report["results"]["train_step_256.json"] == STEP
    text = (folder / "nvidia-h100-80gb-hbm3.md").read_text()
    assert "| tests.txt | done | 7 | 60 |" in text
    assert "12 passed" in text
    table = [line.split() for line in text.splitlines() if line.startswith("  256")]
    assert table[0] == ["256", "npconvnet", "bfloat16", "3.00", "85333", "45.0%", "1024"]
    assert table[1][1:] == ["torch", "bfloat16", "eager", "failed:", "out", "of", "memory"]


def test_where_nothing_was_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        run(gpu_report.main)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {tmp_path} has no parts.tsv; run: bash bench/gpu_report.sh {tmp_path}"
