"""Twins: functions of the same stem and name in another room, such as kernels/cpu/relu.py and kernels/cuda/relu.py.

A twin gives what its function gives, by other means.
"""

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


@cache
def cuda_twin(function: Callable[P, R]) -> Callable[P, R]:
    """The one in kernels/cuda; the function itself where there is none."""
    return _twin(function, "kernels.cuda") or function


@cache
def compiled_twin(function: Callable[P, R]) -> Callable[P, R] | None:
    """The one in kernels/compiled; None where there is none, or no numba."""
    return _twin(function, "kernels.compiled") if _has_numba() else None


def compiled_if_installed(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator: in place of `function` runs its compiled twin, where numba is installed."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return (compiled_twin(function) or function)(*args, **kwargs)

    return run


def _twin(function: Callable[P, R], room: str) -> Callable[P, R] | None:
    module = function.__module__.replace("kernels.cpu", room)
    if importlib.util.find_spec(module) is None:
        return None
    return getattr(importlib.import_module(module), function.__name__, None)


@cache
def _has_numba() -> bool:
    """Whether numba is installed and can be used; warns where it is the one and not the other."""
    if importlib.util.find_spec("numba") is None:
        return False
    try:
        importlib.import_module("npconvnet.kernels.compiled")
    except Exception as error:  # of many kinds: it refuses a newer NumPy, its libraries are missing, …
        warnings.warn(f"numba is not used, as it can't be imported: {error}", stacklevel=2)
        return False
    return True
