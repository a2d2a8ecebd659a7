"""What is in a folder of prepared pictures, with the size and the checksum of each of its files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import xxhash

from npconvnet.data.augment import ColourStatistics
from npconvnet.errors import InputError
from npconvnet.preprocessing import MOST_PIXELS
from npconvnet.synsets import Synset

Encoding = Literal["raw", "jpeg"]
SplitName = Literal["train", "validation"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

MANIFEST, MEAN, UNREADABLE = "shards.json", "mean.safetensors", "unreadable.jsonl"
#: In a folder that is not finished; the lock stays.
PLAN, LOCK = "shards.unfinished.json", "shards.lock"
#: The way out where more is damaged than a shard.
PREPARE_AGAIN = "prepare the data set again, into a new folder"
#: The way out where that is a shard.
PREPARE_SHARD = "the same npconvnet prepare makes shards anew that have been deleted"
#: The first entry of every manifest. It counts up when a reader of today could not read the shards of tomorrow.
_FORMAT = "npconvnet shards 1"


def checksum(data: bytes | memoryview) -> str:
    """XXH3 of 64 bits, as 16 hexadecimal digits."""
    return xxhash.xxh3_64_hexdigest(data)


def checksum_of_list(images: Iterable[tuple[str, int]]) -> str:
    """The same of what a data set lists: names and labels, of the training images and then of the others."""
    digest = xxhash.xxh3_64()
    for name, label in images:
        digest.update(f"{name}\0{label}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class File:
    """The size of a file in `bytes` and its `checksum`."""

    bytes: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Shard:
    """A `file` with the squares of so many `images`."""

    file: File
    images: int


@dataclass(frozen=True, slots=True, eq=False)
class Manifest:
    """Pictures of `size` × `size`, `encoding` raw or jpeg, of the classes `synsets`, in `shards` by split.

    `layout`, `note` and `blacklist` are those of the source (data/ilsvrc.py); `decoder` and its version made the
    squares; `colours` are those of all training pictures; `unreadable` files were left out. `files` are those beside
    the shards: the indices, the mean image, the list of unreadable files. `source` is a checksum of what the source
    lists (names and labels).
    """

    size: int
    encoding: Encoding
    source: str
    layout: str
    note: str
    blacklist: frozenset[str]
    decoder: str
    synsets: tuple[Synset, ...]
    colours: ColourStatistics
    unreadable: int
    shards: Mapping[SplitName, tuple[Shard, ...]]
    files: Mapping[str, File]

    @property
    def pictures(self) -> str:
        """A checksum of all squares."""
        return checksum("".join(shard.file.checksum for split in SPLITS for shard in self.shards[split]).encode())

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a folder; raises InputError where there is none or where it is damaged."""
        path = folder / MANIFEST
        try:
            fields = json.loads(path.read_bytes())
            found = fields.pop("checksum")
            expected = checksum(_canonical(fields))
        except OSError as error:
            if (folder / PLAN).exists():
                raise InputError(f"{folder}: not finished; the same npconvnet prepare goes on with it") from error
            raise InputError(f"{path}: cannot be read ({error.strerror}); is this a prepared data set?") from error
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
            raise InputError(f"{path}: damaged; {PREPARE_AGAIN}") from error
        if fields.get("format") != _FORMAT:
            raise InputError(f"{path}: not of '{_FORMAT}', which this npconvnet reads; {PREPARE_AGAIN}")
        if found != expected:
            raise InputError(f"{path}: damaged (its checksum is wrong); {PREPARE_AGAIN}")
        try:
            return cls._of(fields)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"{path}: not a manifest ({error}); {PREPARE_AGAIN}") from error

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> Manifest:
        size, encoding = int(fields["size"]), fields["encoding"]
        if not 0 < size <= MOST_PIXELS or encoding not in get_args(Encoding):
            raise ValueError(f"pictures of {size} pixels, {encoding}")
        colours = ColourStatistics(np.array(fields["mean"], np.float64), np.array(fields["covariance"], np.float64))
        if (colours.mean.shape, colours.covariance.shape) != ((3,), (3, 3)):
            raise ValueError("colours of another shape")
        if not (np.isfinite(colours.mean).all() and np.isfinite(colours.covariance).all()):
            raise ValueError("colours that are no numbers")
        shards: dict[SplitName, tuple[Shard, ...]] = {
            split: tuple(Shard(File(int(size), str(sum)), int(images)) for size, sum, images in fields["shards"][split])
            for split in SPLITS
        }
        if any(shard.images < 0 for split in SPLITS for shard in shards[split]):
            raise ValueError("fewer than no images")
        return cls(
            size=size,
            encoding=encoding,
            source=str(fields["source"]),
            layout=str(fields["layout"]),
            note=str(fields["note"]),
            blacklist=frozenset(map(str, fields["blacklist"])),
            decoder=str(fields["decoder"]),
            synsets=tuple(Synset(str(wnid), str(names)) for wnid, names in fields["synsets"]),
            colours=colours,
            unreadable=int(fields["unreadable"]),
            shards=shards,
            files={str(name): File(int(size), str(sum)) for name, (size, sum) in fields["files"].items()},
        )

    def to_bytes(self) -> bytes:
        """As the content of its file: for people too, one entry a line."""
        fields: dict[str, Any] = {
            "format": _FORMAT,
            "size": self.size,
            "encoding": self.encoding,
            "source": self.source,
            "layout": self.layout,
            "note": self.note,
            "blacklist": sorted(self.blacklist),
            "decoder": self.decoder,
            "synsets": [[synset.wnid, synset.names] for synset in self.synsets],
            "mean": self.colours.mean.tolist(),
            "covariance": self.colours.covariance.tolist(),
            "unreadable": self.unreadable,
            "shards": {
                split: [[shard.file.bytes, shard.file.checksum, shard.images] for shard in shards]
                for split, shards in self.shards.items()
            },
            "files": {name: [file.bytes, file.checksum] for name, file in self.files.items()},
        }
        fields["checksum"] = checksum(_canonical(fields))
        entries = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items())
        return ("{\n" + ",\n".join(entries) + "\n}\n").encode()

    @property
    def bytes(self) -> int:
        """The room that the shards take."""
        return sum(shard.file.bytes for shards in self.shards.values() for shard in shards)

    def images(self, split: SplitName) -> int:
        """The number of pictures of a split."""
        return sum(shard.images for shard in self.shards[split])


def shard_name(split: SplitName, number: int, encoding: Encoding) -> str:
    """The file name of a shard, such as train-00012.raw."""
    return f"{split}-{number:05d}.{_SUFFIXES[encoding]}"


#: That of JPEG shards is no image's, which would be taken for one.
_SUFFIXES: dict[Encoding, str] = {"raw": "raw", "jpeg": "jpegs"}


def index_name(split: SplitName) -> str:
    """The file name of the index of a split."""
    return f"{split}.safetensors"


def _canonical(fields: dict[str, Any]) -> bytes:
    """The same bytes for the same entries."""
    return json.dumps(fields, sort_keys=True).encode()
