"""A network as the file of another framework describes it: a table of layers and what belongs to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

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

    Raises ValueError or TypeError where the parts do not fit, or the last row does not make class scores.
    """
    network = graph(rows, preprocessing.crop)
    shape = network.shapes[network.last]
    if len(shape) != 1:
        raise ValueError(f"the last layer '{network.last}' makes {shape}, not one score for each class")
    network.load({name: np.asarray(value, np.float32) for name, value in parameters.items()})
    network.preprocessing = preprocessing
    if synsets is not None:
        if len(synsets) != shape[0]:
            raise ValueError(f"{len(synsets)} class names for {shape[0]} classes")
        network.synsets = tuple(synsets)
    return network
