"""The index of prepared pictures: what each one is, and where its bytes are. One row a picture, in columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from npconvnet.data.layouts.annotations import Box

#: The type, and the shape behind the first axis, of each column.
_COLUMNS: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "labels": (np.int32, ()),
    "sizes": (np.int32, (2,)),
    "lengths": (np.int32, ()),
    "checksums": (np.uint64, ()),
    "names": (np.uint8, ()),
    "name_ends": (np.int64, ()),
    "boxes": (np.int32, (5,)),
    "box_ends": (np.int64, ()),
}


@dataclass(frozen=True, slots=True)
class Record:
    """One picture: its `label`, `name` in the source, original `size` (width, height) in pixels, and boxes in those.

    `length` is the number of its bytes in the shard and `checksum` theirs (XXH3, 64 bits).
    """

    label: int
    name: str
    size: tuple[int, int]
    length: int
    checksum: int
    boxes: Sequence[Box] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """N pictures with B boxes: `labels` (N,), `sizes` (N, 2) width and height, `lengths` and `checksums` (N,).

    `names` holds all names as UTF-8, one after the other, and `name_ends` (N,) where each ends; `boxes` (B, 5) holds
    label, x_min, y_min, x_max, y_max, and `box_ends` (N,) where each picture's end.
    """

    labels: npt.NDArray[np.int32]
    sizes: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]
    checksums: npt.NDArray[np.uint64]
    names: npt.NDArray[np.uint8]
    name_ends: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.int32]
    box_ends: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, records: Iterable[Record]) -> Index:
        """The index of `records`."""
        records = list(records)
        names = [record.name.encode("utf-8", "surrogateescape") for record in records]  # any bytes can be a file name
        boxes = [(box.label, box.x_min, box.y_min, box.x_max, box.y_max) for record in records for box in record.boxes]
        columns: dict[str, Any] = {
            "labels": [record.label for record in records],
            "sizes": [record.size for record in records],
            "lengths": [record.length for record in records],
            "checksums": [record.checksum for record in records],
            "names": np.frombuffer(b"".join(names), np.uint8),
            "name_ends": np.cumsum([len(name) for name in names]),
            "boxes": boxes,
            "box_ends": np.cumsum([len(record.boxes) for record in records]),
        }
        return cls(**{name: _column(name, values) for name, values in columns.items()})

    @classmethod
    def joined(cls, parts: Sequence[Index]) -> Index:
        """One index of all rows of `parts`, in their order."""
        columns: dict[str, Any] = {}
        for name in _COLUMNS:
            of_parts = [getattr(part, name) for part in parts]
            if name.endswith("_ends"):  # they count from the beginning of their own part
                begins = np.cumsum([0, *(column[-1] if len(column) else 0 for column in of_parts)])
                of_parts = [column + begin for column, begin in zip(of_parts, begins, strict=False)]
            columns[name] = _column(name, np.concatenate(of_parts) if of_parts else ())
        return cls(**columns)

    @classmethod
    def from_bytes(cls, data: bytes) -> Index:
        """The inverse of `to_bytes`; raises ValueError where the columns are others or don't fit together."""
        try:
            columns = load(data)
        except Exception as error:  # safetensors raises an error of its own kind
            raise ValueError(f"not a safetensors file ({error})") from error
        if {name: (column.dtype, column.ndim, column.shape[1:]) for name, column in columns.items()} != {
            name: (np.dtype(kind), 1 + len(shape), shape) for name, (kind, shape) in _COLUMNS.items()
        }:
            raise ValueError("its columns are not those of an index")
        index = cls(**columns)
        counts = {len(columns[name]) for name in _COLUMNS if name not in ("names", "boxes")}
        if len(counts) != 1 or not (_are_ends(index.name_ends, index.names) and _are_ends(index.box_ends, index.boxes)):
            raise ValueError("its columns don't fit together")
        return index

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        return save({column.name: getattr(self, column.name) for column in fields(self)})

    def name(self, number: int) -> str:
        """The name of a picture in the source."""
        begin = self.name_ends[number - 1] if number else 0
        return self.names[begin : self.name_ends[number]].tobytes().decode("utf-8", "surrogateescape")

    def boxes_of(self, number: int) -> list[Box]:
        """The boxes of a picture, in pixels of the original."""
        begin = self.box_ends[number - 1] if number else 0
        return [Box(*row) for row in self.boxes[begin : self.box_ends[number]].tolist()]


def _column(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    kind, shape = _COLUMNS[name]
    return np.asarray(values, kind).reshape(-1, *shape)


def _are_ends(ends: npt.NDArray[np.int64], of: npt.NDArray[Any]) -> bool:
    ends = np.concatenate([[0], ends])
    return bool((ends[:-1] <= ends[1:]).all()) and ends[-1] == len(of)
