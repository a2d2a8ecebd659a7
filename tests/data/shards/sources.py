"""Small sources for `prepare`, and what is wanted of them, worked out picture by picture."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from npconvnet.data.ilsvrc import open_dataset
from npconvnet.data.image import load_square
from npconvnet.data.shards import preparing
from npconvnet.data.shards.manifest import LOCK, SPLITS
from npconvnet.data.shards.preparing import prepare
from npconvnet.data.shards.reading import open_prepared
from npconvnet.errors import InputError
from npconvnet.preprocessing import Preprocessing
from tests.data.test_image import encode, photograph

SIZE = 12
#: Blocks of so few examples that small sources make several shards.
SHORTEST = 8


def write_class_folders(root, classes=3, images=20, side=24):
    """Class folders of JPEGs, all of different sizes; every tenth, from the second on, is for validation."""
    for label in range(classes):
        folder = root / f"class{label}"
        folder.mkdir(parents=True)
        for number in range(images):
            picture = photograph(side + number, side + 2 * label, seed=images * label + number)
            (folder / f"{number:03d}.jpg").write_bytes(encode(picture, "JPEG"))
    return root


def one_after_the_other(function, tasks, count, workers, bar):
    """Takes the place of `in_processes`, as starting processes costs half a second."""
    return [function(task, lambda: None) for task in tasks]


def prepared(source, out, **options):
    """`prepare` with small blocks and squares; in other processes only where `workers` are given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "SHORTEST", SHORTEST)
        if "workers" not in options:
            patch.setattr(preparing, "in_processes", one_after_the_other)
        return prepare(source, out, **{"size": SIZE, **options})


def refused(source, out, **options):
    """The one line with which `prepare` refuses."""
    with pytest.raises(InputError) as caught:
        prepared(source, out, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contents(folder):
    """Every file in a folder, by its name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != LOCK
    }


def wanted(source, size=SIZE):
    """By split, what can be read of a source: (name, label, size of the picture, its square), each by itself."""
    dataset = open_dataset(source)
    found: dict[str, list[Any]] = {}
    for split, examples in zip(SPLITS, (dataset.train, dataset.validation), strict=True):
        found[split] = []
        for example in examples:
            try:
                data = example.read()
                square = load_square(data, example.name, Preprocessing(size, size))
            except InputError:
                continue
            with Image.open(io.BytesIO(data)) as image:
                found[split].append((example.name, example.label, image.size, square))
    return found


def squares(shards):
    """All pictures of a split, in order."""
    read = np.zeros((len(shards), shards.size, shards.size, 3), np.uint8)
    for number in range(len(shards)):
        shards.read(number, read[number])
    return read


def everything(folder):
    """All that a reader gets out of a prepared folder."""
    return everything_of(open_prepared(folder))


def everything_of(dataset):
    """By split: the pictures, and their labels, names, boxes and sizes."""
    return {
        split: (
            squares(shards),
            shards.labels.tolist(),
            [shards.name(number) for number in range(len(shards))],
            [shards.index.boxes_of(number) for number in range(len(shards))],
            shards.index.sizes.tolist(),
        )
        for split, shards in zip(SPLITS, (dataset.train, dataset.validation), strict=True)
    }
