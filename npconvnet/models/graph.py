"""A network whose table stands in its weight file: for architectures that come from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from npconvnet.layers import (
    LRN,
    Add,
    AveragePool2d,
    Concatenate,
    Conv2d,
    Dropout,
    GlobalAveragePool2d,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
)
from npconvnet.network import Network, Row
from npconvnet.preprocessing import Preprocessing

#: The layers that a table can name.
LAYERS: dict[str, type[Layer]] = {
    layer.__name__: layer
    for layer in (
        Add,
        AveragePool2d,
        Concatenate,
        Conv2d,
        Dropout,
        GlobalAveragePool2d,
        LRN,
        Linear,
        MaxPool2d,
        ReLU,
    )
}

#: (name, kind of layer, its arguments, names of its inputs): plain data, which JSON can hold.
PlainRow = Sequence[Any]


def graph(rows: Sequence[PlainRow], crop: int) -> Network:
    """The network of the table `rows` on `crop` × `crop` RGB.

    Each row is (name, kind, arguments, inputs), such as ("conv1", "Conv2d", {"in_channels": 3, "filters": 64,
    "window": 11, "stride": 4}, ("input",)); padding is a number or [top, bottom, left, right]. Raises ValueError or
    TypeError for layers and arguments that do not exist, and where the rows do not fit each other.
    """
    plain = [[name, kind, dict(arguments), list(inputs)] for name, kind, arguments, inputs in rows]
    return Network(
        "graph",
        [_row(*row) for row in plain],
        Preprocessing(resize=round(crop * 256 / 224), crop=crop),
        options={"rows": plain, "crop": crop},
    )


def _row(name: str, kind: str, arguments: dict[str, Any], inputs: list[str]) -> Row:
    if kind not in LAYERS:
        raise ValueError(f"row '{name}': no layer is called '{kind}'; there are {', '.join(LAYERS)}")
    # JSON has no tuples.
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    try:
        return name, LAYERS[kind](**arguments), tuple(inputs)
    except TypeError as error:
        raise TypeError(f"row '{name}': {error}") from None
