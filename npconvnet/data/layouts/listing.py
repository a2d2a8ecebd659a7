"""Listing the images of a folder or a tar with the class folder of each, without opening or unpacking one.

A folder of 1.28 million images is listed with one `scandir` a class. Of a tar only the headers are read; the official
training set is a tar of one tar a class, and its images are addressed by their offset in the outer file.
"""

import os
import tarfile
from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from npconvnet.errors import InputError

_IMAGE_SUFFIXES = frozenset(("jpeg", "jpg", "png", "bmp", "webp", "gif", "ppm", "tif", "tiff"))


@dataclass(frozen=True, slots=True)
class Listing:
    """The images in a folder or a tar, and the class folder (in a tar of tars: the inner tar) of each."""

    base: Path  # the folder that the names are relative to, or the tar
    names: list[str]
    folders: list[str]  # of each image; "" for an image in no class folder
    empty: list[str]  # class folders without images
    places: NDArray[np.int64] | None = None  # (N, 2): offset and size in bytes of each image in the tar


def list_images(path: Path, split: str) -> Listing:
    """List a split that is a folder or a tar; the names of a tar are those it would have in the folder `split`.

    Raises InputError if the tar is cut off, OSError if the path cannot be read.
    """
    return list_folder(path.parent, f"{path.name}/") if path.is_dir() else _list_tar(path, f"{split}/")


def list_folder(base: Path, prefix: str, leave_out: Collection[str] = ()) -> Listing:
    """List the class folders in `base`/`prefix`, each with all folders in it, and the images that lie beside them.

    Folders named in `leave_out` are no class folders. Raises OSError if a folder cannot be read.
    """
    subfolders, loose = scan(base / prefix)
    classes = [folder for folder in subfolders if folder not in leave_out]
    listing = Listing(base, [prefix + name for name in loose], [""] * len(loose), [])
    for folder in tqdm(classes, f"listing {base / prefix}", unit="class", delay=2, leave=False, disable=None):
        names = _walk(base / prefix / folder, f"{prefix}{folder}/")
        listing.names.extend(names)
        listing.folders.extend([folder] * len(names))
        if not names:
            listing.empty.append(folder)
    return listing


def scan(folder: Path) -> tuple[list[str], list[str]]:
    """The sorted names of the folders and of the images in a folder, less the hidden ones; no stat for each."""
    subfolders, images = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_folder(entry):
                if not entry.name.startswith("."):
                    subfolders.append(entry.name)
            elif _is_image(entry.name):
                images.append(entry.name)
    return sorted(subfolders), sorted(images)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle: whoever opens one says so
        return False


def stem(name: str) -> str:
    """The base name of an image, without its suffix if it has one: by this, labels and annotations name it."""
    base = name.rpartition("/")[2]
    return base.rpartition(".")[0] if _is_image(base) else base


def printable(name: str) -> str:
    r"""A file name that can be written as UTF-8: bytes that are none, surrogates to Python, become \xff and so on."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_image(name: str) -> bool:
    base, _, suffix = name.rpartition(".")
    return base != "" and suffix.lower() in _IMAGE_SUFFIXES and not name.startswith(".")


def _walk(folder: Path, prefix: str) -> list[str]:
    """Names, after the prefix, of the images in a folder and in the folders in it."""
    subfolders, images = scan(folder)
    names = [prefix + name for name in images]
    for subfolder in subfolders:
        names += _walk(folder / subfolder, f"{prefix}{subfolder}/")
    return names


def _list_tar(path: Path, prefix: str) -> Listing:
    """The images in a tar and in the tars in it. Of members of one name the last counts, as in unpacking."""
    names: list[str] = []
    folders: list[str] = []
    places = array("q")  # offset, size, offset, size, ...
    inner_tars: dict[str, tuple[int, int]] = {}  # by class folder: start and end in bytes
    empty: list[str] = []

    def add(member: tarfile.TarInfo, name: PurePosixPath) -> None:
        if member.isfile() and _is_image(name.name):
            names.append(f"{prefix}{name}")
            folders.append(name.parts[0] if len(name.parts) > 1 else "")
            places.extend((member.offset_data, member.size))

    size = path.stat().st_size
    bar = tqdm(desc=f"indexing {path.name}", total=size, unit="B", unit_scale=True, delay=2, leave=False, disable=None)
    with path.open("rb") as file, bar:
        for member in _tar_members(path, file, 0, size):
            name = _path_below(member.name)
            if member.isfile() and name.suffix == ".tar":
                inner_tars[name.stem] = member.offset_data, member.offset_data + member.size
            else:
                add(member, name)
                bar.update(member.size)
        for folder, (start, end) in inner_tars.items():
            before = len(names)
            for member in _tar_members(path, file, start, end):
                add(member, folder / _path_below(member.name))
            if len(names) == before:
                empty.append(folder)
            bar.update(end - start)
    order = sorted(range(len(names)), key=names.__getitem__)  # members of one name stay in their order
    order = [at for at, after in pairwise(order) if names[at] != names[after]] + order[-1:]
    return Listing(
        base=path,
        names=[names[at] for at in order],
        folders=[folders[at] for at in order],
        empty=empty,
        places=np.array(places, np.int64).reshape(-1, 2)[order],
    )


def _path_below(name: str) -> PurePosixPath:
    """The path of a member below the folder into which it would be unpacked, even if it begins with / or has `..`."""
    return PurePosixPath(*(part for part in name.split("/") if part != ".."))


def _tar_members(path: Path, file: IO[bytes], start: int, end: int) -> Iterator[tarfile.TarInfo]:
    """The members of the tar in bytes start to end of an open file; their offsets count from the file's start."""
    cut_off = InputError(f"{path}: the tar is cut off or damaged; copy or download it again")
    file.seek(start)
    try:
        with tarfile.TarFile(fileobj=file) as tar:
            for member in iter(tar.next, None):
                if member.size < 0 or tar.offset > end:
                    raise cut_off
                tar.members.clear()  # type: ignore[attr-defined]  # half a kilobyte each
                yield member
    except (tarfile.TarError, OverflowError) as error:
        raise cut_off from error
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a missing end, too, for the end
        raise cut_off
