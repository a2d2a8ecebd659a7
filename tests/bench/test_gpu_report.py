"""The script that measures all on a GPU, with a Python that only pretends to; and the report that it writes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from bench import gpu_report
from bench.sanitized_tests import first_and_last
from npconvnet.cli import run

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "bench" / "gpu_report.sh"

#: There is a GPU, each says how it was called, and training steps have no memory; the report itself is the real one.
PRETENDING = """#!/bin/sh
case "$*" in
*why_no_gpu*) exit 0 ;;
*gpu_report.py*) exec "{python}" "$@" ;;
*pytest*) echo "1 test"; echo "$*" >&2; {tests} ;;
*kernels.py*) echo '{{"half":'; echo "$*" >&2; {kernels} ;;
*train_step.py*) echo "$*" >&2; echo "out of memory" >&2; exit 2 ;;
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


def gpu_report_by(python, *arguments):
    return subprocess.run(
        ["bash", str(SCRIPT), *map(str, arguments)],
        env=os.environ | {"PYTHON": str(python), "GPU_REPORT_SECONDS": "17", "PATH": f"{python.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def script(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


def pretended_report(folder, tests, kernels):
    """What the script says, and its report and its log, where these parts end by these commands."""
    python = script(folder / "python", PRETENDING.format(python=sys.executable, tests=tests, kernels=kernels))
    for tool in ("compute-sanitizer", "ncu"):
        script(folder / tool, '#!/bin/sh\necho "1 passed, by $*"\n')
    done = gpu_report_by(python, folder / "out")
    assert {path.name for path in (folder / "out").iterdir()} == {"unknown-gpu.json", "unknown-gpu.md", "parts.log"}
    return done, json.loads((folder / "out" / "unknown-gpu.json").read_text()), (folder / "out/parts.log").read_text()


def test_one_part_does_not_stop_the_next(tmp_path):
    done, report, log = pretended_report(tmp_path, "exit 1", "exec sleep 60")
    endings = {part["file"]: part["ending"] for part in report["parts"]}
    assert endings["tests.txt"] == "failed with status 1"
    assert endings["train_step_256.json"] == "failed with status 2"
    assert endings["kernels_bfloat16.json"] == "out of time"
    assert endings["train_step_1024.json"] == "skipped: no time was left"
    assert done.returncode == 1
    assert done.stderr.endswith("error: no benchmark could measure anything; see the report above\n")
    assert report["results"]["tests.txt"] == "1 test"
    assert report["results"]["train_step_256.json"].endswith("\nout of memory")
    assert "train_step_1024.json" not in report["results"]
    assert (tmp_path / "out" / "unknown-gpu.md").read_text() in done.stdout
    assert "\nkernels_bfloat16.json: status 124 after " in log
    assert '\n{"half":\n' in log
    assert log.splitlines()[-1].startswith("racecheck_wgmma.txt: status skipped after 0 of ")


@pytest.mark.parametrize("tests", ["exit 0", f"seq {2 * gpu_report.LAST_LINES}; exit 1"])
def test_wgmma_has_processes_of_its_own(tests, tmp_path):
    """However its tests end, whose output is kept whole."""
    (by_wgmma,) = re.findall(r"^by_wgmma=(.*)$", SCRIPT.read_text(), re.MULTILINE)
    assert (ROOT / by_wgmma).is_file()
    *_, log = pretended_report(tmp_path, tests, "exit 1")
    printed = dict(re.findall(r"^(\S+): status .*\n((?:(?!\S+: status ).*\n)*)", log, re.MULTILINE))
    assert ("\n1\n" in printed["wgmma.txt"]) is ("seq" in tests)

    def with_words(words):
        return {file for file, text in printed.items() if words in text}

    others = f"--ignore {by_wgmma} tests/kernels/cuda"
    assert with_words(by_wgmma) - with_words(others) == {"wgmma.txt", "memcheck_wgmma.txt", "racecheck_wgmma.txt"}
    assert with_words(others) == {"tests.txt", "memcheck.txt", "racecheck.txt"}
    assert with_words("--products") == {"kernels_wgmma.json", "ncu.txt"}
    assert with_words("train_step.py") - with_words("--against torch") == {"train_step_wgmma.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out"], "error: no GPU can be used: there is none"),
        ([], "error: run: bash bench/gpu_report.sh FOLDER [everything]"),
        (["out", "all"], "error: run: bash bench/gpu_report.sh FOLDER [everything]"),
    ],
)
def test_what_it_refuses_leaves_nothing_behind(arguments, message, tmp_path):
    python = script(tmp_path / "python", "#!/bin/sh\necho there is none\n")
    done = gpu_report_by(python, *(tmp_path / arguments[0], *arguments[1:]) if arguments else ())
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message + "\n")
    assert list(tmp_path.iterdir()) == [python]


def test_what_has_to_run_has_its_share():
    """The limits of the parts up to those that are said to have what is left add up to what there is."""
    text = SCRIPT.read_text().partition("# The limits of these")[2]
    first, _, _ = text.partition("# And these")
    limits = [int(limit) for limit in re.findall(r"^(?:part|sanitized) \S+ (\d+)", first, re.MULTILINE)]
    assert len(limits) == 12
    assert sum(limits) == 465 - 10


FAILED = STEP | {"results": [{"batch_size": 1, "competitors": {"npconvnet tf32": {"failed": "failed: x"}}}]}


@pytest.mark.parametrize(
    ("file", "status", "printed", "ending"),
    [
        ("tests.txt", "0", "...\n12 passed, 3 skipped in 4s\n", "done"),
        ("tests.txt", "0", "sss\n15 skipped, 4 deselected in 4s\n", "every test was skipped"),
        ("memcheck.txt", "0", "1 skipped in 4s\n========= ERROR SUMMARY: 0 errors\n", "every test was skipped"),
        ("memcheck.txt", "0", "1 passed in 4s\n========= ERROR SUMMARY: 0 errors\n", "done"),
        ("tests.txt", "0", " \n", "printed nothing"),
        ("tests.txt", "5", "4 deselected in 1s", "failed with status 5"),
        ("ncu.txt", "124", "", "out of time"),
        ("train_step_256.json", "0", json.dumps(STEP), "done"),
        ("train_step_256.json", "0", json.dumps(FAILED), "nothing could be measured"),
        ("kernels_tf32.json", "0", '{"rows": [{"failed": "wrong"}, {"seconds": 1}]}', "done"),
        ("kernels_tf32.json", "0", '{"rows": [{"failed": "wrong"}]}', "nothing could be measured"),
    ],
)
def test_done_is_what_has_done_something(file, status, printed, ending):
    assert gpu_report.Part(file, status, 1, 2).ending(printed) == ending


def test_the_first_and_the_last_of_each_test():
    def some(name, *parameters):
        return [SimpleNamespace(path="a.py", originalname=name, parameter=p) for p in parameters]

    kept = first_and_last([*some("test_one", 0), *some("test_three", 1, 2, 3), *some("test_two", 4, 5)])
    assert [test.parameter for test in kept] == [0, 1, 3, 4, 5]


def report_of(tmp_path, **files):
    """The folder of the report of these parts."""
    parts, folder = tmp_path / "parts", tmp_path / "out"
    parts.mkdir()
    folder.mkdir()
    (parts / "gpu.csv").write_text("name, driver_version\nNVIDIA H100 80GB HBM3, 580.1\n")
    lines = ["gpu.csv\t0\t1\t20"]
    for name, text in files.items():
        file = name.replace("__", ".")
        (parts / file).write_text(text)
        lines.append(f"{file}\t0\t7\t60")
    (parts / "parts.tsv").write_text("\n".join(lines) + "\n")
    result = CliRunner().invoke(gpu_report.main, [str(parts), str(folder)], catch_exceptions=False)
    assert result.exit_code == 0
    return folder


def test_it_is_named_for_the_device_and_holds_everything(tmp_path):
    folder = report_of(tmp_path, tests__txt="12 passed\n", train_step_256__json=json.dumps(STEP))
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


def test_it_says_what_belongs_into_by_wgmma(tmp_path):
    by = {"mma.sync": {"error": 1e-3, "seconds": 3e-4}, "wgmma": {"error": 1e-3, "seconds": 2e-4}}
    row = {"kernel": "dgrad", "layer": "conv2", "flop": 1e9, "bytes": 1e6, "of_floor": 0.5, "by": by} | by["mma.sync"]
    measured = {"precision": "bfloat16", "batch_size": 256, "matrix_rate": 8e14, "copy_rate": 3e12, "rows": [row]}
    folder = report_of(tmp_path, kernels_wgmma__json=json.dumps(STEP | measured))
    *_, table, _, verdict, _ = (folder / "nvidia-h100-80gb-hbm3.md").read_text().splitlines()
    assert table.split()[-2:] == ["300.0", "200.0"]
    assert verdict == "wgmma / mma.sync, dgrad: 1.50 (conv2 1.50); put DGRAD into BY_WGMMA"


def test_where_nothing_was_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", str(tmp_path), str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        run(gpu_report.main)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {tmp_path} has no parts.tsv; run: bash bench/gpu_report.sh FOLDER"
