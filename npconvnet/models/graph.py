"""A network whose table stands in its weight file: for architectures that come from elsewhere.

The file may be damaged or hostile. So every argument is checked before a layer is made, and nothing is made of sizes
that no network for photographs comes near.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from npconvnet.layers import (
    LRN,
    Add,
    AveragePool2d,
    Concatenate,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAveragePool2d,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Shape,
)
from npconvnet.network import INPUT, Network
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
        Flatten,
        GlobalAveragePool2d,
        LRN,
        Linear,
        MaxPool2d,
        ReLU,
    )
}

#: The most rows; the most weights in all of them together; the most numbers in one activation of one image; classes.
MOST_ROWS, MOST_WEIGHTS, MOST_NUMBERS, MOST_CLASSES = 1 << 12, 1 << 30, 1 << 28, 1 << 20
#: No size, stride or padding is larger.
LARGEST = 1 << 24

#: (name, kind of layer, its arguments, names of its inputs): plain data, which JSON can hold.
PlainRow = Sequence[Any]


def graph(rows: Sequence[PlainRow], crop: int) -> Network:
    """The network of the table `rows` on `crop` × `crop` RGB.

    Each row is (name, kind, arguments, inputs), such as ("conv1", "Conv2d", {"in_channels": 3, "filters": 64,
    "window": 11, "stride": 4}, ("input",)); a window is a number or [R, S], padding a number or [top, bottom, left,
    right]. Raises ValueError or TypeError for layers and arguments that do not exist or make no sense, where the rows
    do not fit each other, and for sizes beyond all measure.
    """
    _require("crop", crop, _POSITIVE)
    if not 0 < len(rows) <= MOST_ROWS:
        raise ValueError(f"the table has {len(rows)} rows, and a network has 1 to {MOST_ROWS}")
    plain = [[name, kind, dict(arguments), list(inputs)] for name, kind, arguments, inputs in rows]
    for row in plain:
        _check_row(*row)
    if sum(_weights(**arguments) for _, _, arguments, _ in plain) > MOST_WEIGHTS:
        raise ValueError(f"the table asks for more than {MOST_WEIGHTS} weights")
    made = [_row(*row) for row in plain]
    _check_sizes(made, crop)
    preprocessing = Preprocessing(resize=round(crop * 256 / 224), crop=crop)
    return Network("graph", made, preprocessing, options={"rows": plain, "crop": crop})


def make_layer(kind: str, arguments: Mapping[str, Any]) -> Layer:
    """The layer of one row; raises ValueError or TypeError where there is no such layer, as `graph` does."""
    if kind not in LAYERS:
        raise ValueError(f"no layer is called {kind!r:.80}; there are {', '.join(LAYERS)}")
    _check_arguments(arguments)
    # JSON has no tuples.
    return LAYERS[kind](**{key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()})


def _row(name: str, kind: str, arguments: dict[str, Any], inputs: list[str]) -> tuple[str, Layer, tuple[str, ...]]:
    try:
        return name, make_layer(kind, arguments), tuple(inputs)
    except (TypeError, ValueError) as error:
        raise ValueError(f"row '{name}': {error}") from None


# -- arguments -------------------------------------------------------------------------------------------------------

#: What an argument has to be: in words, and as a test.
Requirement = tuple[str, Callable[[Any], bool]]


def _whole(value: Any, low: int) -> bool:
    return type(value) is int and low <= value <= LARGEST


def _several(value: Any, count: int, low: int) -> bool:
    """Whether it is one whole number, or `count` of them."""
    if isinstance(value, (list, tuple)):
        return len(value) == count and all(_whole(part, low) for part in value)
    return _whole(value, low)


def _number(value: Any) -> bool:
    return type(value) is int or (isinstance(value, float) and math.isfinite(value))


_POSITIVE: Requirement = (f"a whole number from 1 to {LARGEST}", lambda value: _whole(value, 1))
_WINDOW: Requirement = (f"one or two whole numbers from 1 to {LARGEST}", lambda value: _several(value, 2, 1))
_PADDING: Requirement = (f"one or four whole numbers from 0 to {LARGEST}", lambda value: _several(value, 4, 0))
_NUMBER: Requirement = ("a number", _number)

_ARGUMENTS: dict[str, Requirement] = {
    **dict.fromkeys(("in_channels", "filters", "stride", "groups", "in_features", "out_features", "size"), _POSITIVE),
    "window": _WINDOW,
    "padding": _PADDING,
    "rounding": ("'floor' or 'ceil'", lambda value: value in ("floor", "ceil")),
    "count_padding": ("true or false", lambda value: isinstance(value, bool)),
    "rate": ("a number from 0 to below 1", lambda value: _number(value) and 0 <= value < 1),
    **dict.fromkeys(("alpha_per_element", "beta", "k"), _NUMBER),
}


def _check_row(name: str, kind: str, arguments: dict[str, Any], inputs: list[str]) -> None:
    if not isinstance(name, str):
        raise TypeError(f"the name of a row is a text, and not {name!r:.80}")
    if not inputs or (len(inputs) > 1 and kind not in ("Add", "Concatenate")):
        raise ValueError(f"row '{name}' has {len(inputs)} inputs, which is not what {kind!r:.80} reads")
    try:
        _check_arguments(arguments)
    except ValueError as error:
        raise ValueError(f"row '{name}': {error}") from None


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    # Those that are not in the table don't exist; the layer itself will say so.
    for name, value in arguments.items():
        if name in _ARGUMENTS:
            _require(name, value, _ARGUMENTS[name])


def _require(name: str, value: Any, requirement: Requirement) -> None:
    words, fits = requirement
    if not fits(value):
        raise ValueError(f"{name} is {value!r:.80}, and has to be {words}")


# -- sizes -----------------------------------------------------------------------------------------------------------


def _weights(
    filters: int = 0,
    window: int | Sequence[int] = 0,
    in_channels: int = 0,
    groups: int = 1,
    in_features: int = 0,
    out_features: int = 0,
    **_: Any,
) -> int:
    """How many weights a layer of these arguments would have."""
    r, s = (window, window) if isinstance(window, int) else window
    return filters * r * s * in_channels // groups + in_features * out_features


def _check_sizes(rows: Sequence[tuple[str, Layer, tuple[str, ...]]], crop: int) -> None:
    """Before there is a network, which would have a name for each of its classes."""
    shapes: dict[str, Shape] = {INPUT: (crop, crop, 3)}
    for name, layer, inputs in rows:
        try:
            x_shapes = [shapes[source] for source in inputs]
            shapes[name] = layer.output_shape(*x_shapes)
        except (KeyError, ValueError):
            return  # the network itself says what does not fit
        if max(math.prod(shapes[name]), _padded(layer, x_shapes[0])) > MOST_NUMBERS:
            raise ValueError(f"row '{name}' would compute more than {MOST_NUMBERS} numbers for one image")
    if shapes[name][-1] > MOST_CLASSES:
        raise ValueError(f"row '{name}' makes the scores of {shapes[name][-1]} classes; {MOST_CLASSES} are the most")


def _padded(layer: Layer, x_shape: Shape) -> int:
    """The numbers in what `layer` reads, with the padding around it."""
    if not isinstance(layer, Conv2d | MaxPool2d | AveragePool2d):
        return math.prod(x_shape)
    h, w, c = x_shape
    top, bottom, left, right = layer.padding
    return (top + h + bottom) * (left + w + right) * c
