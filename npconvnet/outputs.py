"""Files that commands write: whether they can be, before the work begins, and the writing itself."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np

from npconvnet.backend import Array, to_host
from npconvnet.errors import InputError


def as_file_name(text: str) -> str:
    """`text`, which may come from a file, with nothing in it that leads to another folder."""
    return re.sub(r"[^\w.-]+", "_", text).strip("._") or "_"


def require_writable(path: Path) -> Path:
    """`path` itself; raises InputError where no file can be written there."""
    folder = path.parent
    try:
        if not folder.is_dir():
            raise InputError(f"{path}: there is no folder {folder}; make it, or choose another place")
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give the name of a file")
        if not os.access(path if path.exists() else folder, os.W_OK):
            raise InputError(f"{path}: cannot be written (no permission); choose another place")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
    return path


def require_outputs(outputs: Iterable[Path | None], inputs: Iterable[Path | None]) -> None:
    """What a command asks before its work begins; None stands for a file that it was not asked for.

    Raises InputError where an output can't be written or would overwrite an input, and where two are one file.
    """
    read = {path.resolve() for path in inputs if path}
    written: set[Path] = set()
    for path in map(require_writable, filter(None, outputs)):
        if path.resolve() in read:
            raise InputError(f"{path}: would be overwritten, and it is an input; choose another place for the output")
        if path.resolve() in written:
            raise InputError(f"{path}: is named for two outputs; give each a name of its own")
        written.add(path.resolve())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file; raises InputError where it can't be written."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


#: The way out where a file can't be written.
NO_ROOM = "free some space or choose another folder"


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Writes a file as `whole_file` does."""
    with whole_file(path, NO_ROOM) as file:
        file.write(data)


@contextmanager
def whole_file(path: Path, way_out: str, mark: str = "") -> Iterator[IO[bytes]]:
    """A new file, which is called `path` only when all of it is written and on the disk.

    Until then its name has `mark` in it, which tells apart two who write the same file. Raises InputError, with what to
    do, where that fails, a full disk among the reasons; nothing is left behind then, and `path` is as it was.
    """
    unfinished = path.with_name(f".{path.name}{mark}{_UNFINISHED}")
    try:
        with unfinished.open("wb") as file:
            yield file
            bring_to_disk(file)
        unfinished.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"{path}: cannot be written ({error.strerror}); {way_out}") from error
        raise


#: Ends the name of a file that is not whole.
_UNFINISHED = ".unfinished"


def is_unfinished(path: Path) -> bool:
    """Whether `whole_file` has named a file, and not given it its name yet."""
    return path.name.startswith(".") and path.suffix == _UNFINISHED


def bring_to_disk(file: IO[bytes]) -> None:
    """Returns when what was written to `file` would survive a power cut."""
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself survive a power cut, on systems where a folder can be opened."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def save_arrays(path: Path, **arrays: Array) -> None:
    """Writes named arrays as a compressed .npz file; raises InputError where it can't be written."""
    file = BytesIO()
    np.savez_compressed(file, **{name: to_host(array) for name, array in arrays.items()})  # type: ignore[arg-type]
    write_bytes(path, file.getvalue())
