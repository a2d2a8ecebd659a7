import subprocess
import sys

import pytest

#: Arrays of 100 MB, one after the other; prints how many pages the system had to bring for the last ten.
PROGRAM = """
import resource
import numpy as np
from npconvnet.memory import keep_freed_memory
{call}
for number in range(12):
    if number == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones((5, 5_000_000), np.float32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_brought(call):
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(call=call)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these settings")
def test_arrays_get_the_memory_that_was_freed_before():
    assert pages_brought("keep_freed_memory()") < pages_brought("") / 10


def test_elsewhere_nothing_happens(monkeypatch):
    from npconvnet.memory import keep_freed_memory

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("the C library was asked"))
    keep_freed_memory()
