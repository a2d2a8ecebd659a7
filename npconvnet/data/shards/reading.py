"""Reading prepared pictures: any of them in any order, from many threads at once.

Nothing that stands in the folder is believed: a checksum finds what has been damaged, and numbers that contradict each
other, or the length of a file, are refused even where the checksums are right.

Raw shards are read rather than mapped into memory. Both run at the speed of memory once a shard is in the system's
cache; but where a disk fails or a file is cut off under a mapping, the process dies without a word. Every shard is
opened once: that costs less, and a folder that is removed can be read to the end.
"""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash
from safetensors.numpy import load

from npconvnet.data.image import decode_image
from npconvnet.data.shards.index import Index
from npconvnet.data.shards.manifest import (
    MANIFEST,
    MEAN,
    PLAN,
    PREPARE_AGAIN,
    PREPARE_SHARD,
    SPLITS,
    File,
    Manifest,
    SplitName,
    checksum,
    index_name,
    shard_name,
)
from npconvnet.errors import InputError
from npconvnet.preprocessing import Picture


@dataclass(frozen=True, slots=True)
class PreparedDataset:
    """The finished data set in the folder `root`."""

    root: Path
    manifest: Manifest
    train: Shards
    validation: Shards


def is_prepared(root: Path) -> bool:
    """Whether a folder is one that `npconvnet prepare` has finished."""
    return _is_file(root / MANIFEST)


def holds_shards(root: Path) -> bool:
    """Whether a folder is one that `npconvnet prepare` has finished or begun; `open_prepared` says so if only begun."""
    return is_prepared(root) or _is_file(root / PLAN)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as in a folder that may not be entered
        return False


def open_prepared(root: Path) -> PreparedDataset:
    """The data set that was prepared into a folder. Nothing is read of the pictures yet.

    Raises InputError where the manifest or an index is damaged, or a shard is missing or of another length.
    """
    manifest = Manifest.read(root)
    train, validation = (Shards(root, manifest, split) for split in SPLITS)
    return PreparedDataset(root, manifest, train, validation)


def read_mean_image(root: Path, manifest: Manifest) -> npt.NDArray[np.float32]:
    """The mean of the training pictures, RGB 0–255, float32 (size, size, 3).

    Raises InputError where its file is damaged.
    """
    data = read_beside_shards(root, manifest, MEAN)
    try:
        mean: npt.NDArray[np.float32] = load(data)["mean"]
    except Exception as error:  # safetensors raises an error of its own kind
        raise InputError(f"{root / MEAN}: not a mean image ({error}); {PREPARE_AGAIN}") from error
    if mean.dtype != np.float32 or mean.shape != (manifest.size, manifest.size, 3) or not np.isfinite(mean).all():
        raise InputError(f"{root / MEAN}: not a mean image of {manifest.size} pixels; {PREPARE_AGAIN}")
    return mean


class Shards:
    """The pictures of one split, and their `labels`, int32 (N,)."""

    def __init__(self, root: Path, manifest: Manifest, split: SplitName) -> None:
        """Reads the index; raises InputError as `open_prepared` does."""
        self.size = manifest.size
        self._encoding = manifest.encoding
        shards = manifest.shards[split]
        self._files = [root / shard_name(split, number, self._encoding) for number in range(len(shards))]
        for path, shard in zip(self._files, shards, strict=True):
            require_length(path, shard.file, PREPARE_SHARD)
        self._descriptors: list[int] = []
        weakref.finalize(self, _close, self._descriptors)
        self._descriptors += map(_open, self._files)
        self.index = read_index(root, manifest, split)
        self.labels = self.index.labels
        # The first picture of each shard, and where each picture begins in its shard.
        images = [shard.images for shard in shards]
        self._firsts = _running_sum(images)[:-1]
        ends = _running_sum(self.index.lengths)
        self._offsets = ends[:-1] - np.repeat(ends[self._firsts], images)

    def __len__(self) -> int:
        return len(self.index)

    def name(self, number: int) -> str:
        """The name of a picture in the source."""
        return self.index.name(number)

    def read(self, number: int, square: Picture) -> None:
        """Reads picture `number` into `square`, uint8 (size, size, 3).

        Raises InputError where the shard can't be read or the picture is not what was prepared.
        """
        if square.shape != (self.size, self.size, 3) or not square.flags.c_contiguous:
            raise ValueError(f"a picture is read into ({self.size}, {self.size}, 3) bytes without gaps")
        if self._encoding == "raw":
            self._read_bytes(number, square.reshape(-1))
        else:
            data = np.empty(self.index.lengths[number], np.uint8)
            self._read_bytes(number, data)
            decoded = decode_square(data.tobytes(), self.size)
            if decoded is None:
                raise self._damaged(number, "it is no picture of that size")
            square[:] = decoded

    def _read_bytes(self, number: int, into: npt.NDArray[np.uint8]) -> None:
        shard = self._shard(number)
        try:
            count = os.preadv(self._descriptors[shard], [into.data], int(self._offsets[number]))
        except OSError as error:
            raise InputError(f"{self._files[shard]}: cannot be read ({error.strerror})") from error
        if count != len(into) or xxhash.xxh3_64_intdigest(into.data) != self.index.checksums[number]:
            raise self._damaged(number, "its checksum is wrong")

    def _shard(self, number: int) -> int:
        return int(self._firsts.searchsorted(number, side="right")) - 1

    def _damaged(self, number: int, reason: str) -> InputError:
        path = self._files[self._shard(number)]
        return InputError(
            f"{path}: damaged at picture {self.name(number)} ({reason}); {PREPARE_SHARD}; look for "
            f"more damage with npconvnet prepare --verify {path.parent}"
        )


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def decode_square(data: bytes, size: int) -> Picture | None:
    """A picture of a JPEG shard, uint8 (size, size, 3); None where the bytes are no picture of that size."""
    try:
        picture = decode_image(data, "")
    except InputError:
        return None
    return picture if picture.shape == (size, size, 3) else None


def read_index(root: Path, manifest: Manifest, split: SplitName) -> Index:
    """The index of a split; raises InputError where it is damaged, or can't be that of the shards."""
    name, shards = index_name(split), manifest.shards[split]
    try:
        index = Index.from_bytes(read_beside_shards(root, manifest, name))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{root / name}: {error}; {PREPARE_AGAIN}") from error
    labels = np.concatenate([index.labels, index.boxes[:, 0]])
    if not ((labels >= 0) & (labels < len(manifest.synsets))).all():
        raise InputError(f"{root / name}: labels of no class; {PREPARE_AGAIN}")
    if (index.lengths <= 0).any() or (manifest.encoding == "raw" and (index.lengths != manifest.size**2 * 3).any()):
        raise InputError(f"{root / name}: pictures of impossible lengths; {PREPARE_AGAIN}")
    if sum(shard.images for shard in shards) != len(index):
        raise InputError(f"{root / MANIFEST}: other pictures than in {name}; {PREPARE_AGAIN}")
    lengths = np.diff(_running_sum(index.lengths)[_running_sum([shard.images for shard in shards])])
    if lengths.tolist() != [shard.file.bytes for shard in shards]:
        raise InputError(f"{root / name}: pictures that don't fill the shards; {PREPARE_AGAIN}")
    return index


def _running_sum(numbers: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The sum of the first 0, 1, …, N of `numbers` (N,)."""
    return np.concatenate([[0], np.cumsum(numbers, dtype=np.int64)])


def read_beside_shards(root: Path, manifest: Manifest, name: str) -> bytes:
    """A file beside the shards; raises InputError unless it is the one in the manifest."""
    path, expected = root / name, manifest.files.get(name)
    if expected is None:
        raise InputError(f"{root / MANIFEST}: does not list {name}; {PREPARE_AGAIN}")
    require_length(path, expected, PREPARE_AGAIN)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if checksum(data) != expected.checksum:
        raise InputError(f"{path}: damaged (its checksum is wrong); {PREPARE_AGAIN}")
    return data


def require_length(path: Path, expected: File, way_out: str) -> None:
    """Raises InputError, ending in the way out, unless there is a file of that length."""
    try:
        length = path.stat().st_size
    except FileNotFoundError as error:
        raise InputError(f"{path}: is missing; {way_out}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {way_out}") from error
    if length != expected.bytes:
        raise InputError(f"{path}: {length} bytes where {expected.bytes} were written; {way_out}")
