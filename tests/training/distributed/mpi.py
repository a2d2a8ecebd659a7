"""Several processes that know each other by MPI."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
MPIEXEC = Path(sys.executable).with_name("mpiexec")


def on_ranks(ranks: int, *arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """`python arguments` on so many `ranks`, at the root of the repository: their output and mpiexec's exit status.

    After `timeout` seconds mpiexec is killed, which ends the ranks (those that catch SIGTERM, too), and
    subprocess.TimeoutExpired is raised.
    """
    command = [MPIEXEC, "-n", ranks, sys.executable, *arguments]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # the ranks share the cores
    return subprocess.run(
        [*map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
