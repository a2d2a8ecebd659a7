"""Who trains the same network, and what the processes tell each other, by MPI.

A process that nobody started with others is `Ranks` itself: it sends nothing, and needs no MPI.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import numpy as np

from npconvnet.backend import Array, array_module, to_host
from npconvnet.errors import InputError
from npconvnet.training.distributed.launch import enter_mpi, started_by_mpi
from npconvnet.training.distributed.watch import Watch

T = TypeVar("T")

#: Seconds that a rank waits before it reports its failure: where all have failed alike, the first speaks for all.
GRACE = 1.0
#: Seconds that a launcher has to pass on a rank's last words; when it ends the ranks, what is on its way is lost.
DELIVERY = 0.3
#: Seconds between two looks at what has not come at once: a rank that waits leaves its core to those that compute.
PAUSE = 5e-5
_LOOKS_WITHOUT_PAUSE = 100
#: Where launchers write how many they started.
_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")


class Ranks:
    """The processes of a run, from 0 to `size` − 1; `rank` is this one's number, and `local_rank` that on its machine.
    `on_the_same_cores` counts those that compute on this one's cores, itself included.

    What all of them must call, and in the same order, says so by its name: every method but `share` and `fail`.
    """

    rank = 0
    size = 1
    local_rank = 0
    on_the_same_cores = 1
    host = socket.gethostname()

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that speaks and writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """The part of `count` things in a row that is this rank's; all parts together are the whole."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def gather(self, x: T) -> list[T]:
        """What each rank gives, in the order of ranks."""
        return [x]

    def sum(self, *numbers: float) -> tuple[float, ...]:
        """Each of the `numbers`, summed over the ranks in float64."""
        return numbers

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` gives on the first rank, which alone calls it."""
        return make()

    def after_first(self, make: Callable[[], T]) -> T:
        """What `make` gives here; the other ranks call it when the first is done with it."""
        return make()

    def copy_from_first(self, arrays: Iterable[Array]) -> None:
        """Overwrites `arrays` by those of the first rank."""

    def collect(self, items: Iterable[T]) -> Iterator[T]:
        """On the first rank the items of all ranks, as they come. The others send theirs and get none."""
        yield from items

    def fail(self, line: str, status: int) -> NoReturn:
        """Prints `line` and ends this process, and with it all ranks."""
        print(line, file=sys.stderr, flush=True)
        sys.exit(status)


ALONE = Ranks()


@cache
def join() -> Ranks:
    """The ranks that this process was started with; ALONE, if with none.

    Raises InputError where it was, but MPI is not installed, or is not that of the launcher.
    """
    ranks = _world() if enter_mpi() else ALONE
    if isinstance(ranks, MPIRanks):
        ranks.meet()
    return ranks


@cache
def _world() -> Ranks:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        reason, *_ = str(error).splitlines() or [""]
        raise InputError(
            f"started as one of several ranks, and MPI does not load ({reason}); run: pip install mpi4py mpich"
        ) from error
    if MPI.COMM_WORLD.size == 1:
        started = next(filter(None, map(os.environ.get, _SIZES)), "1")
        if started != "1":
            raise InputError(
                f"{started} ranks were started, and MPI knows of this one alone: mpi4py has loaded another MPI than "
                "the launcher's; start them by the mpiexec beside python, or see docs/cluster.md"
            )
        return ALONE
    return MPIRanks(MPI.COMM_WORLD)


def fail(line: str, status: int) -> NoReturn:
    """Prints `line` and ends this process, and all that it was started with, with exit status `status`."""
    try:
        ranks = _world() if started_by_mpi() else ALONE
    except InputError:
        ranks = ALONE
    ranks.fail(line, status)


class MPIRanks(Ranks):
    """The ranks of an MPI communicator. When one of them fails or dies, all are ended, and a line says which it was."""

    def __init__(self, communicator: Any) -> None:
        self.communicator = communicator
        self.rank, self.size = communicator.rank, communicator.size
        self._watch = Watch()
        sys.excepthook = self._fail_with_traceback

    def meet(self) -> None:
        """Finds out who is on which machine, and has it watched; all ranks call it, once and first."""
        everyone = self.gather((_machine(), _cores()))
        here = [rank for rank, (machine, _) in enumerate(everyone) if machine == _machine()]
        self.local_rank = here.index(self.rank)
        self.on_the_same_cores = sum(not _cores().isdisjoint(everyone[rank][1]) for rank in here)
        addresses = self.gather(self._watch.begin(len(here)) if self.local_rank == 0 else None)
        self._watch.join(addresses[here[0]], self.rank)
        atexit.register(self._leave)

    def gather(self, x: T) -> list[T]:
        """By pickle."""
        self._wait_for_all()
        everyone: list[T] = self.communicator.allgather(x)
        return everyone

    def sum(self, *numbers: float) -> tuple[float, ...]:
        """Alike on all ranks, to the last bit."""
        own = np.array(numbers, np.float64)
        total = np.empty_like(own)
        wait(self.communicator.Iallreduce(own, total))
        return tuple(total.tolist())

    def from_first(self, make: Callable[[], T]) -> T:
        """By pickle."""
        made = make() if self.is_first else None
        self._wait_for_all()
        of_first: T = self.communicator.bcast(made)
        return of_first

    def after_first(self, make: Callable[[], T]) -> T:
        """All others at once."""
        if self.is_first:
            made = make()
            self._wait_for_all()
            return made
        self._wait_for_all()
        return make()

    def copy_from_first(self, arrays: Iterable[Array]) -> None:
        """By way of the host."""
        for array in arrays:
            on_host = np.ascontiguousarray(to_host(array))
            wait(self.communicator.Ibcast(on_host))
            if on_host is not array:
                array[...] = array_module(array).asarray(on_host)

    def collect(self, items: Iterable[T]) -> Iterator[T]:
        """By pickle, whenever the first rank has made another item of its own."""
        if self.is_first:
            yield from self._beside_what_arrives(items)
        else:
            for item in items:
                self.communicator.send(item, dest=0, tag=_ITEM)
            self.communicator.send(None, dest=0, tag=_END)

    def fail(self, line: str, status: int) -> NoReturn:
        """Names this rank."""
        if not self.is_first:
            time.sleep(GRACE)
        self._abort(line, status)

    def _beside_what_arrives(self, items: Iterable[T]) -> Iterator[T]:
        from mpi4py import MPI

        message, sending = MPI.Status(), self.size - 1

        def arrived() -> Iterator[T]:
            nonlocal sending
            while sending and self.communicator.iprobe(status=message):
                item = self.communicator.recv(source=message.source, tag=message.tag)
                if message.tag == _END:
                    sending -= 1
                else:
                    yield item

        for item in items:
            yield item
            yield from arrived()
        while sending:
            yield from arrived()
            time.sleep(PAUSE)

    def _wait_for_all(self) -> None:
        """Returns when all ranks have come here. What blocks in MPI keeps a core busy; this does not."""
        wait(self.communicator.Ibarrier())

    def _leave(self) -> None:
        self._wait_for_all()
        self._watch.end(well=True)
        self._wait_for_all()

    def _fail_with_traceback(
        self, kind: type[BaseException], error: BaseException, where: TracebackType | None
    ) -> None:
        self._abort("".join(traceback.format_exception(kind, error, where)), 1)

    def _abort(self, line: str, status: int) -> NoReturn:
        print(f"rank {self.rank} on {self.host}: {line}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        self._watch.end(well=False)
        time.sleep(DELIVERY)
        self.communicator.Abort(status)
        os._exit(status)  # MPICH comes back from there while its launcher ends the others


_ITEM, _END = range(2)


def _machine() -> tuple[str, int]:
    """What processes have in common that can see each other: two containers may go by the name of one host."""
    processes = Path("/proc/self/ns/pid")
    return Ranks.host, processes.stat().st_ino if processes.exists() else 0


def _cores() -> set[int]:
    """Those that this process may use; a launcher may have bound it to some of them."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def wait(request: Any) -> None:
    """Returns when an MPI `request` is done. MPI's own waiting would keep a core busy."""
    looks = 0
    while not request.Test():
        looks += 1
        if looks > _LOOKS_WITHOUT_PAUSE:
            time.sleep(PAUSE)
