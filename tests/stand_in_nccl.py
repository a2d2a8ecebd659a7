"""A stand-in for cupy.cuda.nccl on machines without GPUs: what ranks send each other goes by MPI.

What is asked for waits in its stream, as copies do in the stand-in for CuPy, and is done as late as may be: it reads
and writes the memory as it is then. Every rank must ask for the same, in the same order, and what is sent must be
received. Where NCCL would wait for ever, or give nonsense, NcclError is raised on all ranks.

It is stricter than NCCL in that `send` and `recv` go in groups only, and nothing else does.
"""

import functools
import os
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import numpy as np

from tests import stand_in_cupy

NCCL_SUM = 0
NCCL_UINT8, NCCL_FLOAT32, NCCL_FLOAT64 = 1, 7, 8
DTYPES: dict[int, Any] = {NCCL_UINT8: np.uint8, NCCL_FLOAT32: np.float32, NCCL_FLOAT64: np.float64}
NCCL_UNIQUE_ID_BYTES = 128

available = True


class NcclError(RuntimeError):
    """What NCCL refuses."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"NCCL_ERROR_INVALID_USAGE: {reason}")


def get_unique_id() -> bytes:
    """The name of a communicator to be, which all of its ranks must be told."""
    return os.urandom(NCCL_UNIQUE_ID_BYTES)


class NcclCommunicator:
    """The GPU of this thread as number `rank` of `ndev`; returns when all of them are there.

    Every rank of the job must make one at the same time, though not all of them the same.
    """

    def __init__(self, ndev: int, commId: bytes, rank: int) -> None:
        from mpi4py import MPI

        if len(commId) != NCCL_UNIQUE_ID_BYTES:
            raise ValueError(f"commId length {len(commId)} != {NCCL_UNIQUE_ID_BYTES}.")
        self._mpi = MPI.COMM_WORLD.Split(MPI.COMM_WORLD.allgather(commId).index(commId), rank)
        self.rank = rank
        everyone = self._mpi.allgather((ndev, rank, (MPI.Get_processor_name(), stand_in_cupy.Device().id)))
        sizes, ranks, gpus = zip(*everyone, strict=True)
        if {*sizes} != {len(everyone)} or [*ranks] != [*range(len(everyone))]:
            raise NcclError("the ranks don't name the same communicator")
        if len({*gpus}) < len(gpus):
            raise NcclError("Duplicate GPU detected")

    def allReduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int) -> None:  # noqa: N802
        """recvbuf ← Σ sendbuf over the ranks."""
        assert op == NCCL_SUM
        source, target = _memory(sendbuf, count, datatype), _memory(recvbuf, count, datatype)

        def reduce() -> None:
            target[:] = functools.reduce(np.add, self._from_all(("allReduce", count, datatype), source))

        _append(stream, reduce)

    def allGather(self, sendbuf: int, recvbuf: int, count: int, datatype: int, stream: int) -> None:  # noqa: N802
        """recvbuf ← the sendbufs of the ranks, one after the other."""
        source, target = _memory(sendbuf, count, datatype), _memory(recvbuf, count * self._mpi.size, datatype)

        def gather() -> None:
            target[:] = np.concatenate(self._from_all(("allGather", count, datatype), source))

        _append(stream, gather)

    def send(self, sendbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        """To rank `peer`."""
        _open_group(self, stream).sent.append((self.rank, peer, _memory(sendbuf, count, datatype)))

    def recv(self, recvbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        """From rank `peer`."""
        _open_group(self, stream).received.append((peer, self.rank, _memory(recvbuf, count, datatype)))

    def _exchange(self, sent: list["Message"], received: list["Message"]) -> None:
        """Messages from one rank to another arrive in their order."""
        everyone = self._from_all("messages", (sent, [_envelope(message) for message in received]))
        of_all = sorted((message for sent, _ in everyone for message in sent), key=itemgetter(0, 1))
        awaited = sorted((envelope for _, envelopes in everyone for envelope in envelopes), key=itemgetter(0, 1))
        if [_envelope(message) for message in of_all] != awaited:
            raise NcclError("what is sent is not what is received")
        arrived = [numbers for _, receiver, numbers in of_all if receiver == self.rank]
        for (_, _, target), numbers in zip(sorted(received, key=itemgetter(0)), arrived, strict=True):
            target[:] = numbers

    def _from_all(self, question: Any, answer: Any) -> list[Any]:
        """The answers of all ranks, when each of them has come to the `question`."""
        questions, answers = zip(*self._mpi.allgather((question, answer)), strict=True)
        if any(each != question for each in questions):
            raise NcclError(f"the ranks ask for different things: {questions}")
        return list(answers)


#: Sender, receiver, and the numbers.
Message = tuple[int, int, Any]


class _Group:
    """Messages that are under way together, all of one communicator in one stream."""

    def __init__(self) -> None:
        self.place: tuple[NcclCommunicator, int] | None = None
        self.sent: list[Message] = []
        self.received: list[Message] = []


_groups: list[_Group] = []


def groupStart() -> None:  # noqa: N802
    """What is asked for from now on is begun by `groupEnd`."""
    assert not _groups
    _groups.append(_Group())


def groupEnd() -> None:  # noqa: N802
    """Asks for all messages of the group together."""
    group = _groups.pop()
    assert group.place is not None
    communicator, stream = group.place
    _append(stream, lambda: communicator._exchange(group.sent, group.received))


def _open_group(communicator: NcclCommunicator, stream: int) -> _Group:
    if not _groups:
        raise NcclError("messages outside of a group wait for each other")
    (group,) = _groups
    group.place = group.place or (communicator, stream)
    assert group.place == (communicator, stream)
    return group


def _append(stream: int, work: Callable[[], None]) -> None:
    stand_in_cupy.stream_at(stream)._append(work)


def _envelope(message: Message) -> tuple[int, int, str, int]:
    sender, receiver, numbers = message
    return sender, receiver, numbers.dtype.char, numbers.size


def _memory(address: int, count: int, datatype: int) -> Any:
    """`count` numbers on the device."""
    dtype = np.dtype(DTYPES[datatype])
    assert address % dtype.itemsize == 0
    return stand_in_cupy.memory_at(address, count * dtype.itemsize).view(dtype)
