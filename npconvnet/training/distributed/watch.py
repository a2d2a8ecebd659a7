"""Names the rank that has died, from a process of its own beside the ranks of a machine.

A launcher that notices a death kills all other ranks within a millisecond, and is content with a process number; under
one that does not notice, they would wait for ever.

Every rank keeps a connection to the watching process. Its end is a death, unless a rank has said before that all is
over. Linux lets go of what a dead process had open from the highest number downwards. So this connection, which gets a
high one, is seen to end before those of the launcher, and before other ranks end because it has noticed.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

#: Seconds that a launcher has to end the other ranks, before they are killed; and that ranks have to come at all.
PATIENCE = 5.0
_ARRIVAL = 60.0
#: A rank says so many bytes when it comes, at most.
_HELLO = 256
#: A file descriptor above those of everything else; or so many below the limit, where that is lower.
_HIGH, _ROOM = 1000, 24
#: What a rank says before it ends.
_WELL, _BADLY = b".", b"!"


class Watch:
    """One rank's connection to the process that watches over its machine.

    Only Linux has what it takes; elsewhere nothing is watched.
    """

    def __init__(self) -> None:
        self._connection: socket.socket | None = None

    def begin(self, ranks: int) -> str | None:
        """Starts the process for so many ranks, and returns its address. One rank of a machine does this."""
        if not hasattr(os, "pidfd_open"):
            return None
        address = f"\0npconvnet-{uuid.uuid4().hex}"  # a name without a file
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(address)
            listener.listen(ranks)
            command = [sys.executable, "-I", __file__, str(listener.fileno()), str(ranks)]  # it needs Python alone
            # In a session of its own: neither Ctrl-C nor the end of the ranks is its end.
            subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[listener.fileno()], start_new_session=True)
        return address

    def join(self, address: str | None, rank: int) -> None:
        """From now on this process is watched, and its launcher."""
        if address is None:
            return
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as low:
            high = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _HIGH if soft > _HIGH + _ROOM else max(0, soft - _ROOM))
        self._connection = socket.socket(fileno=high)
        self._connection.connect(address)
        self._connection.sendall(json.dumps([rank, os.getpid(), os.getppid()]).encode())

    def end(self, *, well: bool) -> None:
        """From now on any rank of this machine may end: all is over, or this rank has said itself what went wrong."""
        if self._connection:
            with suppress(OSError):  # another rank has said so, too
                self._connection.sendall(_WELL if well else _BADLY)


def watch(listener: socket.socket, ranks: int) -> None:
    """Waits until so many ranks have come, then until one has ended, which is named, or says that they may.

    Where that was no good end, ranks that are still there after PATIENCE are killed, and their shared memory is freed.
    """
    watched: dict[int, tuple[str, int]] = {}  # name and process by file descriptor
    connections: dict[int, socket.socket] = {}
    shared: set[Path] = set()
    for _ in range(ranks):
        connection, _ = listener.accept()
        rank, process, launcher = json.loads(connection.recv(_HELLO))
        connections[connection.fileno()] = connection
        watched[connection.fileno()] = f"rank {rank}", process
        watched[os.pidfd_open(launcher)] = f"the launcher of rank {rank}", launcher
        shared |= _shared_memory(process)
    ending = select.epoll()
    for descriptor in watched:
        ending.register(descriptor, select.EPOLLIN)
    ready = [descriptor for descriptor, _ in ending.poll()]  # in the order in which they ended or said something
    said = {connections[descriptor].recv(1) for descriptor in ready if descriptor in connections} - {b""}
    if _WELL in said:
        return
    if not said:
        name, process = watched[ready[0]]
        host = socket.gethostname()
        print(f"{name} (process {process} on {host}) has died, and the run with it", file=sys.stderr, flush=True)
    _end_all({connection: watched[descriptor][1] for descriptor, connection in connections.items()})
    for path in shared:
        path.unlink(missing_ok=True)


def _shared_memory(process: int) -> set[Path]:
    """The files in memory that MPICH's ranks share, and leave behind unless they end well."""
    lines = Path(f"/proc/{process}/maps").read_text().splitlines()
    return {Path(line.split()[-1]) for line in lines if "/dev/shm/mpich" in line and not line.endswith("(deleted)")}


def _end_all(processes: dict[socket.socket, int]) -> None:
    """Waits until the connections have ended; kills the processes of those that do not."""
    deadline = time.monotonic() + PATIENCE
    for connection, process in processes.items():
        while select.select([connection], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if not connection.recv(1):
                break
        else:
            os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    descriptor, ranks = map(int, sys.argv[1:])
    with socket.socket(fileno=descriptor) as listener, suppress(OSError, ValueError):
        listener.settimeout(_ARRIVAL)
        watch(listener, ranks)  # an error: one has ended before all had come, which launchers notice
