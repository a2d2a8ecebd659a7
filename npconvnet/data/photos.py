"""The photographs of one call: which files are meant, where their results go, and what became of those that failed."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from npconvnet.data.image import read_image
from npconvnet.data.layouts.listing import scan
from npconvnet.errors import InputError
from npconvnet.outputs import require_writable
from npconvnet.preprocessing import Picture


class Photos:
    """The image files that `paths` mean: a file itself, a folder all images in it.

    One photo that can't be read is an error; of `several`, the others go on, and `finish` names those that failed.
    Raises InputError for a folder that has no images.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.files = [file for path in paths for file in _files(path)]
        self.failures: list[str] = []
        self.several = len(self.files) > 1 or any(path.is_dir() for path in paths)

    def destinations(self, output: Path | None, ending: str) -> dict[Path, Path]:
        """For each photo the file of its result: NAME + `ending`, such as "_saliency.png".

        For one photo `output` is that file, or a folder to put it in; for several a folder, made where there is none.
        Without `output` it is the current folder. Raises InputError where nothing can be written, and where two photos
        would have the same result.
        """
        if output and not self.several and not output.is_dir():
            return {self.files[0]: require_writable(output)}
        folder = output or Path()
        _make_folder(folder)
        clashes = [name for name, count in Counter(file.stem for file in set(self.files)).items() if count > 1]
        if clashes:
            raise InputError(f"two photos would both be written to {clashes[0]}{ending}; give them in separate calls")
        return {file: require_writable(folder / f"{file.stem}{ending}") for file in self.files}

    def batches(self, size: int, label: str) -> Iterator[list[tuple[Path, Picture]]]:
        """The photos that can be read, each with its file, `size` at a time, under a progress bar called `label`."""
        bar = tqdm(total=len(self.files), desc=label, unit="photo", leave=False, disable=None if self.several else True)
        with bar:
            for first in range(0, len(self.files), size):
                batch = []
                for file in self.files[first : first + size]:
                    with self.may_fail():
                        batch.append((file, read_image(file)))
                if batch:
                    yield batch
                bar.update(len(self.files[first : first + size]))

    @contextmanager
    def may_fail(self) -> Iterator[None]:
        """What is done here for one of several photos may raise InputError without stopping the others."""
        try:
            yield
        except InputError as error:
            if not self.several:
                raise
            self.failures.append(str(error))

    def finish(self) -> None:
        """Names the failures on standard error, and raises InputError if there were any."""
        for failure in self.failures:
            print(f"failed: {failure}", file=sys.stderr)
        if self.failures:
            raise InputError(f"{len(self.failures)} of {len(self.files)} photos failed; the others are done")


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        images = [path / name for name in scan(path)[1]]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if not images:
        raise InputError(f"{path}: no images in this folder; give photos, or a folder that holds some")
    return images


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: is no folder and can't be made one ({error.strerror})") from error
