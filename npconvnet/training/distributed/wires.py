"""How arrays are summed over the ranks: by MPI on CPUs, by NCCL on GPUs; in float32, or sent as bfloat16.

    float32    x ← Σ x over the ranks, by the engine's own reduction
    bfloat16   of x, rounded, every rank of a machine gets one part from each other, and adds these up in float32; the
               same once more between the machines, with the sums; then all send each other the sums, rounded

An engine's own sum of bfloat16 would round after every addition. This rounds twice, or three times with several
machines, and sends half the bytes. Either way all ranks get the same bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from npconvnet.backend import Array, array_module, module_of, nccl
from npconvnet.errors import InputError
from npconvnet.kernels import from_bfloat16, sum_of_words, to_bfloat16
from npconvnet.training.distributed.ranks import MPIRanks, Ranks, wait

WireFormat = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Group:
    """Ranks that send each other something: how many, and what the engine knows them by."""

    size: int
    communicator: Any


class Wire(ABC):
    """Sums arrays over the ranks. All of them begin the same sums in the same order."""

    def __init__(self, ranks: MPIRanks, form: WireFormat) -> None:
        self._form = form
        groups = levels(ranks) if form == "bfloat16" else [list(range(ranks.size))]
        self._groups = [Group(len(members), self._connect(ranks, members)) for members in groups]

    @abstractmethod
    def begin_sum(self, x: Array) -> Callable[[], None]:
        """Begins to overwrite `x` (n,) by its sum over the ranks; call what it returns before you look at `x`."""

    @abstractmethod
    def _connect(self, ranks: MPIRanks, members: Sequence[int]) -> Any:
        """The engine's communicator for these ranks, of which this one is one. All ranks call it at once."""

    @abstractmethod
    def _all_reduce(self, group: Group, x: Array) -> None:
        """x ← Σ x."""

    @abstractmethod
    def _all_to_all(self, group: Group, x: Array) -> Array:
        """Row i of `x` (size, n) goes to the i-th of the group; what has come from it is row i of the result."""

    @abstractmethod
    def _all_gather(self, group: Group, x: Array) -> Array:
        """(size, n): the `x` (n,) of each."""

    def _sum(self, x: Array) -> None:
        if self._form == "float32":
            self._all_reduce(self._groups[0], x)
        else:
            x[:] = from_bfloat16(self._sum_of_words(to_bfloat16(x), self._groups))

    def _sum_of_words(self, words: Array, groups: Sequence[Group]) -> Array:
        """The sum of `words` (n,), bfloat16, over all the `groups`: one after the other."""
        if not groups:
            return words
        group, *others = groups
        part = sum_of_words(self._all_to_all(group, _in_rows(words, group.size)))
        part_of_all = self._sum_of_words(part, others)
        everyone: Array = self._all_gather(group, part_of_all).reshape(-1)[: len(words)]
        return everyone


class MPIWire(Wire):
    """Non-blocking collectives, in a thread that looks after them: MPI gets on only while it is looked at."""

    def __init__(self, ranks: MPIRanks, form: WireFormat) -> None:
        """Raises InputError where MPI does not let several threads call it."""
        from mpi4py import MPI

        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise InputError("this MPI is not for threads (MPI_THREAD_MULTIPLE); use another: pip install mpich")
        super().__init__(ranks, form)
        self._thread = ThreadPoolExecutor(1, "npconvnet-reduction")

    def begin_sum(self, x: Array) -> Callable[[], None]:
        """In the thread; returns the way to wait for it."""
        return self._thread.submit(self._sum, x).result

    def _connect(self, ranks: MPIRanks, members: Sequence[int]) -> Any:
        # A communicator of its own: its collectives and those of other threads don't get mixed up.
        return ranks.communicator.Create_group(ranks.communicator.group.Incl(members))

    def _all_reduce(self, group: Group, x: Array) -> None:
        from mpi4py import MPI

        wait(group.communicator.Iallreduce(MPI.IN_PLACE, x))

    def _all_to_all(self, group: Group, x: Array) -> Array:
        arrived = np.empty_like(x)
        wait(group.communicator.Ialltoall(x, arrived))
        return arrived

    def _all_gather(self, group: Group, x: Array) -> Array:
        everyone = np.empty((group.size, *x.shape), x.dtype)
        wait(group.communicator.Iallgather(x, everyone))
        return everyone


class NCCLWire(Wire):
    """NCCL, on a stream beside that of the backward. One rank a GPU, which is this thread's current device."""

    def __init__(self, ranks: MPIRanks, form: WireFormat) -> None:
        """Raises InputError where CuPy finds no NCCL, and where NCCL does not connect the ranks."""
        self._gpu, self._nccl = module_of("gpu"), nccl()
        if not self._nccl.available:
            raise InputError(
                "cupy finds no NCCL, which sums over GPUs; run: pip install nvidia-nccl-cu13 (with cupy-cuda12x: "
                "nvidia-nccl-cu12)"
            )
        self._stream = self._gpu.cuda.Stream(non_blocking=True)
        super().__init__(ranks, form)

    def begin_sum(self, x: Array) -> Callable[[], None]:
        """On the wire's stream, after all that is on the current one by now; to wait makes the current one wait."""
        current = self._gpu.cuda.get_current_stream()
        self._stream.wait_event(current.record())
        with self._stream:
            self._sum(x)
        summed = self._stream.record()
        return lambda: current.wait_event(summed)

    def _connect(self, ranks: MPIRanks, members: Sequence[int]) -> Any:
        try:
            names = ranks.gather(self._nccl.get_unique_id() if ranks.rank == members[0] else None)
            return self._nccl.NcclCommunicator(len(members), names[members[0]], members.index(ranks.rank))
        except self._nccl.NcclError as error:
            raise InputError(
                f"NCCL does not connect the ranks ({error}); run with NCCL_DEBUG=INFO to see why"
            ) from error

    def _all_reduce(self, group: Group, x: Any) -> None:
        of = {"f": self._nccl.NCCL_FLOAT32, "d": self._nccl.NCCL_FLOAT64}[x.dtype.char]
        group.communicator.allReduce(x.data.ptr, x.data.ptr, x.size, of, self._nccl.NCCL_SUM, self._stream.ptr)

    def _all_to_all(self, group: Group, x: Any) -> Any:
        arrived: Any = self._gpu.empty_like(x)
        row = x[0].nbytes, self._nccl.NCCL_UINT8
        self._nccl.groupStart()
        for peer in range(group.size):
            group.communicator.send(x[peer].data.ptr, *row, peer, self._stream.ptr)
            group.communicator.recv(arrived[peer].data.ptr, *row, peer, self._stream.ptr)
        self._nccl.groupEnd()
        return arrived

    def _all_gather(self, group: Group, x: Any) -> Any:
        everyone: Any = self._gpu.empty((group.size, *x.shape), x.dtype)
        of_bytes = x.nbytes, self._nccl.NCCL_UINT8
        group.communicator.allGather(x.data.ptr, everyone.data.ptr, *of_bytes, self._stream.ptr)
        return everyone


def levels(ranks: Ranks) -> list[list[int]]:
    """The ranks of this one's host, and those that have its place on each host; groups of one are left out.

    Where hosts have different numbers of ranks, all ranks are one group.
    """
    hosts: dict[str, list[int]] = {}
    for rank, host in enumerate(ranks.gather(ranks.host)):
        hosts.setdefault(host, []).append(rank)
    if len({len(members) for members in hosts.values()}) > 1:
        return [list(range(ranks.size))]
    within = hosts[ranks.host]
    between = [members[within.index(ranks.rank)] for members in hosts.values()]
    return [group for group in (within, between) if len(group) > 1]


def _in_rows(words: Array, count: int) -> Array:
    """(count, n): the `words` in equal parts; where they do not go into such, a copy that zeros fill up."""
    missing = -len(words) % count
    if missing:
        xp = array_module(words)
        words = xp.concatenate([words, xp.zeros(missing, words.dtype)])
    return words.reshape(count, -1)
