"""The toy set: a small, honest stand-in for ImageNet, written as a miniature ILSVRC in Kaggle's layout."""

import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from glob import escape
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from numpy.random import default_rng
from PIL import Image
from tqdm import tqdm

from npconvnet.data.toy_pictures import TOY_SYNSETS, Box, bounding_box, draw_picture
from npconvnet.errors import InputError
from npconvnet.processes import process_pool

_RECIPE = 1  # counts up whenever the pictures of a seed change, so that an older set is not taken for today's
_SPLITS = ("train", "val")
_SECONDS_OF_A_DAY = 24 * 60 * 60

_ANNOTATION = """\
<annotation>
\t<folder>{folder}</folder>
\t<filename>{image_id}</filename>
\t<source>
\t\t<database>npconvnet toy set</database>
\t</source>
\t<size>
\t\t<width>{width}</width>
\t\t<height>{height}</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>0</segmented>
\t<object>
\t\t<name>{wnid}</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>0</difficult>
\t\t<bndbox>
\t\t\t<xmin>{box[0]}</xmin>
\t\t\t<ymin>{box[1]}</ymin>
\t\t\t<xmax>{box[2]}</xmax>
\t\t\t<ymax>{box[3]}</ymax>
\t\t</bndbox>
\t</object>
</annotation>
"""


class _Picture(NamedTuple):
    split: str  # "train" or "val"
    label: int
    number: int  # among the pictures of its class and split, from 0
    image_id: str  # its file name without the suffix


def make_toy(
    directory: Path,
    seed: int = 0,
    train_per_class: int = 400,
    validation_per_class: int = 50,
    workers: int | None = None,
) -> None:
    """Write the toy set into `directory` as a miniature ILSVRC in Kaggle's layout, with a progress bar on stderr.

    `ILSVRC/Data/CLS-LOC/{train/<wnid>,val}` hold the JPEG pictures, `ILSVRC/Annotations/CLS-LOC` a VOC XML file for
    each, `LOC_synset_mapping.txt` the names and `LOC_{train,val}_solution.csv` labels and boxes. As in ILSVRC, a box
    gives its first and last column and row, counted from 0: it is xmax - xmin + 1 pixels wide, and one that touches
    the right edge has xmax = width - 1. Validation pictures are numbered in an order shuffled over the classes.

    The same arguments give the same files, bit for bit (with the same NumPy and Pillow), whatever the number of
    `workers` (processes; by default one a core, eight at most; 1 draws in this process). The set appears under its
    name only when it is complete; a folder that already holds it is left as it is.

    Raises InputError for impossible numbers, for a `directory` that is a file or holds anything but this very set, and
    when it cannot be written.
    """
    for name, value, least in (
        ("seed", seed, 0),
        ("train_per_class", train_per_class, 1),
        ("validation_per_class", validation_per_class, 1),
        ("workers", 1 if workers is None else workers, 1),
    ):
        if value < least:
            raise InputError(f"{name} is {value}; it must be at least {least}")
    recipe = {
        "recipe": _RECIPE,
        "seed": seed,
        "train_per_class": train_per_class,
        "validation_per_class": validation_per_class,
    }
    directory = directory.resolve()
    unfinished = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}.unfinished")
    try:
        if _holds_set(directory, recipe):
            return
        _remove_abandoned(directory)
        try:
            _write_set(unfinished, recipe, workers or min(os.cpu_count() or 1, 8))
            _rename(unfinished, directory, recipe)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{directory}: cannot write the toy set ({reason}); make room or name another folder"
        ) from error


def _holds_set(directory: Path, recipe: dict[str, int]) -> bool:
    """Whether the directory holds the finished set of this recipe; InputError if it holds anything else."""
    if not directory.exists():
        return False
    if not directory.is_dir():
        raise InputError(f"{directory}: this is a file; name a new or empty folder for the toy set")
    try:
        found = json.loads((directory / "toy.json").read_text())
    except (FileNotFoundError, ValueError):
        found = None
    if found == recipe:
        return True
    if found is not None:
        raise InputError(
            f"{directory}: holds a toy set made with other arguments or by another version of npconvnet; "
            "remove it or name another folder"
        )
    if any(directory.iterdir()):
        raise InputError(f"{directory}: not empty, and no finished toy set; name a new or empty folder")
    if directory == Path.cwd():
        raise InputError(f"{directory}: this is the current folder, which cannot be replaced; name a new folder in it")
    return False


def _remove_abandoned(directory: Path) -> None:
    """Remove what runs killed long ago left beside the directory; a younger one may belong to a live process."""
    for leftover in directory.parent.glob(f".{escape(directory.name)}.*.unfinished"):
        with suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > _SECONDS_OF_A_DAY:
                shutil.rmtree(leftover, ignore_errors=True)


def _rename(unfinished: Path, directory: Path, recipe: dict[str, int]) -> None:
    """Give the set its name, unless another process made the same set in the meantime."""
    try:
        unfinished.replace(directory)  # replaces an empty directory, never a full one
    except OSError:
        if not _holds_set(directory, recipe):
            raise


def _write_set(root: Path, recipe: dict[str, int], workers: int) -> None:
    pictures = _pictures(recipe)
    for kind in ("Data", "Annotations"):
        for folder in {_folder(picture) for picture in pictures}:
            (root / "ILSVRC" / kind / "CLS-LOC" / folder).mkdir(parents=True)
    with _mapper(workers) as mapped:
        rows = mapped(partial(_write_picture, root, recipe["seed"]), pictures)
        boxes = list(tqdm(rows, "drawing the toy set", len(pictures), unit="picture", disable=None))
    for split in _SPLITS:
        solution = ["ImageId,PredictionString"]
        for picture, box in zip(pictures, boxes, strict=True):
            if picture.split == split:
                solution.append(f"{picture.image_id},{' '.join(map(str, (TOY_SYNSETS[picture.label].wnid, *box)))}")
        (root / f"LOC_{split}_solution.csv").write_text("\n".join(solution) + "\n")
    (root / "LOC_synset_mapping.txt").write_text("".join(f"{synset.wnid} {synset.names}\n" for synset in TOY_SYNSETS))
    (root / "toy.json").write_text(json.dumps(recipe) + "\n")


def _pictures(recipe: dict[str, int]) -> list[_Picture]:
    """All pictures of the set: training by class, then validation in its shuffled order."""
    train, validation = (
        [(label, number) for label in range(len(TOY_SYNSETS)) for number in range(recipe[f"{split}_per_class"])]
        for split in ("train", "validation")
    )
    default_rng([recipe["seed"], len(_SPLITS)]).shuffle(validation)
    return [
        *(_Picture("train", label, number, f"{TOY_SYNSETS[label].wnid}_{number + 1}") for label, number in train),
        *(
            _Picture("val", label, number, f"ILSVRC2012_val_{position:08d}")
            for position, (label, number) in enumerate(validation, start=1)
        ),
    ]


def _folder(picture: _Picture) -> str:
    return f"train/{TOY_SYNSETS[picture.label].wnid}" if picture.split == "train" else "val"


def _write_picture(root: Path, seed: int, picture: _Picture) -> Box:
    """Draw the picture and write its JPEG and its XML; returns its box (x_min, y_min, x_max, y_max)."""
    # Each picture has a generator of its own, so that neither order nor the number of workers matters.
    rng = default_rng([seed, _SPLITS.index(picture.split), picture.label, picture.number])
    image, mask = draw_picture(picture.label, rng)
    box = bounding_box(mask)
    folder = _folder(picture)
    annotation = _ANNOTATION.format(
        folder=folder.rpartition("/")[2],
        image_id=picture.image_id,
        width=image.shape[1],
        height=image.shape[0],
        wnid=TOY_SYNSETS[picture.label].wnid,
        box=box,
    )
    jpeg = root / "ILSVRC" / "Data" / "CLS-LOC" / folder / f"{picture.image_id}.JPEG"
    encoded = BytesIO()  # not straight into the file: Pillow overlooks a write that a full disk cuts short
    Image.fromarray(image).save(encoded, "JPEG", quality=int(rng.integers(85, 91)))
    jpeg.write_bytes(encoded.getvalue())
    (root / "ILSVRC" / "Annotations" / "CLS-LOC" / folder / f"{picture.image_id}.xml").write_text(annotation)
    return box


_Map = Callable[[Callable[[_Picture], Box], list[_Picture]], Iterator[Box]]


@contextmanager
def _mapper(workers: int) -> Iterator[_Map]:
    """A `map` that shares the work among processes; the builtin one for a single worker."""
    if workers == 1:
        yield map
        return
    with process_pool(workers) as pool:
        yield partial(pool.map, chunksize=32)
