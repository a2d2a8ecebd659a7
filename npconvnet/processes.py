"""Work shared among processes that end with the one that started them.

Python computes on one core at a time, so what NumPy does not do is divided among processes of one thread each. Ctrl-C
is the business of the one that started them; when it stops, they stop, and when it is killed, they end.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait as wait_for_any
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from npconvnet.errors import InputError
from npconvnet.memory import keep_freed_memory
from npconvnet.parallel import one_blas_thread, use_threads

R = TypeVar("R")
T = TypeVar("T")

#: Progress bars move after so many seconds.
_TICK = 0.2
#: Tasks that are taken ahead for each process, so that none waits for the next.
_TASKS_AHEAD = 2
# spawn: forking a process that has threads (BLAS, a GPU's driver) is not safe.
_SPAWN = multiprocessing.get_context("spawn")


@contextmanager
def process_pool(
    workers: int, initializer: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """A pool of new processes; `initializer(*arguments)` is run in each before its first task.

    After an error or Ctrl-C no further task is begun. Raises InputError where a process dies.
    """
    with ProcessPoolExecutor(workers, _SPAWN, _begin, (initializer, arguments)) as pool:
        try:
            _start(pool, workers)
            yield pool
        except BrokenProcessPool as error:
            raise InputError("a process died, perhaps for lack of memory; run it again with fewer processes") from error
        finally:
            pool.shutdown(cancel_futures=True)  # nobody may still be at work when the caller cleans up


def _start(pool: ProcessPoolExecutor, workers: int) -> None:
    """Starts all processes with Ctrl-C blocked, as each would print a traceback if one came before `_begin` runs."""
    if not hasattr(signal, "pthread_sigmask"):
        return  # on Windows; there the first tasks start them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for _ in range(workers):
            pool.submit(_nothing)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _nothing() -> None:
    """The first task: it makes the pool start another process."""


def _begin(initializer: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        wait_for_any([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    keep_freed_memory()
    threadpool_limits(1)  # of what is loaded by now, with the arguments of the initializer
    use_threads(1)
    if initializer is not None:
        initializer(*arguments)


# ---- Long tasks -----------------------------------------------------------------------------------------------------

#: What a task calls after each of its steps.
Step = Callable[[], None]


def in_processes(
    function: Callable[[T, Step], R], tasks: Iterable[T], count: int, workers: int, bar: tqdm[Any]
) -> list[R]:
    """[function(task, step) for each of the `count` tasks], in their order, from so many processes.

    `function` calls `step()` whenever it has done a part of its task; these calls move `bar`, and are the moments at
    which it can be stopped, in the middle of the task. It is, as soon as another task raises an error, or at Ctrl-C.
    Few tasks are taken from `tasks` ahead of time. Raises InputError where a process dies.
    """
    if not count:
        return []
    workers = min(workers, count)
    steps = _Steps(count)
    futures: list[Future[R]] = []
    waiting: set[Future[R]] = set()
    began = bar.n

    def wait_for_some() -> None:
        nonlocal waiting
        done, waiting = wait(waiting, _TICK, FIRST_COMPLETED)
        bar.update(began + steps.done - bar.n)
        for future in done:
            future.result()  # raises what the task raised

    with process_pool(workers, _share, (steps,)) as pool:
        try:
            for number, task in enumerate(tasks):
                futures.append(pool.submit(_work, function, task, number))
                waiting.add(futures[-1])
                while len(waiting) >= _TASKS_AHEAD * workers:
                    wait_for_some()
            while waiting:
                wait_for_some()
        except BaseException:
            steps.stop()
            raise
    return [future.result() for future in futures]


class _StoppedError(Exception):
    """Ends a task in the middle; nobody waits for its result."""


class _Steps:
    """The steps of each task that are done, in memory that all processes share; and whether they are to stop.

    There is no lock, which a process that is killed could keep: each number has one writer.
    """

    def __init__(self, tasks: int) -> None:
        self._done = _SPAWN.RawArray("q", tasks)
        self._stopped = _SPAWN.RawValue("b", False)

    @property
    def done(self) -> int:
        return sum(self._done)

    def stop(self) -> None:
        self._stopped.value = True

    def take(self, task: int) -> None:
        if self._stopped.value:
            raise _StoppedError
        self._done[task] += 1


def _share(steps: _Steps) -> None:
    global _steps
    _steps = steps


def _work(function: Callable[[T, Step], R], task: T, number: int) -> R:
    with one_blas_thread():  # BLAS may have come with the function
        return function(task, partial(_steps.take, number))


#: Of the tasks of the process that started this one.
_steps: _Steps
