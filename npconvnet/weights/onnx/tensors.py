"""The numbers of an ONNX tensor: in the file, as bytes or as a list, or in another file of the same folder.

Every declared size is compared with what is really there before anything is made of it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from npconvnet.errors import InputError

Tensor = npt.NDArray[Any]

#: Bytes of one number, in the types that weights, shapes and switches come in.
_BYTES = {
    TensorProto.FLOAT: 4,
    TensorProto.DOUBLE: 8,
    TensorProto.FLOAT16: 2,
    TensorProto.BFLOAT16: 2,
    TensorProto.INT32: 4,
    TensorProto.INT64: 8,
    TensorProto.BOOL: 1,
}
#: No tensor has more dimensions.
MOST_DIMENSIONS = 8


def quoted(name: str) -> str:
    """A name from the file, fit for one line of a message."""
    return repr(name if len(name) <= 80 else f"{name[:80]}…")


def type_name(data_type: int) -> str:
    """Such as FLOAT16; a number where ONNX has no name for it."""
    known = TensorProto.DataType.items()
    return next((name for name, number in known if number == data_type), f"number {data_type}")


class Tensors:
    """Reads the tensors of one model, whose other files lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        #: How many bytes of each other file have not been read.
        self._left: dict[Path, int] = {}

    def read(self, tensor: onnx.TensorProto) -> Tensor:
        """The array of `tensor`; raises InputError, naming it, where its numbers are missing or of another count."""
        label = f"tensor {quoted(tensor.name)}"
        if tensor.data_type not in _BYTES:
            raise InputError(f"{label} is of type {type_name(tensor.data_type)}, which is not supported")
        if len(tensor.dims) > MOST_DIMENSIONS or min(tensor.dims, default=0) < 0:
            raise InputError(f"{label} has {len(tensor.dims)} dimensions, or negative ones")
        count = math.prod(tensor.dims)
        size = count * _BYTES[tensor.data_type]
        raw: bytes
        if tensor.data_location == TensorProto.EXTERNAL:
            raw = self._read_beside(tensor, size, label)
        elif tensor.HasField("raw_data"):
            raw = tensor.raw_data
        else:
            held = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))
            if held != count:
                raise InputError(f"{label} is {tuple(tensor.dims)}, {count} numbers, and holds {held}")
            return np.asarray(numpy_helper.to_array(tensor))
        if len(raw) != size:
            raise InputError(f"{label} is {tuple(tensor.dims)}, {size} bytes, and holds {len(raw)}")
        inline = TensorProto(dims=tensor.dims, data_type=tensor.data_type, raw_data=raw)
        return np.asarray(numpy_helper.to_array(inline))

    def _read_beside(self, tensor: onnx.TensorProto, size: int, label: str) -> bytes:
        """The `size` bytes of `tensor` in another file."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        label = f"{label} lies in {quoted(location)}"
        offset, length = _whole(entries.get("offset", "0")), _whole(entries.get("length", str(size)))
        try:
            path = self._beside(location, label)
            there = path.stat().st_size
            left = self._left.get(path, there) - size
            if length != size or offset < 0 or offset + size > there or left < 0:
                raise InputError(f"{label}, {size} bytes from {offset} on, which are not there, or others' as well")
            self._left[path] = left
            with path.open("rb") as file:
                file.seek(offset)
                contents: bytes = file.read(size)
        except OSError as error:
            raise InputError(f"{label}, which cannot be read ({error.strerror})") from None
        return contents

    def _beside(self, location: str, label: str) -> Path:
        """The file of the folder that `location` names."""
        home = self._folder.resolve()
        path = home / location
        # What climbs out by "..", starts at the root, or goes through a link is not what its name says.
        if "\0" in location or path.resolve() != path or home not in path.parents:
            raise InputError(f"{label}, which leads out of the folder of the model")
        if not path.is_file():
            raise InputError(f"{label}, and there is no such file beside the model")
        return path


def _whole(text: str) -> int:
    """The number that `text` says, -1 where it says none."""
    return int(text) if text.isdecimal() and len(text) < 20 else -1
