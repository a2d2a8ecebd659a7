"""`python -m tests.training.distributed.gpus COUNT SCRIPT ...` runs SCRIPT where there are so many GPUs: stand-ins."""

import runpy
import sys

from tests import stand_in_cupy, stand_in_nccl


def pretend(count: int) -> None:
    """From now on CuPy is the stand-in, and finds `count` GPUs."""
    sys.modules |= {"cupy": stand_in_cupy, "cupy.cuda.nccl": stand_in_nccl}
    stand_in_cupy.runtime.getDeviceCount = lambda: count


if __name__ == "__main__":
    pretend(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
