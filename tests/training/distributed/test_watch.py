"""The watch over processes: the first that ends is named, and the others end with it."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from npconvnet.training.distributed import watch
from npconvnet.training.distributed.watch import Watch

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no file descriptors for processes")

COMMAND = [sys.executable, "-c", "import time; time.sleep(60)"]


@contextmanager
def sleepers(count):
    """Processes that sleep."""
    processes = [subprocess.Popen(COMMAND) for _ in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def by_rank(processes):
    return {10 + number: process.pid for number, process in enumerate(processes)}


def error_line(errors):
    return re.fullmatch(r"rank (\d+) \(process (\d+) on .+\) has died, and the run with it\n", errors)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_the_first_that_ends_is_named_and_the_others_are_killed(capfd, monkeypatch, first):
    monkeypatch.setattr(watch, "PATIENCE", 0.1)
    with sleepers(3) as processes:
        processes[first].kill()
        watch.watch(by_rank(processes))
        found = error_line(capfd.readouterr().err)
        assert found
        assert found.groups() == (str(10 + first), str(processes[first].pid))
        assert [process.wait(5) for process in processes] == [-signal.SIGKILL] * 3


def test_the_order_counts_even_where_the_watch_comes_late(capfd, monkeypatch):
    """A launcher has killed the others before the watch has a core to look with."""
    monkeypatch.setattr(watch, "PATIENCE", 0)
    with sleepers(3) as processes:
        epoll = select.epoll

        class LateLook:
            def __init__(self):
                self.ending = epoll()
                self.register = self.ending.register

            def poll(self):
                for number in (1, 2, 0):
                    processes[number].kill()
                    processes[number].wait()
                return self.ending.poll()

        monkeypatch.setattr(select, "epoll", LateLook)
        watch.watch(by_rank(processes))
    found = error_line(capfd.readouterr().err)
    assert found
    assert found[1] == "11"


def test_one_that_is_gone_before_it_begins(capfd, monkeypatch):
    monkeypatch.setattr(watch, "PATIENCE", 0)
    with sleepers(2) as processes:
        processes[1].kill()
        processes[1].wait()  # nothing is left of it, not even its number
        watch.watch(by_rank(processes))
        found = error_line(capfd.readouterr().err)
        assert found
        assert found[1] == "11"
        assert processes[0].wait(5) == -signal.SIGKILL


@pytest.mark.parametrize("by_whom", ["the one who began it", "a rank"])
def test_a_watch_that_is_over_says_nothing(capfd, by_whom):
    with sleepers(2) as processes:
        over = Watch(by_rank(processes))
        assert over.process
        time.sleep(0.3)  # it is up
        if by_whom == "a rank":
            os.kill(over.process, signal.SIGTERM)
            os.waitpid(over.process, 0)
        else:
            over.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(over.process, 0)
        processes[0].kill()
        time.sleep(0.2)
        assert processes[1].poll() is None
    assert capfd.readouterr().err == ""


def test_a_watch_outlives_those_who_began_it(tmp_path):
    """As a launcher kills all ranks, the one that began the watch among them."""
    script = (
        "import os, signal, time\n"
        "from npconvnet.training.distributed.watch import Watch\n"
        "Watch({7: os.getpid()})\n"
        "time.sleep(0.5)\n"
        "os.killpg(0, signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30, start_new_session=True
    )
    assert done.returncode == -signal.SIGKILL
    found = error_line(done.stderr)
    assert found
    assert found[1] == "7"


def test_a_system_that_cannot_watch(monkeypatch):
    monkeypatch.delattr(os, "pidfd_open")
    nobody = Watch({0: os.getpid()})
    assert nobody.process is None
    nobody.stop()
