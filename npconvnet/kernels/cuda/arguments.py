"""What a kernel asks of the arrays that it is handed, and does not check itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array, array_module

#: A size that is not known beforehand.
ANY = None


def require(
    kernel: str, name: str, x: Array, dtypes: npt.DTypeLike | Sequence[npt.DTypeLike], shape: Sequence[int | None]
) -> Array:
    """`x` as it is, or copied where it is not contiguous.

    Raises TypeError, with what `kernel` was given for its argument `name` and what it takes, unless `x` has one of the
    `dtypes` and the `shape`, in which ANY stands for any size.
    """
    wanted = dtypes if isinstance(dtypes, (tuple, list)) else (dtypes,)
    fits = len(x.shape) == len(shape) and all(
        wanted_size in (ANY, size) for size, wanted_size in zip(x.shape, shape, strict=True)
    )
    if x.dtype not in wanted or not fits:
        types = " or ".join(np.dtype(dtype).name for dtype in wanted)
        sizes = ", ".join("any" if size is ANY else str(size) for size in shape)
        raise TypeError(f"{kernel}: {name} is {x.dtype} {tuple(x.shape)}, and has to be {types} ({sizes})")
    contiguous: Array = array_module(x).ascontiguousarray(x)
    return contiguous
