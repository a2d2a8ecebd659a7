"""ImageNet's classification and localisation data (ILSVRC 2012–2015), in any layout in which people keep it.

`open_dataset` looks at what a folder holds and understands

* the official tars (ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, the devkit), read in place without unpacking;
* the unpacked tree: train/<wnid>/*.JPEG with val/<wnid>/*.JPEG, or with val/*.JPEG and a file of labels;
* Kaggle's tree: ILSVRC/Data/CLS-LOC/{train/<wnid>,val} with LOC_val_solution.csv;
* any folder of class folders, with or without train/ and val/ above them.

A class's label is its position among the sorted wnids (folder names). Images are listed here, never decoded.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from npconvnet.data.layouts.annotations import ANNOTATION_FOLDERS, Annotations, Box
from npconvnet.data.layouts.companions import Companions, text_lines
from npconvnet.data.layouts.listing import Listing, list_folder, list_images, printable, scan, stem
from npconvnet.errors import InputError
from npconvnet.synsets import Synset, imagenet_synsets

__all__ = ["Box", "Dataset", "Example", "Synset", "imagenet_synsets", "open_dataset"]

_KAGGLE_HOMES = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
_TRAIN_TAR, _VALIDATION_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_VALIDATION_FOLDERS = ("val", "validation", "test")
_LABEL_FILES = ("LOC_val_solution.csv", "val*.txt", "*validation*labels.txt", "*validation_ground_truth.txt")
_SYNSET_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt")
_LAYOUTS = (
    f"{_TRAIN_TAR} with {_VALIDATION_TAR}; train/CLASS/ with val/CLASS/, or with val/ and a file of labels; "
    "Kaggle's ILSVRC/Data/CLS-LOC; CLASS/ folders of images"
)


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled image: `size` bytes from `offset` of the tar `path`, or (size -1) the whole file `path`.

    `name` is its path in the unpacked data set, such as "train/n01440764/n01440764_10026.JPEG" or
    "val/ILSVRC2012_val_00000001.JPEG", and unique in it. It can be printed, whatever bytes a file is named by.
    """

    name: str
    label: int
    path: Path
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        """The bytes of the image file. Raises InputError if they cannot be read."""
        try:
            with open(self.path, "rb", opener=_open_at_once) as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise InputError(f"{printable(str(self.path))}: cannot read {self.name} ({error.strerror})") from error
        if len(data) < self.size:
            raise InputError(
                f"{printable(str(self.path))}: cut off before the end of {self.name}; copy or download it again"
            )
        return data


def _open_at_once(path: str, flags: int) -> int:
    """Opens a file, and does not wait for somebody to write where it is a pipe that is called like an image."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


@dataclass(frozen=True, slots=True)
class Dataset:
    """A labelled data set. A label is an index into `synsets`, which are sorted by wnid (folder name).

    `layout` is "official tars", "unpacked", "Kaggle" or "class folders". `blacklist` holds the names of the validation
    examples that the localisation task leaves out; it is empty where the devkit's list is missing. `note` is a sentence
    about how the validation images were chosen where that needs saying, and empty elsewhere.
    """

    root: Path
    layout: str
    synsets: tuple[Synset, ...]
    train: Sequence[Example]
    validation: Sequence[Example]
    blacklist: frozenset[str]
    note: str
    _annotations: Annotations = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_annotations", Annotations(self.root, self.synsets))

    def boxes(self, example: Example) -> list[Box]:
        """The annotated boxes of an example that are of classes of the data set; empty if it has no annotation.

        Many threads may call it at once: an archive of annotations is read by one, and the others wait.

        Raises InputError if the annotation is not VOC XML, or if an archive of annotations is damaged.
        """
        return self._annotations.boxes(example.name, example.label)


def open_dataset(root: Path | str) -> Dataset:
    """List the data set in a folder, whichever of the layouts above it has.

    Raises InputError, naming what is wrong, if the folder or a tar cannot be read, no layout is recognised, a training
    class has no images, there is one class only, or the validation images and their labels do not agree.
    """
    root = Path(root)
    try:
        if not root.exists():
            raise InputError(f"{root}: no such folder; give the folder that holds the data set")
        if not root.is_dir():
            raise InputError(f"{root}: not a folder; give the folder that holds the data set")
        return _open_splits(root) or _open_class_folders(root)
    except OSError as error:
        raise InputError(f"{error.filename or root}: cannot be read ({error.strerror or error})") from error


def _open_splits(root: Path) -> Dataset | None:
    """The data set of a folder that keeps training and validation images apart; None if this one does not."""
    home = _first_existing(*(root / place for place in _KAGGLE_HOMES)) or root
    train_path = _first_existing(home / "train", home / _TRAIN_TAR)
    validation_path = _first_existing(*(home / name for name in (*_VALIDATION_FOLDERS, _VALIDATION_TAR)))
    if validation_path is None and (train_path is None or not _is_split(train_path)):
        return None
    if train_path is None:
        raise InputError(f"{home}: no training images; add a train/ folder or {_TRAIN_TAR}")
    if validation_path is None:
        raise InputError(f"{home}: no validation images; add a val/ folder or {_VALIDATION_TAR}")

    train = list_images(train_path, "train")
    classes = _classes(train, train_path)
    index = {wnid: label for label, wnid in enumerate(classes)}
    validation = list_images(validation_path, "val")
    if not validation.names:
        raise InputError(f"{validation_path}: no validation images in it; add some")
    companions = Companions(root, home, validation_path)
    return Dataset(
        root=root,
        layout=_layout(root, home, train_path, classes),
        synsets=_synsets(classes, companions),
        train=_Examples(train, _labels_by_folder(train, index)),
        validation=_Examples(validation, _validation_labels(validation, validation_path, index, companions)),
        blacklist=_blacklist(validation, companions),
        note="the validation images are those in test/, as there is no val/" if validation_path.name == "test" else "",
    )


def _open_class_folders(root: Path) -> Dataset:
    """The data set of a folder of class folders: one image in ten of each class is held out for validation."""
    listing = list_folder(root, "", leave_out=ANNOTATION_FOLDERS)
    if not any(listing.folders):
        raise InputError(f"{root}: no images in a layout that is understood: {_LAYOUTS}")
    classes = _classes(listing, root)
    labels = _labels_by_folder(listing, {name: label for label, name in enumerate(classes)})
    seen: Counter[str] = Counter()
    held_out = np.zeros(len(labels), bool)
    for at, folder in enumerate(listing.folders):
        held_out[at] = seen[folder] % 10 == 1  # from the second on: a class of two has one on either side
        seen[folder] += 1
    validation = _Examples(listing, np.where(held_out, labels, -1))
    if not validation:
        raise InputError(f"{root}: no validation images; add a second image to the classes, or a val/ folder")
    return Dataset(
        root=root,
        layout="class folders",
        synsets=_synsets(classes, Companions(root)),
        train=_Examples(listing, np.where(held_out, -1, labels)),
        validation=validation,
        blacklist=frozenset(),
        note=f"no val/ folder: every tenth image of each class is held out for validation ({len(validation)} images)",
    )


def _first_existing(*paths: Path) -> Path | None:
    return next((path for path in paths if path.exists()), None)


def _is_split(train: Path) -> bool:
    """Whether "train" is the training split, and not a class of that name among cars and buses."""
    return train.is_file() or bool(scan(train)[0])


def _layout(root: Path, home: Path, train: Path, classes: Iterable[str]) -> str:
    if home != root:
        return "Kaggle"
    if train.is_file():
        return "official tars"
    return "unpacked" if all(re.fullmatch(r"n\d{8}", name) for name in classes) else "class folders"


class _Examples(Sequence[Example]):
    """The labelled images of a listing, made into Examples when asked for: 1.28 million would take half a gigabyte."""

    def __init__(self, listing: Listing, labels: NDArray[np.int32]) -> None:
        """`labels` (N,) holds -1 for the images that are left out."""
        self._listing = listing
        self._chosen = np.flatnonzero(labels >= 0)
        self._labels = labels[self._chosen]

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> list[Example]: ...
    def __getitem__(self, at: int | slice) -> Example | list[Example]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        listing, chosen, label = self._listing, self._chosen[at], int(self._labels[at])
        name = listing.names[chosen]
        if listing.places is None:
            return Example(printable(name), label, listing.base / name)
        offset, size = listing.places[chosen].tolist()
        return Example(printable(name), label, listing.base, offset, size)


# ---- Classes --------------------------------------------------------------------------------------------------------


def _classes(listing: Listing, path: Path) -> list[str]:
    """The sorted class folders of the training images."""
    if listing.empty:
        shown = ", ".join(listing.empty[:3]) + (f" and {len(listing.empty) - 3} more" if len(listing.empty) > 3 else "")
        raise InputError(f"{path}: class folder without images: {shown}; add images or remove the folder")
    classes = sorted(set(listing.folders) - {""})
    if not classes:
        raise InputError(f"{path}: no class folders with images; understood are {_LAYOUTS}")
    if len(classes) == 1:
        raise InputError(f"{path}: only one class, {classes[0]}; add a second class folder")
    return classes


def _synsets(classes: Iterable[str], companions: Companions) -> tuple[Synset, ...]:
    """The synset of each class: from a file of lines "wnid names", from ImageNet's table, from the devkit, or bare."""
    names = {synset.wnid: synset.names for synset in (*companions.ilsvrc_ids.values(), *imagenet_synsets())}
    if synset_file := companions.find(*_SYNSET_FILES):
        rows = (line.split(maxsplit=1) for line in text_lines(synset_file[1]))
        names |= {row[0]: row[1].strip() for row in rows if len(row) == 2}
    return tuple(Synset(wnid, names.get(wnid, wnid)) for wnid in map(printable, classes))


# ---- Labels of the validation images --------------------------------------------------------------------------------

_Rows = Sequence[tuple[str, list[str]]]  # where a line of labels stands ("file:line"), and its columns


def _labels_by_folder(listing: Listing, index: Mapping[str, int]) -> NDArray[np.int32]:
    """Labels (N,) by the class folder of each image; -1 for an image in none."""
    return np.array([index[folder] if folder else -1 for folder in listing.folders], np.int32)


def _validation_labels(
    listing: Listing, path: Path, index: Mapping[str, int], companions: Companions
) -> NDArray[np.int32]:
    """Labels (N,) of the validation images: by class folders if there are any, or else by a file of labels."""
    folders = set(listing.folders) - {""}
    unknown = sorted(folders - index.keys())
    if folders and not unknown:
        return _labels_by_folder(listing, index)
    label_file = None if folders & index.keys() else companions.find(*_LABEL_FILES)
    if label_file is None and unknown:
        raise InputError(f"{path}: folder {unknown[0]} is not a class of the training images; rename or remove it")
    if label_file is None:
        raise InputError(
            f"{path}: no labels for these images; add LOC_val_solution.csv, a val.txt of lines 'image wnid' or "
            "ILSVRC2012_devkit_t12.tar.gz, or sort them into class folders"
        )
    shown, text = label_file
    rows = [(f"{shown}:{number}", _columns(line)) for number, line in enumerate(text_lines(text), 1) if line.strip()]
    if rows and len(rows[0][1]) == 1:
        return _labels_in_order(listing, shown, rows, index, companions)
    return _labels_by_name(listing, shown, rows, index)


def _columns(line: str) -> list[str]:
    """A label, or an image and its label, of a line: parted by a tab, a comma or white space."""
    if "\t" in line:
        return line.split("\t")[:2]
    return line.split(",", 1) if "," in line else line.rsplit(maxsplit=1)


def _labels_in_order(
    listing: Listing, shown: str, rows: _Rows, index: Mapping[str, int], companions: Companions
) -> NDArray[np.int32]:
    """Labels (N,) from a file of one wnid, or of one of the devkit's ids, for each image in the order of names."""
    if len(rows) != len(listing.names):
        raise InputError(
            f"{shown}: {len(rows)} labels for {len(listing.names)} validation images; one of the two is incomplete"
        )
    ids = companions.ilsvrc_ids
    if rows[0][1][0].strip().isdecimal() and not ids:
        raise InputError(f"{shown}: its ILSVRC ids need ILSVRC2012_devkit_t12.tar.gz, which says what they stand for")
    by_id = {number: index[synset.wnid] for number, synset in ids.items() if synset.wnid in index}
    return np.array([_label(where, columns[0], index, by_id) for where, columns in rows], np.int32)


def _labels_by_name(listing: Listing, shown: str, rows: _Rows, index: Mapping[str, int]) -> NDArray[np.int32]:
    """Labels (N,) from a file of lines "image label", the label being a wnid or its index from 0."""
    by_stem = {stem(columns[0].strip()): (where, columns) for where, columns in rows}
    positions = {label: label for label in index.values()}
    labels = []
    for name in listing.names:
        where, columns = by_stem.get(stem(name), ("", []))
        if len(columns) < 2:
            raise InputError(f"{shown}: no label for the validation image {stem(name)}")
        labels.append(_label(where, columns[1], index, positions))
    return np.array(labels, np.int32)


def _label(where: str, text: str, index: Mapping[str, int], by_number: Mapping[int, int]) -> int:
    """The label of a class name, of the wnid in a Kaggle prediction ("n03995372 85 1 499 272"), or of a number."""
    text = text.strip()
    first = text.partition(" ")[0]
    label = index.get(text, index.get(first))
    if label is None and first.isdecimal():
        label = by_number.get(int(first))
    if label is None:
        raise InputError(f"{where}: label {first!r} is none of the {len(index)} classes of the training images")
    return label


def _blacklist(listing: Listing, companions: Companions) -> frozenset[str]:
    """The names of the images whose numbers are in the devkit's blacklist."""
    listed = companions.find("*blacklist*.txt")
    numbers = text_lines(listed[1]) if listed else []
    stems = {f"ILSVRC2012_val_{int(number):08d}" for number in numbers if number.strip().isdecimal()}
    return frozenset(printable(name) for name in listing.names if stem(name) in stems)
