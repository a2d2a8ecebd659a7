"""How benchmarks measure: competitors in one process, in turns, and the medians of their times."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
from threadpoolctl import threadpool_info
from tqdm import tqdm

from npconvnet.errors import InputError
from npconvnet.parallel import threads

NPCONVNET = "npconvnet"
WARM_UP_ROUNDS = 2

#: PyTorch takes no number at all; so many are beyond any machine.
threads_option = click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="How many compute at once, in every competitor.  [default: as many as each takes by itself]",
)


def medians_in_turns(competitors: Mapping[str, Callable[[], Any]], repetitions: int, label: str) -> dict[str, float]:
    """The median seconds of each competitor: one turn of each, and again, `repetitions` times after the warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    for number in tqdm(range(WARM_UP_ROUNDS + repetitions), label, unit="round"):
        for name, run in competitors.items():
            began = time.perf_counter()
            run()
            if number >= WARM_UP_ROUNDS:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


def versions(*packages: str) -> dict[str, Any]:
    """What the numbers depend on, and the versions of `packages`."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": _blas(),
        **{package: version(package) for package in packages},
        **({"numba": version("numba")} if find_spec("numba") else {}),
        "cpu": _cpu_model(),
        "threads": threads(),
    }


def as_line(versions: Mapping[str, Any]) -> str:
    """The versions in one line."""
    return ", ".join(f"{name} {value}" for name, value in versions.items())


def require_installed(option: str, package: str, command: str) -> None:
    """Raises InputError where the package that `option` asks for is not installed; `command` installs it."""
    if find_spec(package) is None:
        raise InputError(f"{option}: {package} is not installed; run: {command}")


def _blas() -> str:
    """NumPy's BLAS and, where it tells, the kernels that it took for this processor or by OPENBLAS_CORETYPE."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    kernels = [
        f" ({library['architecture']})"
        for library in threadpool_info()  # SciPy and OpenCV bring their own
        if library["version"] == blas["version"] and "architecture" in library
    ]
    return f"{blas['name']} {blas['version']}{''.join(kernels[:1])}"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
