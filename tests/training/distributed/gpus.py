"""`python -m tests.training.distributed.gpus COUNT SCRIPT ...` runs SCRIPT where there are so many GPUs: stand-ins.

They run the definitions of the kernels, for it is the ranks that are tested here; with "2,emulated" for COUNT, two run
the kernels themselves.
"""

import runpy
import sys

import pytest

from npconvnet.kernels import twins
from tests import stand_in_cupy, stand_in_nccl


def pretend(count: int, emulated: bool = False) -> None:
    """From now on CuPy is the stand-in, and finds `count` GPUs."""
    stand_in_cupy.take_the_place_of_cupy(pytest.MonkeyPatch())
    sys.modules["cupy.cuda.nccl"] = stand_in_nccl
    stand_in_cupy.runtime.getDeviceCount = lambda: count
    if not emulated:
        twins.cuda_twin = lambda definition: definition  # type: ignore[assignment]


if __name__ == "__main__":
    count, _, how = sys.argv[1].partition(",")
    pretend(int(count), emulated=how == "emulated")
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
