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
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import suppress

#: Seconds that a launcher has to end the other ranks, before they are killed; and that ranks have to come at all.
PATIENCE = 5.0
_ARRIVAL = 60.0
#: A rank says so many bytes when it comes, at most.
_HELLO = 256
#: A file descriptor above those of everything else, and below the 1024 that processes may have at least.
_HIGH = 1000


class Watch:
    """One rank's connection to the process that watches over its machine.

    Only Linux has what it takes; elsewhere nothing is watched.
    """

    def __init__(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            high = fcntl.fcntl(connection, fcntl.F_DUPFD_CLOEXEC, _HIGH)
        self._connection = socket.socket(fileno=high)

    def begin(self, ranks: int) -> str | None:
        """Starts the process for so many ranks, and returns its address. One rank of a machine does this."""
        if not hasattr(os, "pidfd_open"):
            return None
        address = f"\0npconvnet-{uuid.uuid4().hex}"  # a name without a file
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(address)
            listener.listen(ranks)
            command = [sys.executable, "-m", __name__, str(listener.fileno()), str(ranks)]
            # In a session of its own: neither Ctrl-C nor the end of the ranks is its end.
            subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[listener.fileno()], start_new_session=True)
        return address

    def join(self, address: str | None, rank: int) -> None:
        """From now on this process is watched, and its launcher."""
        if address is not None:
            self._connection.connect(address)
            self._connection.sendall(json.dumps([rank, os.getpid(), os.getppid()]).encode())

    def stop(self) -> None:
        """From now on any rank of this machine may end."""
        with suppress(OSError):  # nothing is watched, or not any more
            self._connection.sendall(b".")


def watch(listener: socket.socket, ranks: int) -> None:
    """Waits until so many ranks have come, then until one says that all is over, or has ended: that one is named.

    The others are killed if they are still there after PATIENCE.
    """
    watched: dict[int, tuple[str, int]] = {}  # name and process by file descriptor
    connections: dict[int, socket.socket] = {}
    for _ in range(ranks):
        connection, _ = listener.accept()
        rank, process, launcher = json.loads(connection.recv(_HELLO))
        connections[connection.fileno()] = connection
        watched[connection.fileno()] = f"rank {rank}", process
        watched[os.pidfd_open(launcher)] = f"the launcher of rank {rank}", launcher
    ending = select.epoll()
    for descriptor in watched:
        ending.register(descriptor, select.EPOLLIN)
    ready = [descriptor for descriptor, _ in ending.poll()]  # in the order in which they ended or said something
    if any(connections[descriptor].recv(1) for descriptor in ready if descriptor in connections):
        return
    name, process = watched[ready[0]]
    host = socket.gethostname()
    print(f"{name} (process {process} on {host}) has died, and the run with it", file=sys.stderr, flush=True)
    time.sleep(PATIENCE)
    for descriptor, connection in connections.items():
        _, process = watched[descriptor]
        has_ended, _, _ = select.select([connection], [], [], 0)
        if not has_ended:
            os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    descriptor, ranks = map(int, sys.argv[1:])
    with socket.socket(fileno=descriptor) as listener, suppress(TimeoutError, ValueError, ProcessLookupError):
        listener.settimeout(_ARRIVAL)
        watch(listener, ranks)  # one of them has ended before all had come: launchers notice that
