"""The watch over ranks: the first that ends is named, and the others end with it.

Processes stand for ranks; the tests hold their connections, and end them in place of the system.
"""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import Any

import pytest

from npconvnet.training.distributed import watch
from npconvnet.training.distributed.watch import Watch

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux only")

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


class Job:
    """Some ranks and their launcher, under a watch in a thread."""

    def __init__(self, ranks):
        self.ranks = [subprocess.Popen(SLEEP) for _ in range(ranks)]
        self.launcher = subprocess.Popen(SLEEP)
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(ranks)]
        self.connections = [own for own, _ in pairs]
        self.accepted = iter([(other, "") for _, other in pairs])
        self.watching = threading.Thread(target=watch.watch, args=(self, ranks))

    def accept(self):
        return next(self.accepted)

    def begin(self):
        for number, (rank, connection) in enumerate(zip(self.ranks, self.connections, strict=True)):
            connection.sendall(json.dumps([10 + number, rank.pid, self.launcher.pid]).encode())
        self.watching.start()

    def kill(self, number):
        """As the system does it."""
        self.connections[number].close()
        self.ranks[number].kill()

    def ended(self):
        self.watching.join(10)
        assert not self.watching.is_alive()
        return [rank.poll() is not None or rank.wait(5) is not None for rank in self.ranks]


@contextmanager
def job(ranks):
    made = Job(ranks)
    try:
        yield made
    finally:
        for connection in made.connections:
            connection.close()
        for process in (*made.ranks, made.launcher):
            process.kill()
            process.wait()


def named(errors):
    """Who has died, by its name and process."""
    found = re.fullmatch(r"(.+) \(process (\d+) on .+\) has died, and the run with it\n", errors)
    assert found, errors
    return found[1], int(found[2])


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(watch, "PATIENCE", 0.1)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_the_first_that_ends_is_named_and_the_others_are_killed(capfd, first):
    with job(3) as ranks:
        ranks.begin()
        ranks.kill(first)
        assert ranks.ended() == [True] * 3
        assert named(capfd.readouterr().err) == (f"rank {10 + first}", ranks.ranks[first].pid)


def test_the_order_counts_where_the_watch_is_late(capfd, monkeypatch):
    """A launcher has killed the others before the watch has a core to look with."""
    epoll = select.epoll
    with job(3) as ranks:

        class LateLook:
            def __init__(self):
                self.ending = epoll()
                self.register = self.ending.register

            def poll(self):
                for number in (1, 2, 0):
                    ranks.kill(number)
                return self.ending.poll()

        monkeypatch.setattr(select, "epoll", LateLook)
        ranks.begin()
        ranks.ended()
    assert named(capfd.readouterr().err)[0] == "rank 11"


def test_ranks_do_not_outlive_their_launcher(capfd):
    """Without it nobody would end them."""
    with job(2) as ranks:
        ranks.begin()
        ranks.launcher.kill()
        assert ranks.ended() == [True, True]
        name, process = named(capfd.readouterr().err)
    assert name in ("the launcher of rank 10", "the launcher of rank 11")
    assert process == ranks.launcher.pid


def test_when_one_says_that_all_is_over_nothing_is_said(capfd):
    with job(2) as ranks:
        ranks.begin()
        ranks.connections[1].sendall(b".")
        ranks.kill(0)
        ranks.watching.join(10)
        assert not ranks.watching.is_alive()
        assert ranks.ranks[1].poll() is None
    assert capfd.readouterr().err == ""


CAPTURED: dict[str, Any] = {"capture_output": True, "text": True, "check": False, "timeout": 30}


# -- the process ------------------------------------------------------------------------------------------------------

RANK = """
import os, signal, sys, time
from npconvnet.training.distributed.watch import Watch
watch = Watch()
watch.join(watch.begin(1), 7)
time.sleep(1)
"""


def test_the_process_outlives_the_rank_that_began_it():
    """As launchers kill whole groups of processes."""
    script = RANK + "os.killpg(0, signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", script], **CAPTURED, start_new_session=True)
    assert done.returncode == -signal.SIGKILL
    assert named(done.stderr)[0] == "rank 7"


def test_a_rank_that_ends_in_peace():
    done = subprocess.run([sys.executable, "-c", RANK + "watch.end(well=True); watch.end(well=True)"], **CAPTURED)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_process_does_not_wait_for_ever(monkeypatch):
    """The ranks never come."""
    monkeypatch.setattr(watch, "PATIENCE", 0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0test-{os.getpid()}")
        listener.listen(1)
        listener.settimeout(0.01)
        with pytest.raises(TimeoutError):
            watch.watch(listener, 1)


def test_a_system_that_cannot_watch(monkeypatch):
    monkeypatch.delattr(os, "pidfd_open")
    nobody = Watch()
    assert nobody.begin(1) is None
    nobody.join(None, 0)
    nobody.end(well=True)
