"""Many things at once, each on one core, and the same bits however many cores there are.

NumPy runs its matrix products on several cores and everything else on one. Here the work is cut into parts instead,
and the threads take one part after the other, so that everything has all cores. The parts depend on the work alone,
BLAS is held to one thread while they are computed, and whoever adds them up does it in their order: a sum is rounded
alike on one core and on sixteen.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache, lru_cache
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

R = TypeVar("R")
T = TypeVar("T")


def in_parallel(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """[function(item) for each of `items`], as many at a time as there are threads.

    In a call from within a call, the items follow each other. After an error no further item is begun.
    """
    items, at_once = list(items), threads()
    with one_blas_thread():
        if at_once == 1 or len(items) < 2 or _of_this_thread.works_for_another:
            return [function(item) for item in items]
        pool = _pool(at_once)
        futures: list[Future[R]] = []
        try:
            futures += (pool.submit(copy_context().run, function, item) for item in items)  # keeps np.errstate
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            for future in futures:
                future.cancel()
            wait(futures)  # none may go on after BLAS has its threads again
        return [future.result() for future in futures if not future.cancelled()]


def even_parts(length: int, count: int) -> list[slice]:
    """The indices below `length` in `count` parts of nearly one size, in their order."""
    return [slice(length * number // count, length * (number + 1) // count) for number in range(count)]


def threads() -> int:
    """How many parts are computed at once: this process's share of what BLAS was allowed at first, or `use_threads`."""
    with _settings.lock:
        return _settings.threads or max(1, _blas_threads() // _settings.processes)


def use_threads(count: int | None) -> None:
    """Computes `count` parts at once from now on; None goes back to the machine's own number."""
    _settings.threads = count


def share_cores(processes: int) -> None:
    """Leaves their part of the cores to the others of so many `processes` that compute on the same ones."""
    _settings.processes = processes


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Holds BLAS to one thread; when the last of those who hold it lets go, it has as many as before."""
    with _settings.lock:
        _blas_threads()  # counted before they are held
        if not _settings.holders:
            _settings.limit = _blas().limit(limits=1, user_api="blas")
        _settings.holders += 1
    try:
        yield
    finally:
        with _settings.lock:
            _settings.holders -= 1
            if not _settings.holders:
                _settings.limit.restore_original_limits()


class _Settings:
    """What all threads of the process share, as BLAS's own number of threads is."""

    def __init__(self) -> None:
        self.threads: int | None = None
        self.processes = 1
        self.lock = threading.Lock()
        self.holders = 0
        self.limit: Any = None


class _OfThisThread(threading.local):
    works_for_another = False


_settings = _Settings()
_of_this_thread = _OfThisThread()


@cache
def _blas_threads() -> int:
    """The threads that BLAS may use, by the machine, the process's cores and the environment, when first asked."""
    counts = [library["num_threads"] for library in _blas().info() if library["user_api"] == "blas"]
    return max(counts, default=os.cpu_count() or 1)


def _blas() -> ThreadpoolController:
    """All BLAS that is loaded: NumPy's, SciPy's, and others that come with modules imported later."""
    return _blas_beside(len(sys.modules))


@lru_cache(maxsize=1)
def _blas_beside(_modules: int) -> ThreadpoolController:
    return ThreadpoolController()


@cache
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "npconvnet", _begin)


def _begin() -> None:
    _of_this_thread.works_for_another = True


def _after_fork() -> None:
    """The child has none of the parent's threads, and nobody in it holds BLAS."""
    _pool.cache_clear()
    _settings.lock, _settings.holders = threading.Lock(), 0
    _of_this_thread.works_for_another = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
