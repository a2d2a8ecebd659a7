"""The small files beside the images: labels, names of synsets, the blacklist; some of them are in the devkit."""

import io
import tarfile
import zlib
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO

import scipy.io

from npconvnet.errors import InputError
from npconvnet.synsets import Synset


class Companions:
    """Finds a file by the pattern of its name in some folders and in the devkit, which is a folder or a tarball."""

    def __init__(self, root: Path, *folders: Path) -> None:
        """Look in `root` and `folders`, and in the devkit that is in `root` or one folder below it."""
        devkits = (*root.glob("*devkit*"), *root.glob("*/devkit"))
        places = (root, *folders, *devkits, *(devkit / "data" for devkit in devkits))
        self._folders = [place for place in places if place.is_dir()]
        self._tarballs = sorted(root.glob("*devkit*.t*gz"))

    def find(self, *patterns: str) -> tuple[str, bytes] | None:
        """The path and the content of the first file that fits the first pattern that any file fits."""
        for pattern in patterns:
            for path in (path for folder in self._folders for path in sorted(folder.glob(pattern))):
                return str(path), path.read_bytes()
            for path_in_tarball, content in self._archived.items():
                if fnmatch(path_in_tarball.rpartition("/")[2], pattern):
                    return path_in_tarball, content
        return None

    @cached_property
    def _archived(self) -> dict[str, bytes]:
        return {f"{path}/{name}": content for path in self._tarballs for name, content in archived_files(path)}

    @cached_property
    def ilsvrc_ids(self) -> dict[int, Synset]:
        """The synset of each of the devkit's ids, which count from 1 and are not in the order of the wnids.

        Raises InputError if the devkit cannot be read; empty if there is none.
        """
        for name, read in (("meta.mat", _read_meta), ("map_clsloc.txt", _read_map)):
            if found := self.find(name):
                try:
                    return read(found[1])
                except Exception as error:  # loadmat raises nearly anything on damaged bytes
                    raise InputError(f"{found[0]}: cannot be read as the devkit's list of synsets") from error
        return {}


def _read_meta(content: bytes) -> dict[int, Synset]:
    """The devkit of 2012: the leaves of the tree of synsets in meta.mat."""
    # (the type stub knows only paths)
    synsets = scipy.io.loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]  # type: ignore[arg-type]
    leaves = (synset for synset in synsets if synset["num_children"] == 0)
    return {int(leaf["ILSVRC2012_ID"]): Synset(str(leaf["WNID"]), str(leaf["words"])) for leaf in leaves}


def _read_map(content: bytes) -> dict[int, Synset]:
    """The devkits of 2013 to 2015: lines such as "n02119789 1 kit_fox"."""
    rows = (line.split() for line in text_lines(content))
    return {int(number): Synset(wnid, name.replace("_", " ")) for wnid, number, name in rows}


def text_lines(content: bytes) -> list[str]:
    """The lines of a text file, UTF-8 as far as it goes."""
    return content.decode("utf-8-sig", errors="replace").splitlines()


def archived_files(path: Path, archive: IO[bytes] | None = None) -> Iterator[tuple[str, bytes]]:
    """Base name and content of each file in the tar `path` (or in `archive`, a tar in it), compressed or not.

    Raises InputError if it cannot be read to its end.
    """
    try:
        with tarfile.open(None if archive else path, "r|*", archive) as tar:
            for member in tar:
                content = tar.extractfile(member)
                if content is None:  # a folder
                    continue
                name = PurePosixPath(member.name).name
                if fnmatch(name, "*.tar") or fnmatch(name, "*.t*gz"):
                    yield from archived_files(path, io.BytesIO(content.read()))
                else:
                    yield name, content.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise InputError(f"{path}: the archive cannot be read to its end; copy or download it again") from error
