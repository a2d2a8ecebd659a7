"""Reading every byte of a prepared data set, and comparing it with the manifest and the index."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import xxhash
from tqdm import tqdm

from npconvnet.data.shards.manifest import PREPARE_SHARD, SPLITS, UNREADABLE, Manifest, Shard, SplitName, shard_name
from npconvnet.data.shards.reading import (
    decode_square,
    read_beside_shards,
    read_index,
    read_mean_image,
    require_length,
)
from npconvnet.errors import InputError
from npconvnet.parallel import threads
from npconvnet.processes import Step, in_processes

_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class _Task:
    """One shard, and of each of its pictures (name, length, checksum), which is None where the index is damaged.

    Where the pictures are JPEGs, `size` is theirs.
    """

    path: Path
    shard: Shard
    pictures: list[tuple[str, int, int]] | None
    size: int | None


def verify(root: Path, workers: int | None = None) -> list[str]:
    """What is wrong in a folder that was prepared, a line for each problem; with so many processes (one a core).

    Raises InputError where the manifest is missing or damaged.
    """
    manifest = Manifest.read(root)
    problems: list[str] = []
    with _listed(problems):
        read_mean_image(root, manifest)
    with _listed(problems):
        read_beside_shards(root, manifest, UNREADABLE)
    tasks = (task for split in SPLITS for task in _tasks(root, manifest, split, problems))
    count, images = sum(len(manifest.shards[split]) for split in SPLITS), sum(map(manifest.images, SPLITS))
    with tqdm(desc="verify", total=images, unit="image", leave=False, disable=None) as bar:
        for found in in_processes(_check, tasks, count, workers or threads(), bar):
            problems += found
    return problems


@contextmanager
def _listed(problems: list[str]) -> Iterator[None]:
    """Lists an error as a problem and goes on."""
    try:
        yield
    except InputError as error:
        problems.append(str(error))


def _tasks(root: Path, manifest: Manifest, split: SplitName, problems: list[str]) -> Iterator[_Task]:
    index = None
    with _listed(problems):
        index = read_index(root, manifest, split)
    end = 0
    for number, shard in enumerate(manifest.shards[split]):
        begin, end = end, end + shard.images
        numbers = range(begin, end)
        pictures = (
            None
            if index is None
            else [(index.name(n), int(index.lengths[n]), int(index.checksums[n])) for n in numbers]
        )
        size = manifest.size if manifest.encoding == "jpeg" else None
        yield _Task(root / shard_name(split, number, manifest.encoding), shard, pictures, size)


def _check(task: _Task, step: Step) -> list[str]:
    """The problems of one shard; `step` is called after each picture."""
    problems: list[str] = []
    with _listed(problems):
        require_length(task.path, task.shard.file, PREPARE_SHARD)
        try:
            with task.path.open("rb") as file:
                problems += _check_content(file, task, step)
        except OSError as error:
            raise InputError(f"{task.path}: cannot be read ({error.strerror})") from error
    return problems


def _check_content(file: BinaryIO, task: _Task, step: Step) -> list[str]:
    problems, digest = [], xxhash.xxh3_64()
    for name, length, expected in task.pictures or []:
        data = file.read(length)
        digest.update(data)
        if xxhash.xxh3_64_intdigest(data) != expected:
            problems.append(f"{task.path}: damaged at picture {name} (its checksum is wrong)")
        elif task.size and decode_square(data, task.size) is None:
            problems.append(f"{task.path}: damaged at picture {name} (it is no picture of {task.size} pixels)")
        step()
    for data in iter(partial(file.read, _CHUNK), b""):
        digest.update(data)
    if not problems and digest.hexdigest() != task.shard.file.checksum:
        problems.append(f"{task.path}: damaged (its checksum is wrong)")
    return problems
