"""The whole work of `npconvnet prepare`: from a data set in any layout of ILSVRC to a folder of shards.

The list of examples is cut into blocks, a shard each, by the number of examples alone, and many processes write them.
An unfinished folder holds the plan of the work, and a part for each shard that is whole, so that work that was stopped
ends with the same bits as if nothing had happened. Only one `prepare` works in a folder at a time.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from safetensors.numpy import save
from tqdm import tqdm

from npconvnet.data.ilsvrc import Box, Dataset, Example, open_dataset
from npconvnet.data.image import decoder_name
from npconvnet.data.shards.index import Index
from npconvnet.data.shards.manifest import (
    LOCK,
    MANIFEST,
    MEAN,
    PLAN,
    SPLITS,
    UNREADABLE,
    Encoding,
    File,
    Manifest,
    Shard,
    SplitName,
    checksum,
    checksum_of_list,
    index_name,
    shard_name,
)
from npconvnet.data.shards.reading import PreparedDataset, holds_shards, is_prepared, open_prepared
from npconvnet.data.shards.sums import PixelSums
from npconvnet.data.shards.writing import (
    PARTS,
    Block,
    Format,
    Part,
    Unreadable,
    part_path,
    prepared_file,
    remove_unfinished,
    write_block,
)
from npconvnet.errors import InputError
from npconvnet.outputs import is_unfinished
from npconvnet.parallel import threads
from npconvnet.preprocessing import MOST_PIXELS
from npconvnet.processes import in_processes

#: The number of examples decides alone how they are cut: into about so many blocks, of no fewer and no more than these.
BLOCKS = 64
SHORTEST, LONGEST = 256, 4096
#: But into no more blocks, as all shards are opened at once, and some systems allow 256 files.
MOST_BLOCKS = 200

_RECIPE = 1  # counts up whenever the same examples would come out as other shards
_LARGEST_CORNER = np.iinfo(np.int32).max
#: How the plans of two preparations may differ.
_DIFFERENCES = {
    "recipe": "by another version of npconvnet",
    "source": "from other pictures or labels",
    "size": "with --size {}",
    "encoding": "with --format {}",
    "decoder": "with {}, and not with what is installed now",
    "shards": "in other shards",
}


@dataclass(frozen=True, slots=True)
class Preparation:
    """What `prepare` gives: the data set, and how many pictures it has gone through for that, in so many seconds."""

    dataset: PreparedDataset
    pictures: int
    seconds: float


def prepare(
    source: Path,
    out: Path,
    size: int = 256,
    encoding: Encoding = "raw",
    workers: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Preparation:
    """Makes shards in the folder `out` of the data set in the folder `source`, with so many processes (one a core).

    Every picture becomes its centre square, resized to `size` × `size` pixels. Work that was stopped, in whatever way,
    goes on where it was; of a finished data set, shards that are missing are made again. `say` hears, in one line,
    what is going to be done.

    Raises InputError where the source can't be understood, where `out` is in use or holds anything else, and where
    there is no room. Pictures and boxes that can't be read are left out and listed in the file UNREADABLE.
    """
    if not 0 < size <= MOST_PIXELS:
        raise InputError(f"squares of {size} pixels can't be made; choose a size from 1 to {MOST_PIXELS}")
    _require_apart(source, out)
    _require_ours(out)
    if holds_shards(source):
        raise InputError(f"{source}: holds shards, which are prepared; give the original data set")
    dataset = open_dataset(source)
    with _locked(out), _disk_errors(out):
        work = _Work(dataset, out, Format(size, encoding))
        work.require_same_plan()
        work.remove_leftovers()
        missing = [span for span in work.spans if not work.is_there(span)]
        if missing:
            work.require_room(missing)
            work.require_boxes()
            say(work.announcement(missing))
        began = time.monotonic()
        work.write_shards(missing, workers or threads())
        seconds = time.monotonic() - began
        if not work.finished:
            work.join_parts()
        work.remove_parts()
        return Preparation(open_prepared(out), sum(map(len, missing)), seconds)


@dataclass(frozen=True, slots=True)
class _Span:
    """The examples from `begin` to `end` of a split, which are those of its shard `number`."""

    split: SplitName
    number: int
    begin: int
    end: int

    def __len__(self) -> int:
        return self.end - self.begin


def _spans(split: SplitName, count: int) -> list[_Span]:
    length = max(min(max(-(-count // BLOCKS), SHORTEST), LONGEST), -(-count // MOST_BLOCKS))
    begins = range(0, count, length)
    return [_Span(split, number, begin, min(begin + length, count)) for number, begin in enumerate(begins)]


class _Work:
    """A data set on its way into a folder. `finished` is the manifest, if the folder holds the data set already."""

    def __init__(self, dataset: Dataset, out: Path, format: Format) -> None:
        self.dataset, self.out, self.format = dataset, out, format
        self.examples: dict[SplitName, Sequence[Example]] = {"train": dataset.train, "validation": dataset.validation}
        self.spans = [span for split in SPLITS for span in _spans(split, len(self.examples[split]))]
        self.finished = Manifest.read(out) if is_prepared(out) else None
        listed = (example for split in SPLITS for example in self.examples[split])
        self.source = checksum_of_list((example.name, example.label) for example in listed)

    # ---- What is there already ----

    def plan(self) -> dict[str, Any]:
        """What must be the same for shards to stand in one folder."""
        return {
            "recipe": _RECIPE,
            "source": self.source,
            "size": self.format.size,
            "encoding": self.format.encoding,
            "decoder": decoder_name(),
            "shards": [sum(span.split == split for span in self.spans) for split in SPLITS],
        }

    def require_same_plan(self) -> None:
        """Raises InputError where the folder holds shards, or some of them, that were made by another plan."""
        plan = self.plan()
        if self.finished:
            there = {name: getattr(self.finished, name) for name in ("source", "size", "encoding")}
            there["shards"] = [len(self.finished.shards[split]) for split in SPLITS]
        elif (self.out / PLAN).exists():
            there = _read_plan(self.out / PLAN)
        else:
            return
        for name, words in _DIFFERENCES.items():
            if name in there and there[name] != plan[name]:
                raise InputError(
                    f"{self.out}: was {'prepared' if self.finished else 'begun'} {words.format(there[name])}; name "
                    "another folder, or remove this one"
                )

    def remove_leftovers(self) -> None:
        """Removes what processes that were killed left."""
        if self.finished:
            self.remove_parts()
        for folder in (self.out, self.out / PARTS):
            remove_unfinished(folder)

    def remove_parts(self) -> None:
        """Removes what is needed only until the data set is finished."""
        shutil.rmtree(self.out / PARTS, ignore_errors=True)
        (self.out / PLAN).unlink(missing_ok=True)

    def is_there(self, span: _Span) -> bool:
        """Whether a shard is whole on the disk."""
        shard = self._shard(span)
        path = self.out / shard_name(span.split, span.number, self.format.encoding)
        return shard is not None and path.is_file() and path.stat().st_size == shard.file.bytes

    def _shard(self, span: _Span) -> Shard | None:
        """What is known of a shard that has been written."""
        if self.finished:
            return self.finished.shards[span.split][span.number]
        part = Part.read(part_path(self.out, span.split, span.number))
        return part.shard if part else None

    # ---- What is to be done ----

    def require_room(self, missing: Sequence[_Span]) -> None:
        """Raises InputError where the disk has no room for the shards that are missing."""
        needed, free = self._raw_bytes(missing), shutil.disk_usage(self.out).free
        if self.format.encoding == "raw" and needed > free:
            raise InputError(
                f"{self.out}: {in_bytes(needed)} are needed and {in_bytes(free)} are free; make room, name a folder "
                "on a larger disk, or choose --format jpeg, which needs about a tenth"
            )

    def _raw_bytes(self, spans: Sequence[_Span]) -> int:
        return sum(map(len, spans)) * self.format.size**2 * 3

    def require_boxes(self) -> None:
        """Raises InputError where an archive of boxes is damaged, of which all examples of a split would complain."""
        for examples in self.examples.values():
            complaints = [complaint for example in examples[:2] if (complaint := self._boxes(example)[1])]
            if len(complaints) == 2 and complaints[0] == complaints[1]:
                raise InputError(f"{complaints[0]}, or move it away to do without these boxes")

    def announcement(self, missing: Sequence[_Span]) -> str:
        """What is going to be done, in one line."""
        train, validation = map(len, self.examples.values())
        size, encoding, there = self.format.size, self.format.encoding, len(self.spans) - len(missing)
        return (
            f"{self.dataset.root} ({self.dataset.layout}): {train:,} training and {validation:,} validation pictures "
            f"become squares of {size} pixels in {self.out}"
            + (f", {in_bytes(self._raw_bytes(self.spans))}" if encoding == "raw" else ", as JPEG")
            + (f"; {there} of {len(self.spans)} shards are there already" if there else "")
        )

    def write_shards(self, missing: Sequence[_Span], workers: int) -> None:
        """Writes the shards that are missing, with a progress bar on standard error."""
        everything = sum(map(len, self.spans))
        if not (self.finished or (self.out / PLAN).exists()):
            self._write(PLAN, json.dumps(self.plan()).encode())
        (self.out / PARTS).mkdir(exist_ok=True)
        bar = tqdm(
            desc="prepare", total=everything, initial=everything - sum(map(len, missing)), unit="image", leave=False,
            disable=None,
        )  # fmt: skip
        try:
            with bar:
                write = partial(write_block, self.out, self.format)
                in_processes(write, map(self._block, missing), len(missing), workers, bar)
        finally:
            self.remove_leftovers()

    def _block(self, span: _Span) -> Block:
        examples = self.examples[span.split][span.begin : span.end]
        boxes, complaints = zip(*map(self._boxes, examples), strict=True)
        unreadable = [
            Unreadable(example.name, complaint)
            for example, complaint in zip(examples, complaints, strict=True)
            if complaint
        ]
        return Block(span.split, span.number, examples, boxes, unreadable, self._shard(span) if self.finished else None)

    def _boxes(self, example: Example) -> tuple[list[Box], str]:
        """The boxes of an example, or why they can't be read."""
        try:
            boxes = self.dataset.boxes(example)
        except InputError as error:
            return [], str(error)
        if any(
            abs(corner) > _LARGEST_CORNER for box in boxes for corner in (box.x_min, box.y_min, box.x_max, box.y_max)
        ):
            return [], "has a box with corners that cannot be"
        return boxes, ""

    def join_parts(self) -> None:
        """Writes what stands beside the shards, and last the manifest, which says that the data set is finished."""
        sums, unreadable = PixelSums.zero(self.format.size), list[Unreadable]()
        shards: dict[SplitName, tuple[Shard, ...]] = {}
        files: dict[str, File] = {}
        for split in SPLITS:
            indices, found = [], []
            for part in (self._part(span) for span in self.spans if span.split == split):
                indices.append(part.index)
                found.append(part.shard)
                sums.add_all(part.sums)
                unreadable += part.unreadable
            shards[split] = tuple(found)
            files[index_name(split)] = self._write(index_name(split), Index.joined(indices).to_bytes())
            if not any(shard.images for shard in found):
                first = part.unreadable[0]
                shutil.rmtree(self.out / PARTS)  # the next time all are read again
                name = {"train": "training"}.get(split, split)
                raise InputError(
                    f"{self.dataset.root}: not one of the {name} pictures can be read ({first.name}: {first.reason})"
                )
        files[MEAN] = self._write(MEAN, save({"mean": sums.mean_image()}))
        files[UNREADABLE] = self._write(UNREADABLE, "".join(f"{json.dumps(asdict(u))}\n" for u in unreadable).encode())
        manifest = Manifest(
            size=self.format.size,
            encoding=self.format.encoding,
            source=self.source,
            layout=self.dataset.layout,
            note=self.dataset.note,
            blacklist=self.dataset.blacklist,
            decoder=decoder_name(),
            synsets=self.dataset.synsets,
            colours=sums.colours(),
            unreadable=sum(map(len, self.spans)) - sum(shard.images for split in SPLITS for shard in shards[split]),
            shards=shards,
            files=files,
        )
        self._write(MANIFEST, manifest.to_bytes())

    def _part(self, span: _Span) -> Part:
        path = part_path(self.out, span.split, span.number)
        part = Part.read(path)
        if part is None:
            raise InputError(f"{path}: damaged since it was written; run the same command again")
        return part

    def _write(self, name: str, data: bytes) -> File:
        with prepared_file(self.out / name) as file:
            file.write(data)
        return File(len(data), checksum(data))


def _require_apart(source: Path, out: Path) -> None:
    """What is written must not be taken for a part of what is read."""
    if out.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{out}: lies in {source}, which is only read; name a folder outside of it")


def _require_ours(out: Path) -> None:
    """Raises InputError where a folder holds anything but what `prepare` puts there."""
    try:
        names = {path.name for path in out.iterdir() if not is_unfinished(path)} if out.exists() else set()
    except OSError as error:
        raise InputError(f"{out}: cannot be used ({error.strerror}); name a folder") from error
    if names - {LOCK} and not names & {PLAN, MANIFEST}:
        raise InputError(f"{out}: not empty, and no prepared data set; name a new or empty folder")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Makes the folder and keeps other processes from preparing in it; raises InputError where one is at work."""
    lock = FileLock(out / LOCK)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"{out}: another npconvnet prepare is at work in it") from error
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); name another folder") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """Turns what the disk refuses into InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or out}: {error.strerror or error}; once that is mended, the same command goes on"
        ) from error


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        plan = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        plan = None
    if not isinstance(plan, dict) or not plan.keys() >= _DIFFERENCES.keys():
        raise InputError(f"{path}: damaged; remove the folder and prepare the data set again")
    return plan


def in_bytes(count: int) -> str:
    """A number of bytes for people to read."""
    return f"{tqdm.format_sizeof(count)}B"
