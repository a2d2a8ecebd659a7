"""What `--data` means: prepared folders as they are, small data sets through the cache, all others decoded."""

import numpy as np
import pytest
from PIL import Image

from npconvnet.data import opening
from npconvnet.data.cache import cache_folder
from npconvnet.data.image_files import ImageFiles
from npconvnet.data.opening import open_data, open_to_train
from npconvnet.data.shards.reading import Shards
from npconvnet.errors import InputError
from npconvnet.preprocessing import Preprocessing
from tests.data.prepared import reds, write_prepared

pytestmark = pytest.mark.usefixtures("own_cache")

SIZE = 12
SQUARES = Preprocessing(SIZE, SIZE - 2)


def quietly(root, preprocessing):
    """`open_to_train` where there is nothing to say."""
    return open_to_train(root, preprocessing, pytest.fail)


@pytest.fixture
def folder(tmp_path, rng):
    return write_prepared(
        tmp_path / "made", rng.integers(0, 256, (7, SIZE, SIZE, 3), np.uint8), np.zeros((2, SIZE, SIZE, 3), np.uint8)
    )


@pytest.mark.parametrize("open_", [open_data, quietly])
def test_a_prepared_folder_is_used_as_it_is(folder, open_):
    data = open_(folder, SQUARES)
    assert isinstance(data.train, Shards)
    assert (len(data.train), len(data.validation), data.source) == (7, 2, "made")
    assert (data.root, data.layout, data.note) == (folder, "class folders", "")
    assert [synset.wnid for synset in data.synsets] == ["n1", "n2", "n3"]
    squares = np.fromfile(folder / "train-00000.raw", np.uint8).reshape(-1, 3)
    np.testing.assert_allclose(data.colours.mean, squares.mean(axis=0))
    assert not cache_folder().exists()


@pytest.mark.parametrize(
    ("preprocessing", "words"),
    [
        (Preprocessing(20, 16), "squares of 12 pixels, and this network takes 20; .* --size 20"),
        (Preprocessing(SIZE, 10, interpolation="bicubic"), "give the original data set"),
        (Preprocessing(SIZE, 10, keep_aspect=False), "give the original data set"),
    ],
)
def test_a_folder_that_was_prepared_otherwise_is_refused(folder, preprocessing, words):
    for open_ in (open_data, quietly):
        with pytest.raises(InputError, match=f"{folder}: .*{words}"):
            open_(folder, preprocessing)


def test_files_that_could_not_be_read_are_told_of(tmp_path):
    zeros = np.zeros((3, SIZE, SIZE, 3), np.uint8)
    folder = write_prepared(tmp_path / "made", zeros, zeros, unreadable=3)
    assert open_data(folder, SQUARES).note == f"3 of its files could not be read: see {folder / 'unreadable.jsonl'}"


def test_a_small_data_set_goes_through_the_cache(pictures):
    said: list[str] = []
    data = open_to_train(pictures, SQUARES, said.append)
    assert isinstance(data.train, Shards)
    assert data.root == pictures
    assert len(said) == 1
    assert "held out" in data.note
    decoded = open_data(pictures, SQUARES)
    assert isinstance(decoded.train, ImageFiles)
    assert (decoded.colours, decoded.source) == (None, None)
    for split in ("train", "validation"):
        one, other = getattr(data, split), getattr(decoded, split)
        assert reds(one) == reds(other)
        assert one.labels.tolist() == other.labels.tolist()
        assert [one.name(n) for n in range(len(one))] == [other.name(n) for n in range(len(other))]
    assert (data.layout, data.synsets) == (decoded.layout, decoded.synsets)


def test_a_large_one_is_decoded_and_prepare_is_recommended(pictures, monkeypatch):
    monkeypatch.setattr(opening, "LARGEST", 4 * SIZE**2 * 3 - 1)
    said: list[str] = []
    assert isinstance(open_to_train(pictures, SQUARES, said.append).train, ImageFiles)
    (line,) = said
    assert f"npconvnet prepare {pictures} OUT --size {SIZE}" in line
    assert not cache_folder().exists()


def test_without_a_cache_it_is_decoded(pictures, tmp_path):
    (tmp_path / "cache").touch()  # so that no folder can be made there
    said: list[str] = []
    data = open_to_train(pictures, SQUARES, said.append)
    assert reds(data.train) == [0, 120]
    (line,) = said
    assert "decoded anew in each epoch" in line


def test_pictures_none_of_which_can_be_read(pictures):
    """The loader says so: preparing fails, and decoding is tried."""
    for path in pictures.rglob("*.png"):
        path.write_bytes(b"torn")
    said: list[str] = []
    data = open_to_train(pictures, SQUARES, said.append)
    assert isinstance(data.train, ImageFiles)
    assert "not one of the training pictures can be read" in said[-1]


def test_an_unreadable_picture_is_missing_from_the_cache(pictures):
    Image.new("RGB", (20, 16), (7, 0, 0)).save(pictures / "cat" / "2.png")
    (pictures / "cat" / "0.png").write_bytes(b"torn")
    data = open_to_train(pictures, SQUARES, print)
    assert reds(data.train) == [7, 120]
    assert "1 of its files could not be read" in data.note


def test_no_data_set(tmp_path):
    for open_ in (open_data, quietly):
        with pytest.raises(InputError, match="no such folder"):
            open_(tmp_path / "none", SQUARES)
