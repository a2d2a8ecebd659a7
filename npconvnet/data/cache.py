"""What is kept in the user's cache: the toy set, and squares of small data sets, so that they are decoded only once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from itertools import chain
from pathlib import Path

from filelock import FileLock, Timeout

from npconvnet.data.ilsvrc import Dataset
from npconvnet.data.shards.manifest import PLAN, checksum
from npconvnet.data.shards.preparing import prepare
from npconvnet.data.shards.reading import PreparedDataset, open_prepared
from npconvnet.errors import InputError

#: Data sets whose squares take more bytes are not prepared unasked: 10,000 squares of 256 pixels are decoded in a
#: minute or two, and nobody misses so much room on a disk.
LARGEST = 2 * 2**30


def cache_folder() -> Path:
    """Below $XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "npconvnet"


def toy_folder() -> Path:
    """Where the toy set is kept."""
    return cache_folder() / "toy"


def bytes_of_squares(dataset: Dataset, size: int) -> int:
    """What the pictures of `dataset` take as squares of `size` pixels."""
    return (len(dataset.train) + len(dataset.validation)) * size**2 * 3


def prepared_in_cache(dataset: Dataset, size: int, say: Callable[[str], None]) -> PreparedDataset:
    """`dataset` as squares of `size` pixels, prepared anew if its files are others than they were.

    Calls `say` with a line on what goes on. Of two processes that ask for one data set, the second waits for the first.
    Raises InputError or OSError where the data set can't be prepared; then nothing is left of it.
    """
    root = dataset.root.resolve()
    home = cache_folder() / "prepared" / f"{root.name[:40]}-{size}-{_hash(str(root))}"
    folder = home / _hash(*_state(dataset))
    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / "lock")
    try:
        locked = lock.acquire(timeout=0)
    except Timeout:
        say(f"waiting for another run, which is preparing {root} in {home}")
        locked = lock.acquire()
    with locked:
        with suppress(InputError):  # damaged, or not there yet
            prepared = open_prepared(folder)
            say(f"{root} was prepared before, in {folder}")
            return prepared
        for old in home.iterdir():
            if old.is_dir() and not (old == folder and (old / PLAN).exists()):  # work that was begun goes on
                shutil.rmtree(old)
        say(f"preparing {root} once, in {folder} ({bytes_of_squares(dataset, size) / 2**20:.0f} MiB)")
        try:
            return prepare(root, folder, size).dataset
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _state(dataset: Dataset) -> Iterator[str]:
    """Whatever differs when the squares would: the classes, and each image's name, label, place, size and time."""

    @cache  # all images of a tar have one file
    def of_file(path: Path) -> str:
        try:
            found = path.stat()
        except OSError as error:
            return str(error)
        return f"{found.st_size} {found.st_mtime_ns}"

    yield repr((dataset.layout, dataset.synsets, dataset.note))
    for example in chain(dataset.train, dataset.validation):
        yield f"{example.name} {example.label} {example.offset} {example.size} {of_file(example.path)}"


def _hash(*lines: str) -> str:
    return checksum("\n".join(lines).encode("utf-8", "surrogateescape"))
