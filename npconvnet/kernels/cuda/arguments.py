"""What a kernel asks of the arrays that it is handed, and does not check itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array, array_module

#: A size that is not known beforehand.
ANY = None


def require(
    kernel: str,
    name: str,
    x: Array | None,
    dtypes: npt.DTypeLike | Sequence[npt.DTypeLike],
    shape: Sequence[int | None],
) -> Array:
    """`x` as it is, or copied where it is not contiguous.

    Raises TypeError, with what `kernel` was given for its argument `name` and what it takes, unless `x` is on the GPU
    and has one of the `dtypes` and the `shape`, in which ANY stands for any size.
    """
    checked = _checked(kernel, name, x, dtypes, shape)
    contiguous: Array = array_module(checked).ascontiguousarray(checked)
    return contiguous


def require_in_place(
    kernel: str, name: str, x: Array, dtypes: npt.DTypeLike | Sequence[npt.DTypeLike], shape: Sequence[int | None]
) -> None:
    """Raises TypeError as `require`, and where `x` is not contiguous: nobody would see what is written to a copy."""
    if not _checked(kernel, name, x, dtypes, shape).flags.c_contiguous:
        raise TypeError(f"{kernel}: {name} has strides {x.strides}, and has to be contiguous")


def _checked(
    kernel: str,
    name: str,
    x: Array | None,
    dtypes: npt.DTypeLike | Sequence[npt.DTypeLike],
    shape: Sequence[int | None],
) -> Array:
    if isinstance(x, np.ndarray):  # CuPy would hand it to the kernel by its value, or not at all
        raise TypeError(f"{kernel}: {name} is on the CPU, and has to be on the GPU")
    wanted = dtypes if isinstance(dtypes, (tuple, list)) else (dtypes,)
    if x is None or x.dtype not in wanted or not _fits(x.shape, shape):
        given = "None" if x is None else f"{x.dtype} {tuple(x.shape)}"
        types = " or ".join(np.dtype(dtype).name for dtype in wanted)
        sizes = ", ".join("any" if size is ANY else str(size) for size in shape)
        raise TypeError(f"{kernel}: {name} is {given}, and has to be {types} ({sizes})")
    return x


def _fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(shape) == len(wanted) and all(
        wanted_size in (ANY, size) for size, wanted_size in zip(shape, wanted, strict=True)
    )
