"""Puts what bench/gpu_report.sh has measured into one report: FOLDER/<device>.md and FOLDER/<device>.json.

    python bench/gpu_report.py PARTS FOLDER

It reads PARTS/parts.tsv, which names each part's output there, how it ended, and the seconds that it took and had. It
ends with status 1 where no benchmark could measure anything.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, Python looks in bench/ only

import click

from npconvnet.cli import run
from npconvnet.errors import InputError

#: Of a text, the report shows the last lines.
LAST_LINES = 25
DONE = "done"
#: What these mean that `timeout` gives for a command.
ENDINGS = {"0": DONE, "124": "out of time", "137": "out of time", "skipped": "skipped: no time was left"}


@dataclass(frozen=True, slots=True)
class Part:
    """One line of parts.tsv."""

    file: str
    status: str
    seconds: int
    limit: int

    def ending(self, printed: str) -> str:
        """How it ended, in words, when it has `printed` so much."""
        ending = ENDINGS.get(self.status, f"failed with status {self.status}")
        if ending != DONE:
            return ending
        if not printed.strip():
            return "printed nothing"
        if self.file.endswith(".json"):
            return DONE if _has_measured(json.loads(printed)) else "nothing could be measured"
        if re.search(r"\b\d+ skipped", printed) and not re.search(r"\b\d+ passed", printed):  # as pytest counts
            return "every test was skipped"
        return DONE


def read_parts(folder: Path) -> list[Part]:
    """The parts in the order in which they ran. Raises InputError where there are none."""
    try:
        lines = (folder / "parts.tsv").read_text().splitlines()
    except OSError:
        raise InputError(f"{folder} has no parts.tsv; run: bash bench/gpu_report.sh FOLDER") from None
    rows = [line.split("\t") for line in lines]
    return [Part(file, status, int(seconds), int(limit)) for file, status, seconds, limit in rows]


def result(folder: Path, part: Part) -> Any:
    """What a part has printed: the object where it is JSON, otherwise its last lines."""
    text = _text(folder / part.file)
    if part.file.endswith(".json"):
        try:
            return json.loads(text)
        except ValueError:
            text = ""  # it did not come to its end
    last = (text or _text(folder / f"{part.file}.log")).splitlines()[-LAST_LINES:]
    return "\n".join(last)


def _has_measured(found: dict[str, Any]) -> bool:
    """Whether anything in the report of a benchmark has been timed."""
    rows = found.get("rows") or [row for result in found["results"] for row in result["competitors"].values()]
    return any("failed" not in row for row in rows)


def software(device: str) -> dict[str, str]:
    """The versions that all parts have in common; `device` is the first line of nvidia-smi below its header."""
    git = ["git", "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True, cwd=Path(__file__).parent).stdout
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    found = {"gpu": device, "commit": commit.strip()}
    for package in ("cupy-cuda13x", "cupy-cuda12x", "torch", "triton", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def as_markdown(report: dict[str, Any]) -> str:
    """The report, to be read."""
    lines = [f"# {report['versions']['gpu'].split(',')[0]}", ""]
    lines += [f"- {name}: {value}" for name, value in report["versions"].items()]
    lines += ["", "| part | | seconds | of |", "|---|---|---:|---:|"]
    for part in report["parts"]:
        lines.append(f"| {part['file']} | {part['ending']} | {part['seconds']} | {part['limit']} |")
    for file, found in report["results"].items():
        lines += ["", f"## {file}", "", "```", _shown(file, found), "```"]
    return "\n".join(lines) + "\n"


def _shown(file: str, found: Any) -> str:
    if isinstance(found, str):
        return found
    text: str = import_module("bench.kernels" if file.startswith("kernels") else "bench.train_step_on_gpu").as_text(
        found
    )
    return text


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _device(folder: Path) -> str:
    """The line of nvidia-smi that tells of the GPU."""
    return next(iter(_text(folder / "gpu.csv").splitlines()[1:]), "unknown GPU")


def _written(folder: Path, report: dict[str, Any]) -> Iterator[Path]:
    name = re.sub(r"[^a-z0-9]+", "-", report["versions"]["gpu"].split(",")[0].lower()).strip("-")
    for suffix, text in ((".json", json.dumps(report, indent=2) + "\n"), (".md", as_markdown(report))):
        path = folder / (name + suffix)
        path.write_text(text, encoding="utf-8")
        yield path


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("measured", metavar="PARTS", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
def main(measured: Path, folder: Path) -> None:
    """Put what bench/gpu_report.sh has measured into one report."""
    parts = read_parts(measured)
    report: dict[str, Any] = {
        "versions": software(_device(measured)),
        "parts": [asdict(part) | {"ending": part.ending(_text(measured / part.file))} for part in parts],
        "results": {part.file: result(measured, part) for part in parts if part.status != "skipped"},
    }
    *_, markdown = _written(folder, report)
    click.echo(markdown.read_text(encoding="utf-8"))
    if not any(part["ending"] == DONE and part["file"].endswith(".json") for part in report["parts"]):
        click.echo("error: no benchmark could measure anything; see the report above", err=True)
        sys.exit(1)


if __name__ == "__main__":
    run(main)
