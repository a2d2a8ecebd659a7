"""Names the rank that has died, in a process of its own beside the ranks of a machine.

A launcher that notices a death kills all other ranks within a millisecond, and is content with a process number; under
one that does not notice, they would wait for ever.

    python -m npconvnet.training.distributed.watch 0:4711 1:4712          ranks, and their processes on this machine
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping

#: Seconds that a launcher has to end the others, before they are killed.
PATIENCE = 5.0


class Watch:
    """Watches the processes of this machine, numbered by rank, until `stop`.

    When one of them ends it prints a line on standard error, and kills those that are still there after PATIENCE. Where
    the system has no file descriptors for processes (Linux has, from 5.3 on), nothing is watched.
    """

    def __init__(self, processes: Mapping[int, int]) -> None:
        self._watcher: subprocess.Popen[bytes] | None = None
        if hasattr(os, "pidfd_open"):
            command = [sys.executable, "-m", __name__, *(f"{rank}:{process}" for rank, process in processes.items())]
            # In a session of its own, neither Ctrl-C nor the end of the ranks is its end.
            self._watcher = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    @property
    def process(self) -> int | None:
        """The process that watches; SIGTERM, from any rank, ends it without a word."""
        return self._watcher.pid if self._watcher else None

    def stop(self) -> None:
        """From now on a rank may end."""
        if self._watcher:
            self._watcher.terminate()
            self._watcher.wait()


def watch(processes: Mapping[int, int]) -> None:
    """Returns when all `processes`, by rank, have ended; says which was the first."""
    there: dict[int, int] = {}  # ranks by file descriptor, which a later process of the same number does not get
    ending = select.epoll()
    try:
        for rank, process in processes.items():
            descriptor = os.pidfd_open(process)
            there[descriptor] = rank
            ending.register(descriptor, select.EPOLLIN)
        (descriptor, _), *_ = ending.poll()  # in the order in which they ended, though others may have followed by now
        rank = there[descriptor]
    except ProcessLookupError:
        pass  # it was gone before it could be watched
    except OSError:
        return  # an old kernel, or a container that does not allow it
    host = socket.gethostname()
    print(
        f"rank {rank} (process {processes[rank]} on {host}) has died, and the run with it", file=sys.stderr, flush=True
    )
    time.sleep(PATIENCE)
    for descriptor in there:
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    watch({int(rank): int(process) for rank, process in (argument.split(":") for argument in sys.argv[1:])})
