"""A network as the file of another framework describes it: a table of layers and what belongs to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from npconvnet.errors import InputError
from npconvnet.models.graph import PlainRow, graph
from npconvnet.network import Network
from npconvnet.preprocessing import Preprocessing
from npconvnet.synsets import Synset


def assemble(
    rows: Sequence[PlainRow],
    parameters: Mapping[str, npt.NDArray[Any]],
    preprocessing: Preprocessing,
    synsets: Sequence[Synset] | None = None,
) -> Network:
    """The network of `rows` (as in models/graph.py) with `parameters`, as "layer.parameter", in float32.

    Raises ValueError or TypeError where the parts do not fit, the last row does not make class scores, or no row has
    weights.
    """
    network = graph(rows, preprocessing.crop)
    shape = network.shapes[network.last]
    if len(shape) != 1:
        raise ValueError(f"the last layer '{network.last}' makes {shape}, not one score for each class")
    if not network.parameters:
        raise ValueError("none of its layers has weights")
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 can't hold is infinite
        network.load({name: np.asarray(value, np.float32) for name, value in parameters.items()})
    network.preprocessing = preprocessing
    if synsets is not None:
        if len(synsets) != shape[0]:
            raise ValueError(f"{len(synsets)} class names for {shape[0]} classes")
        network.synsets = tuple(synsets)
    return network


def unique_name(name: str, taken: Collection[str]) -> str:
    """`name`, with a number behind it if it is one of `taken`."""
    numbered = (f"{name}_{number}" for number in count(2))
    return next(candidate for candidate in chain([name], numbered) if candidate not in taken)


def read_contents(path: Path, largest: int) -> bytes:
    """The bytes of the file `path`; raises InputError where there are none, or more than `largest`."""
    try:
        size = path.stat().st_size
        if size == 0:
            raise InputError(f"{path}: is empty")
        if size > largest:
            raise InputError(f"{path}: larger than {largest >> 10} KiB, which no such file is")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except MemoryError as error:
        raise InputError(f"{path}: larger than the memory that is left") from error
