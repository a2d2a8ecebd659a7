"""What `--data` means: a prepared folder, or a data set in one of ILSVRC's layouts; either way squares to be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from npconvnet.data.augment import ColourStatistics
from npconvnet.data.cache import LARGEST, bytes_of_squares, prepared_in_cache
from npconvnet.data.ilsvrc import Dataset, open_dataset
from npconvnet.data.image_files import ImageFiles
from npconvnet.data.loader import Source
from npconvnet.data.shards.manifest import UNREADABLE
from npconvnet.data.shards.reading import PreparedDataset, holds_shards, open_prepared
from npconvnet.errors import InputError
from npconvnet.preprocessing import Preprocessing
from npconvnet.synsets import Synset


@dataclass(frozen=True, slots=True)
class Data:
    """The pictures of a data set as squares: those to train on, and those to test with.

    `root` is what the user named, and `layout` that of the original. `note` says what needs saying, or is empty. Of a
    prepared data set the `colours` of all training pictures are known, and checksums: `source` of what the original
    lists (names and labels), and `pictures` of the squares.
    """

    root: Path
    layout: str
    note: str
    synsets: tuple[Synset, ...]
    train: Source
    validation: Source
    colours: ColourStatistics | None = None
    source: str | None = None
    pictures: str | None = None


def open_data(root: Path, preprocessing: Preprocessing) -> Data:
    """The data set in a folder, of squares as `preprocessing` wants them: read where it is prepared, or else decoded.

    Raises InputError as `open_dataset` and `open_prepared` do, and where it was prepared in another way.
    """
    if holds_shards(root):
        return _prepared(open_prepared(root), root, preprocessing)
    return _decoded(open_dataset(root), preprocessing)


def open_to_train(root: Path, preprocessing: Preprocessing, say: Callable[[str], None]) -> Data:
    """The same, to be read many times: a small data set is prepared in the user's cache, where that is possible.

    Calls `say` with a line on what is done, or what could be done. Raises InputError as `open_data` does.
    """
    if holds_shards(root):
        return _prepared(open_prepared(root), root, preprocessing)
    dataset, size = open_dataset(root), preprocessing.resize
    images, taken = len(dataset.train) + len(dataset.validation), bytes_of_squares(dataset, size)
    if taken > LARGEST:
        say(
            f"{root}: its {images:,} images are decoded anew in each epoch; it is faster to do so once, which takes "
            f"{taken / 2**30:.0f} GiB: npconvnet prepare {root} OUT --size {size}"
        )
        return _decoded(dataset, preprocessing)
    try:
        return _prepared(prepared_in_cache(dataset, size, say), root, preprocessing)
    except (InputError, OSError) as error:
        say(f"{root}: decoded anew in each epoch, as it can't be prepared in the cache ({error})")
        return _decoded(dataset, preprocessing)


def _prepared(prepared: PreparedDataset, root: Path, preprocessing: Preprocessing) -> Data:
    manifest = prepared.manifest
    _require_as_prepared(prepared, preprocessing)
    notes = [manifest.note] if manifest.note else []
    if manifest.unreadable:
        notes.append(f"{manifest.unreadable} of its files could not be read: see {prepared.root / UNREADABLE}")
    return Data(
        root,
        manifest.layout,
        "; ".join(notes),
        manifest.synsets,
        prepared.train,
        prepared.validation,
        manifest.colours,
        manifest.source,
        manifest.pictures,
    )


def _decoded(dataset: Dataset, preprocessing: Preprocessing) -> Data:
    train, validation = (ImageFiles(images, preprocessing) for images in (dataset.train, dataset.validation))
    return Data(dataset.root, dataset.layout, dataset.note, dataset.synsets, train, validation)


def _require_as_prepared(prepared: PreparedDataset, preprocessing: Preprocessing) -> None:
    """Raises InputError where the squares are not those that `preprocessing` would make."""
    root, size, wanted = prepared.root, prepared.manifest.size, preprocessing.resize
    if preprocessing.interpolation != "bilinear" or not preprocessing.keep_aspect:
        raise InputError(
            f"{root}: prepared by bilinear interpolation with the aspect kept, which is not how this network sees "
            "pictures; give the original data set"
        )
    if size != wanted:
        raise InputError(
            f"{root}: squares of {size} pixels, and this network takes {wanted}; give the original data set, or "
            f"prepare it with --size {wanted}"
        )
