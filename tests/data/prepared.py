"""Small prepared folders, written as the format says and not by `npconvnet prepare`."""

import numpy as np
from safetensors.numpy import save

from npconvnet.data.augment import ColourStatistics
from npconvnet.data.shards.index import Index, Record
from npconvnet.data.shards.manifest import (
    MANIFEST,
    MEAN,
    SPLITS,
    UNREADABLE,
    File,
    Manifest,
    Shard,
    checksum,
    index_name,
    shard_name,
)
from npconvnet.synsets import Synset


def write_prepared(folder, train, validation, *, wnids=("n1", "n2", "n3"), per_shard=10, unreadable=0, source="made"):
    """Raw shards of the pictures `train` and `validation`, uint8 (N, size, size, 3); picture n is of class n % classes.

    The pictures are called train/0, train/1, …, validation/0, ….
    """
    folder.mkdir(parents=True, exist_ok=True)
    files, shards = {}, {}

    def write(name, data):
        (folder / name).write_bytes(data)
        return File(len(data), checksum(data))

    for split, squares in zip(SPLITS, (train, validation), strict=True):
        shards[split] = [
            Shard(
                write(shard_name(split, number, "raw"), squares[first : first + per_shard].tobytes()),
                len(squares[first : first + per_shard]),
            )
            for number, first in enumerate(range(0, len(squares), per_shard))
        ]
        records = (
            Record(n % len(wnids), f"{split}/{n}", square.shape[:2], square.nbytes, int(checksum(square.tobytes()), 16))
            for n, square in enumerate(squares)
        )
        files[index_name(split)] = write(index_name(split), Index.of(records).to_bytes())
    files[MEAN] = write(MEAN, save({"mean": train.mean(axis=0, dtype=np.float64).astype(np.float32)}))
    files[UNREADABLE] = write(UNREADABLE, b'{"name": "torn", "reason": "torn"}\n' * unreadable)
    manifest = Manifest(
        size=train.shape[1],
        encoding="raw",
        source=source,
        layout="class folders",
        note="",
        blacklist=frozenset(),
        decoder="none",
        synsets=tuple(Synset(wnid, wnid) for wnid in wnids),
        colours=ColourStatistics.of(train),
        unreadable=unreadable,
        shards={split: tuple(of_split) for split, of_split in shards.items()},
        files=files,
    )
    (folder / MANIFEST).write_bytes(manifest.to_bytes())
    return folder


def reds(source):
    """The red of the first pixel of every picture."""
    square = np.empty((source.size, source.size, 3), np.uint8)
    found = []
    for number in range(len(source)):
        source.read(number, square)
        found.append(int(square[0, 0, 0]))
    return found
