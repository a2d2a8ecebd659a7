import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from bench import measuring

BUILT_WITH = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
NAMED = f"{BUILT_WITH['name']} {BUILT_WITH['version']}"


def blas_of(monkeypatch, *loaded):
    """What `versions` says of BLAS where these libraries are loaded."""
    monkeypatch.setattr(measuring, "threadpool_info", lambda: list(loaded))
    return measuring.versions()["blas"]


def test_the_kernels_are_those_of_numpy_and_not_of_another_library(monkeypatch):
    others = {"version": "0.0.1", "architecture": "Barcelona"}
    own = {"version": BUILT_WITH["version"], "architecture": "SkylakeX"}
    assert blas_of(monkeypatch, others, own) == f"{NAMED} (SkylakeX)"


def test_a_blas_that_does_not_tell_goes_without(monkeypatch):
    assert blas_of(monkeypatch, {"version": None}, {"version": BUILT_WITH["version"]}) == NAMED


@pytest.mark.skipif("openblas" not in BUILT_WITH["name"], reason="NumPy has another BLAS")
@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="these kernels are of another processor")
def test_they_are_those_that_the_environment_asked_for():
    program = "from bench.measuring import versions; print(versions()['blas'])"
    environment = {**os.environ, "OPENBLAS_CORETYPE": "Nehalem"}  # every build for x86-64 has these
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == f"{NAMED} (Nehalem)"
