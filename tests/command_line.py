"""Commands as a person types them: real processes, what they print, and their exit status."""

import subprocess
import sys
from importlib import resources
from pathlib import Path

ASSETS = Path(str(resources.files("npconvnet") / "assets"))


def npconvnet(*arguments):
    command = [sys.executable, "-m", "npconvnet.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def refused(*arguments):
    """The one line that a bad call prints, after checking that there is nothing else."""
    done = npconvnet(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]
