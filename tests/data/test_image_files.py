"""Image files as a source of squares: what they decode to, and which can't be read."""

import numpy as np
import pytest
from PIL import Image

from npconvnet.data.ilsvrc import Example
from npconvnet.data.image import load_square
from npconvnet.data.image_files import ImageFiles, UnreadableImage
from npconvnet.preprocessing import Preprocessing

SQUARES = Preprocessing(20, 16, interpolation="bicubic", keep_aspect=False)


@pytest.fixture
def files(tmp_path, rng):
    examples = [Example(f"train/{n}.png", n + 5, tmp_path / f"{n}.png") for n in range(3)]
    for example in examples:
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(example.path)
    return examples


def test_squares_are_those_of_the_preprocessing(files):
    source = ImageFiles(files, SQUARES)
    assert (len(source), source.size, source.labels.tolist()) == (3, 20, [5, 6, 7])
    for number, example in enumerate(files):
        square = np.empty((20, 20, 3), np.uint8)
        source.read(number, square)
        np.testing.assert_array_equal(square, load_square(example.read(), example.name, SQUARES))
        assert source.name(number) == example.name


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"torn"), lambda path: path.unlink()])
def test_unreadable_image(files, spoil):
    spoil(files[1].path)
    with pytest.raises(UnreadableImage, match=r"1\.png"):
        ImageFiles(files, SQUARES).read(1, np.empty((20, 20, 3), np.uint8))
