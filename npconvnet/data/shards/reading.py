"""Reading prepared pictures: any of them in any order, from many threads at once.

Raw shards are read rather than mapped into memory. Both run at the speed of memory once a shard is in the system's
cache; but where a disk fails or a file is cut off under a mapping, the process dies without a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash
from safetensors.numpy import load

from npconvnet.data.image import decode_image
from npconvnet.data.shards.index import Index
from npconvnet.data.shards.manifest import MANIFEST, MEAN, SPLITS, Manifest, SplitName, checksum, index_name, shard_name
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
    return (root / MANIFEST).is_file()


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
    mean: npt.NDArray[np.float32] = load(_read_file(root, manifest, MEAN))["mean"]
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
            _require_length(path, shard.file.bytes)
        self.index = _read_index(root, manifest, split)
        self.labels = self.index.labels
        images, lengths = [shard.images for shard in shards], self.index.lengths
        if sum(images) != len(self.index):
            raise InputError(f"{root / MANIFEST}: other pictures than in {index_name(split)}; prepare it again")
        # The first picture of each shard, and where each picture begins in its shard.
        self._firsts = np.cumsum([0, *images[:-1]])
        begins = np.cumsum(lengths, dtype=np.int64) - lengths
        self._offsets = begins - np.repeat(begins[self._firsts[: len(shards)]], images) if len(lengths) else begins

    def __len__(self) -> int:
        return len(self.index)

    def name(self, number: int) -> str:
        """The name of a picture in the source."""
        return self.index.name(number)

    def read(self, number: int, square: Picture) -> None:
        """Reads picture `number` into `square`, uint8 (size, size, 3).

        Raises InputError where the shard can't be read or the picture is not what was prepared.
        """
        if self._encoding == "raw":
            self._read_bytes(number, square.reshape(-1))
        else:
            data = np.empty(self.index.lengths[number], np.uint8)
            self._read_bytes(number, data)
            decoded = decode_image(data.tobytes(), self.name(number))
            if decoded.shape != square.shape:
                raise self._damaged(number)
            square[:] = decoded

    def _read_bytes(self, number: int, into: npt.NDArray[np.uint8]) -> None:
        path = self._file(number)
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(int(self._offsets[number]))
                count = file.readinto(into.data)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        if count != len(into) or xxhash.xxh3_64_intdigest(into.data) != self.index.checksums[number]:
            raise self._damaged(number)

    def _file(self, number: int) -> Path:
        return self._files[int(np.searchsorted(self._firsts, number, side="right")) - 1]

    def _damaged(self, number: int) -> InputError:
        path = self._file(number)
        return InputError(
            f"{path}: damaged at picture {self.name(number)} (its checksum is wrong); delete this file and run "
            f"npconvnet prepare again, or look for more with npconvnet prepare --verify {path.parent}"
        )


def _read_index(root: Path, manifest: Manifest, split: SplitName) -> Index:
    name = index_name(split)
    try:
        index = Index.from_bytes(_read_file(root, manifest, name))
    except ValueError as error:
        raise InputError(f"{root / name}: {error}; prepare the data set again") from error
    if not ((index.labels >= 0) & (index.labels < len(manifest.synsets))).all() or not (index.lengths > 0).all():
        raise InputError(f"{root / name}: labels or lengths that cannot be; prepare the data set again")
    return index


def _read_file(root: Path, manifest: Manifest, name: str) -> bytes:
    """A file beside the shards; raises InputError unless it is the one in the manifest."""
    path, expected = root / name, manifest.files.get(name)
    if expected is None:
        raise InputError(f"{root / MANIFEST}: does not list {name}; prepare the data set again")
    _require_length(path, expected.bytes)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if checksum(data) != expected.checksum:
        raise InputError(f"{path}: damaged (its checksum is wrong); prepare the data set again")
    return data


def _require_length(path: Path, expected: int) -> None:
    try:
        length = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); prepare the data set again") from error
    if length != expected:
        raise InputError(f"{path}: {length} bytes where {expected} were written; prepare the data set again")
