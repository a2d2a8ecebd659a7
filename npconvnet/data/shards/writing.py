"""A block of the source's pictures becomes a shard. What else the data set needs to know of them is the shard's part.

A part is there only when its shard is whole on the disk: work that was stopped goes on with the shards that have none.
"""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import xxhash
from PIL import Image
from safetensors.numpy import load, save

from npconvnet.data.ilsvrc import Box, Example
from npconvnet.data.image import load_square_and_size
from npconvnet.data.shards.index import Index, Record
from npconvnet.data.shards.manifest import Encoding, File, Shard, SplitName, shard_name
from npconvnet.data.shards.sums import PixelSums
from npconvnet.errors import InputError
from npconvnet.outputs import bring_to_disk, is_unfinished, whole_file
from npconvnet.preprocessing import Picture, Preprocessing
from npconvnet.processes import Step

#: The folder of the parts, until all are there and joined.
PARTS = "parts"
_JPEG_QUALITY = 90
_CHECKSUM_BYTES = 8


@dataclass(frozen=True, slots=True)
class Format:
    """Pictures become squares of `size` × `size` pixels, kept raw or as JPEG."""

    size: int
    encoding: Encoding

    def encode(self, square: Picture) -> memoryview:
        """The bytes of a square, as they stand in a shard."""
        if self.encoding == "raw":
            return square.reshape(-1).data
        file = io.BytesIO()
        Image.fromarray(square).save(file, "JPEG", quality=_JPEG_QUALITY)
        return file.getbuffer()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file of the source that could not be read, or whose boxes could not, and the `reason`."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Block:
    """What shard `number` of a split is to hold: those of the `examples` that can be read, and their `boxes`.

    `unreadable` were met when the boxes were read. A shard that was there before must come out as `expected`.
    """

    split: SplitName
    number: int
    examples: Sequence[Example]
    boxes: Sequence[Sequence[Box]]
    unreadable: Sequence[Unreadable] = ()
    expected: Shard | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Of one shard: its pictures, its length and checksum, the sums of its pixels, and the files that it lacks."""

    index: Index
    shard: Shard
    sums: PixelSums
    unreadable: Sequence[Unreadable]

    @classmethod
    def read(cls, path: Path) -> Part | None:
        """The part in a file; None where there is none, or only a damaged one."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        digest, data = data[:_CHECKSUM_BYTES], data[_CHECKSUM_BYTES:]
        if digest != xxhash.xxh3_64_digest(data):
            return None
        arrays = load(data)
        notes = json.loads(arrays["notes"].tobytes())
        return cls(
            index=Index.from_bytes(arrays["index"].tobytes()),
            shard=Shard(File(notes["bytes"], notes["checksum"]), notes["images"]),
            sums=PixelSums(notes["summed"], arrays["total"].astype(np.float64), arrays["products"]),
            unreadable=[Unreadable(**fields) for fields in notes["unreadable"]],
        )

    def to_bytes(self) -> bytes:
        """As the content of its file: a checksum, then safetensors."""
        notes = {
            "bytes": self.shard.file.bytes,
            "checksum": self.shard.file.checksum,
            "images": self.shard.images,
            "summed": self.sums.images,
            "unreadable": [asdict(each) for each in self.unreadable],
        }
        arrays: dict[str, npt.NDArray[Any]] = {
            "index": np.frombuffer(self.index.to_bytes(), np.uint8),
            "notes": np.frombuffer(json.dumps(notes).encode(), np.uint8),
            "total": self.sums.total.astype(np.uint32),  # 2²⁴ pictures would fit
            "products": self.sums.products,
        }
        data = save(arrays)
        return xxhash.xxh3_64_digest(data) + data


def part_path(out: Path, split: SplitName, number: int) -> Path:
    """Where the part of a shard is kept."""
    return out / PARTS / f"{split}-{number:05d}"


def write_block(out: Path, format: Format, block: Block, step: Step) -> None:
    """Writes the shard of `block`, and then its part; `step` is called after each picture.

    Raises InputError where the files can't be written, where the source has vanished, and where a shard that was there
    before does not come out the same.
    """
    shard_path = out / shard_name(block.split, block.number, format.encoding)
    # The part gets its name after the shard has; but if there is no room for it, neither is left.
    with (
        prepared_file(part_path(out, block.split, block.number)) as part_file,
        prepared_file(shard_path) as shard_file,
    ):
        part = _write_shard(shard_file, format, block, step)
        if block.expected not in (None, part.shard):
            raise InputError(
                f"{shard_path}: comes out otherwise than when the data set was prepared, as the pictures or the "
                "decoder have changed; prepare it again into another folder"
            )
        part_file.write(part.to_bytes())
        bring_to_disk(part_file)


def _write_shard(file: IO[bytes], format: Format, block: Block, step: Step) -> Part:
    preprocessing = Preprocessing(format.size, format.size)
    records, unreadable, sums = [], list(block.unreadable), PixelSums.zero(format.size)
    length, digest = 0, xxhash.xxh3_64()
    for example, boxes in zip(block.examples, block.boxes, strict=True):
        try:
            square, size = _load(example, preprocessing)
        except InputError as error:
            _require_source(example)
            unreadable.append(Unreadable(example.name, str(error).removeprefix(f"{example.name}: ")))
        else:
            data = format.encode(square)
            file.write(data)
            digest.update(data)
            length += len(data)
            records.append(Record(example.label, example.name, size, len(data), xxhash.xxh3_64_intdigest(data), boxes))
            if block.split == "train":
                sums.add(square)
        step()
    shard = Shard(File(length, digest.hexdigest()), len(records))
    return Part(Index.of(records), shard, sums, unreadable)


def _load(example: Example, preprocessing: Preprocessing) -> tuple[Picture, tuple[int, int]]:
    """The square of an example, and the size (width, height) of the picture that it was cut from."""
    data = example.read()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns of is either harmless, or an error a moment later
        return load_square_and_size(data, example.name, preprocessing)


def _require_source(example: Example) -> None:
    """Raises InputError where the tar or the folder of an example has vanished: its disk, perhaps, and all the rest."""
    home = example.path if example.size >= 0 else example.path.parent
    if not home.exists():
        raise InputError(f"{home}: was there when the work began, and is not any more; bring the source back")


def prepared_file(path: Path) -> AbstractContextManager[IO[bytes]]:
    """`whole_file` for a file of a prepared data set."""
    # The number of the process tells it from what a process that was killed a moment ago is still writing.
    return whole_file(path, "once it can, the same command goes on where it was", mark=f".{os.getpid()}")


def remove_unfinished(folder: Path) -> None:
    """Removes what `prepared_file` left in a folder when its process was killed."""
    for path in folder.iterdir() if folder.exists() else ():
        if is_unfinished(path):
            path.unlink(missing_ok=True)
