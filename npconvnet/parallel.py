"""Two things at once, such as the halves of a batch, each on one thread, while BLAS is held to its share of the cores.

NumPy runs most of its operations on one core, and only its matrix products on several. Halving the batch instead gives
every operation two cores, and no matrix product waits for a thread that another program has pushed aside. There are
always two halves, on one core too. How BLAS rounds depends on its own number of threads, which is half of what it was
allowed before: 1 on two cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from npconvnet.backend import Array, is_on_gpu

R = TypeVar("R")
T = TypeVar("T")


def in_halves(function: Callable[..., R], *arrays: Array) -> list[R]:
    """[function(first halves), function(second halves)] of `arrays` (N, ...), with the half's number in front.

    One part, whole, for arrays on a GPU and for fewer than two images.
    """
    count = len(arrays[0])
    if is_on_gpu(arrays[0]) or count < 2:
        return [function(0, *arrays)]
    cuts = (slice(0, count // 2), slice(count // 2, count))
    halves = [(half, *(array[cut] for array in arrays)) for half, cut in enumerate(cuts)]
    return two_at_once(lambda half: function(*half), halves)


def two_at_once(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """[function(item) for each of `items`], two at a time; `function` may not come here again, or it waits forever."""
    with _blas().limit(limits=max(1, blas_threads() // 2), user_api="blas"):
        futures = [_pool().submit(copy_context().run, function, item) for item in items]  # keeps np.errstate
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            for future in futures:
                future.cancel()
            wait(futures)  # none may go on after the limit is lifted
        return [future.result() for future in futures if not future.cancelled()]


@cache
def blas_threads() -> int:
    """The threads that BLAS may use, by the machine, the process's cores and the environment, when first asked."""
    return max((library["num_threads"] for library in _blas().info() if library["user_api"] == "blas"), default=1)


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, "half-batch")
