import errno
import io
import os
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import xxhash
from PIL import Image

from npconvnet.data.ilsvrc import Box, Example, open_dataset
from npconvnet.data.image import load_square
from npconvnet.data.shards.manifest import File, Shard
from npconvnet.data.shards.sums import PixelSums
from npconvnet.data.shards.writing import (
    PARTS,
    Block,
    Format,
    Part,
    Unreadable,
    part_path,
    remove_unfinished,
    write_block,
)
from npconvnet.errors import InputError
from npconvnet.preprocessing import Preprocessing
from tests.data.shards.sources import contents, wanted, write_class_folders
from tests.data.test_image import encode, photograph

SIZE = 12
RAW = Format(SIZE, "raw")


@pytest.fixture
def own(tmp_path):
    """A source that may be written to."""
    return write_class_folders(tmp_path / "source", images=4)


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out" / PARTS).mkdir(parents=True)
    return tmp_path / "out"


def block(source, **changes):
    """Shard 3 of all training pictures; the second has two boxes."""
    examples = open_dataset(source).train
    boxes = [[], [Box(0, 1, 2, 3, 4), Box(1, 5, 6, 7, 8)], *([] for _ in examples[2:])]
    return replace(Block("train", 3, examples, boxes), **changes)


def write(out, block, format=RAW):
    """The part of a block that was written."""
    write_block(out, format, block, lambda: None)
    part = Part.read(part_path(out, block.split, block.number))
    assert part is not None
    return part


def squares_and_names(source):
    found = wanted(source)["train"]
    return np.array([square for *_, square in found]), [name for name, *_ in found]


# ---- A block --------------------------------------------------------------------------------------------------------


def test_a_raw_shard_is_an_array_of_the_squares(own, out):
    squares, names = squares_and_names(own)
    part = write(out, block(own))
    data = (out / "train-00003.raw").read_bytes()
    assert np.array_equal(np.frombuffer(data, np.uint8).reshape(squares.shape), squares)
    assert part.shard == Shard(File(len(data), xxhash.xxh3_64_hexdigest(data)), len(squares))
    assert [part.index.name(n) for n in range(len(part.index))] == names
    assert part.index.checksums.tolist() == [xxhash.xxh3_64_intdigest(square.tobytes()) for square in squares]
    assert part.index.boxes_of(1) == [Box(0, 1, 2, 3, 4), Box(1, 5, 6, 7, 8)]
    assert part.unreadable == []
    assert sorted(contents(out)) == ["parts/train-00003", "train-00003.raw"]


def test_a_jpeg_shard_holds_one_file_after_the_other(own, out):
    squares, _ = squares_and_names(own)
    part = write(out, block(own), Format(SIZE, "jpeg"))
    data, begin = (out / "train-00003.jpegs").read_bytes(), 0
    for square, length, checksum in zip(squares, part.index.lengths, part.index.checksums, strict=True):
        picture = data[begin : begin + length]
        assert picture == encode(Image.fromarray(square), "JPEG", quality=90)
        assert xxhash.xxh3_64_intdigest(picture) == checksum
        begin += length
    assert begin == len(data) == part.shard.file.bytes


@pytest.mark.parametrize("format", [RAW, Format(SIZE, "jpeg")])
def test_sums_are_those_of_the_squares_in_either_format(own, out, format):
    expected = PixelSums.zero(SIZE)
    for square in squares_and_names(own)[0]:
        expected.add(square)
    sums = write(out, block(own), format).sums
    assert sums.images == expected.images
    assert np.array_equal(sums.total, expected.total)
    assert np.array_equal(sums.products, expected.products)


def test_validation_pictures_are_not_summed_up(own, out):
    assert write(out, block(own, split="validation")).sums.images == 0


def test_a_step_for_each_picture_readable_or_not(own, out):
    (own / "class0" / "000.jpg").write_bytes(b"")
    steps: list[None] = []
    write_block(out, RAW, block(own), lambda: steps.append(None))
    assert len(steps) == len(block(own).examples)


def test_files_that_cannot_be_read_are_left_out_and_listed(own, out):
    (own / "class0" / "000.jpg").write_bytes(b"")
    (own / "class2" / "003.jpg").write_bytes(encode(photograph(), "JPEG")[:-300])
    squares, names = squares_and_names(own)
    boxes = Unreadable("class1/000.jpg", "no boxes")
    part = write(out, block(own, unreadable=[boxes]))
    assert [part.index.name(n) for n in range(len(part.index))] == names
    assert "class0/000.jpg" not in names
    assert part.unreadable[0] == boxes
    assert part.unreadable[1] == Unreadable("class0/000.jpg", "cannot be read as an image (the file is empty)")
    assert part.unreadable[2].name == "class2/003.jpg"
    assert len(part.unreadable) == 3
    assert part.shard.images == len(squares)


def test_a_block_of_nothing_readable_is_an_empty_shard(own, out):
    for path in own.rglob("*.jpg"):
        path.write_bytes(b"no picture")
    part = write(out, block(own))
    assert part.shard == Shard(File(0, xxhash.xxh3_64_hexdigest(b"")), 0)
    assert (out / "train-00003.raw").read_bytes() == b""


def test_what_pillow_warns_of_is_not_printed(own, out):
    palette = photograph().quantize(10)
    (own / "class0" / "000.jpg").write_bytes(encode(palette, transparency=bytes(range(10))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert write(out, block(own)).unreadable == []


def test_a_tar_that_is_cut_after_it_was_listed(own, out, tmp_path):
    picture = encode(photograph(), "JPEG")
    (tmp_path / "some.tar").write_bytes(picture * 2 + picture[:-1])
    examples = [
        Example(f"train/n1/{n}.JPEG", 0, tmp_path / "some.tar", n * len(picture), len(picture)) for n in range(3)
    ]
    part = write(out, Block("train", 0, examples, [[], [], []]))
    assert part.shard.images == 2
    assert [each.name for each in part.unreadable] == ["train/n1/2.JPEG"]
    assert "cut off before the end" in part.unreadable[0].reason


def test_a_link_to_nowhere_is_a_file_that_cannot_be_read(own, out):
    (own / "class0" / "000.jpg").unlink()
    (own / "class0" / "000.jpg").symlink_to("nowhere")
    (unreadable,) = write(out, block(own)).unreadable
    assert unreadable.name == "class0/000.jpg"
    assert "No such file" in unreadable.reason


def test_a_source_that_vanishes_stops_the_work(own, out):
    task = block(own)
    shutil.rmtree(own)
    with pytest.raises(InputError, match=r"class0: was there when the work began"):
        write_block(out, RAW, task, lambda: None)
    assert contents(out) == {}


def test_a_shard_that_was_there_before_must_come_out_the_same(own, out):
    part = write(out, block(own))
    before = contents(out)
    assert write(out, block(own, expected=part.shard)).shard == part.shard
    assert contents(out) == before
    path = own / "class0" / "000.jpg"
    path.write_bytes(encode(photograph(seed=77), "JPEG"))
    with pytest.raises(InputError, match=r"train-00003\.raw: comes out otherwise"):
        write_block(out, RAW, block(own, expected=part.shard), lambda: None)
    assert contents(out) == before


def test_a_damaged_part_is_none(own, out):
    write(out, block(own))
    path = part_path(out, "train", 3)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(data[: rng.integers(len(data) + 1)] if rng.random() < 0.5 else data)
        assert Part.read(path) is None
    path.unlink()
    assert Part.read(path) is None


# ---- Files that are there as a whole or not at all ------------------------------------------------------------------


def test_what_killed_processes_left_is_removed(tmp_path):
    (tmp_path / ".train-00001.raw.4711.unfinished").write_bytes(b"half")
    (tmp_path / "train-00000.raw").write_bytes(b"whole")
    remove_unfinished(tmp_path)
    assert list(contents(tmp_path)) == ["train-00000.raw"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("when", range(3))
def test_a_full_disk_leaves_nothing_of_a_block(own, out, monkeypatch, number, when):
    """Wherever it strikes: it may show only when the shard, or its part, is brought to the disk."""
    syncs = []

    def sync(handle):
        syncs.append(handle)
        if len(syncs) > when:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(
        InputError, match=rf"cannot be written \({os.strerror(number)}\); once it can, the same command"
    ):
        write_block(out, RAW, block(own), lambda: None)
    monkeypatch.undo()
    # The third to be synced is the folder, when the shard has its name.
    assert list(contents(out)) == (["train-00003.raw"] if when == 2 else [])


def test_a_disk_that_is_full_in_the_middle_of_a_shard(own, out, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    class FullPath(type(out)):  # type: ignore[misc]
        def open(self, *_):
            return Full()

    with pytest.raises(InputError, match=r"train-00003\.raw: cannot be written \(No space left on device\)"):
        write_block(FullPath(out), RAW, block(own), lambda: None)
    assert contents(out) == {}


def test_squares_are_the_centre_of_the_picture(own):
    example = open_dataset(own).train[0]
    square = load_square(example.read(), "", Preprocessing(SIZE, SIZE))
    assert square.shape == (SIZE, SIZE, 3)
    assert bytes(RAW.encode(square)) == square.tobytes()
