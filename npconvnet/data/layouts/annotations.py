"""Bounding boxes: PASCAL VOC XML, one file an image, in folders or in the official archives."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

from tqdm import tqdm

from npconvnet.data.layouts.companions import archived_files
from npconvnet.data.layouts.listing import stem
from npconvnet.errors import InputError
from npconvnet.synsets import Synset

ANNOTATION_FOLDERS = (
    "ILSVRC/Annotations/CLS-LOC",
    "Annotations/CLS-LOC",
    "Annotations",
    "Annotation",
    "bounding_boxes",
    "bbox",
    "ILSVRC2012_bbox_train_v2",
    "ILSVRC2012_bbox_val_v3",
)


@dataclass(frozen=True, slots=True)
class Box:
    """The bounding box of an object of class `label`, in pixels of the original image, both ends inside it.

    The numbers are those of the annotation file: a few of ILSVRC's boxes reach past the edge of their image.
    """

    label: int
    x_min: int
    y_min: int
    x_max: int
    y_max: int


#: No two threads read an archive. (It is no attribute, as a lock can't be sent to another process.)
_reading_archives = threading.Lock()


class Annotations:
    """The annotations under a folder; none is read before it is asked for. Many threads may ask at once.

    An archive stays in memory once it is read: about a megabyte for a thousand images.
    """

    def __init__(self, root: Path, synsets: Sequence[Synset]) -> None:
        self._root = root
        self._synsets = synsets
        self._index = {synset.wnid: label for label, synset in enumerate(synsets)}

    def boxes(self, name: str, label: int) -> list[Box]:
        """The boxes of the image `name` of class `label` that are of any of the synsets; empty without annotation.

        Raises InputError if the annotation is not VOC XML or cannot be read.
        """
        found = self._find(name, self._synsets[label].wnid)
        if found is None:
            return []
        # Many dogs in the training set are annotated by name, such as Scottish_deerhound, and not by wnid.
        own = dict.fromkeys(self._synsets[label].names.replace(" ", "_").split(",_"), label)
        objects = ((self._index.get(name, own.get(name)), corners) for name, corners in _voc_objects(*found))
        return [Box(label_of_it, *corners) for label_of_it, corners in objects if label_of_it is not None]

    def _find(self, name: str, wnid: str) -> tuple[str, bytes] | None:
        """The path and the content of an image's annotation."""
        split, _, rest = name.partition("/")
        # The tree of annotations is that of the images, but for a level more or less.
        for place in dict.fromkeys((f"{split}/{rest.rpartition('/')[0]}", split, f"{split}/{wnid}", wnid)):
            for folder in self._folders:
                path = folder / place / f"{stem(name)}.xml"
                try:
                    return str(path), path.read_bytes()
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        with _reading_archives:
            archived = self._train_archive if split == "train" else self._validation_archive
        return archived.get(stem(name))

    @cached_property
    def _folders(self) -> list[Path]:
        return [self._root / name for name in ANNOTATION_FOLDERS if (self._root / name).is_dir()]

    @cached_property
    def _train_archive(self) -> dict[str, tuple[str, bytes]]:
        return _read_archives(self._root, "*bbox_train*.t*")

    @cached_property
    def _validation_archive(self) -> dict[str, tuple[str, bytes]]:
        return _read_archives(self._root, "*bbox_val*.t*")


def _read_archives(root: Path, pattern: str) -> dict[str, tuple[str, bytes]]:
    """By stem: the path and the content of each annotation in the archives that fit the pattern."""
    archives = sorted(path for path in root.glob(pattern) if path.is_file())
    files = ((path, *file) for path in archives for file in archived_files(path))
    bar = tqdm(files, "reading boxes", unit="image", delay=2, leave=False, disable=None)
    return {name.removesuffix(".xml"): (f"{path}/{name}", content) for path, name, content in bar}


def _voc_objects(path: str, xml: bytes) -> list[tuple[str, list[int]]]:
    """The class and the corners (x_min, y_min, x_max, y_max) of each object in a VOC annotation."""
    try:
        return [
            (
                (thing.findtext("name") or "").strip(),
                [int(float(thing.findtext(f"bndbox/{corner}", ""))) for corner in ("xmin", "ymin", "xmax", "ymax")],
            )
            for thing in ElementTree.fromstring(xml).iter("object")
        ]
    except (ElementTree.ParseError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: cannot be read as a VOC annotation ({error})") from error
