import gc
import json
import os
import random
import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from npconvnet.data.shards.index import Index
from npconvnet.data.shards.manifest import (
    LOCK,
    MANIFEST,
    MEAN,
    PLAN,
    SPLITS,
    File,
    Manifest,
    Shard,
    checksum,
    index_name,
    shard_name,
)
from npconvnet.data.shards.reading import holds_shards, is_prepared, open_prepared, read_mean_image
from npconvnet.errors import InputError
from tests.data.prepared import write_prepared
from tests.data.shards.sources import everything, everything_of, prepared, write_class_folders
from tests.data.shards.test_manifest import signed

SIZE = 6


@pytest.fixture
def pictures(rng):
    return rng.integers(0, 256, (25, SIZE, SIZE, 3), np.uint8), rng.integers(0, 256, (7, SIZE, SIZE, 3), np.uint8)


@pytest.fixture
def folder(pictures, tmp_path):
    """Shards of 10, 10 and 5 training and 7 validation pictures, written by hand."""
    return write_prepared(tmp_path / "prepared", *pictures)


def refused(folder, match):
    with pytest.raises(InputError, match=match) as caught:
        everything(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_manifest(folder, **changes):
    manifest = replace(Manifest.read(folder), **changes)
    (folder / MANIFEST).write_bytes(manifest.to_bytes())


def test_pictures_labels_and_names(folder, pictures):
    dataset = open_prepared(folder)
    assert dataset.root == folder
    for split, shards, expected in zip(SPLITS, (dataset.train, dataset.validation), pictures, strict=True):
        assert len(shards) == len(expected)
        assert shards.labels.tolist() == [n % 3 for n in range(len(expected))]
        assert shards.name(3) == f"{split}/3"
        assert np.array_equal(everything(folder)[split][0], expected)


def test_any_order_and_many_threads(folder, pictures, rng):
    shards = open_prepared(folder).train
    numbers = rng.integers(0, 25, 400).tolist()

    def read(number):
        square = np.empty((SIZE, SIZE, 3), np.uint8)
        shards.read(number, square)
        return square

    with ThreadPoolExecutor(8) as pool:
        assert np.array_equal(list(pool.map(read, numbers)), pictures[0][numbers])


def test_shards_without_pictures(folder, pictures):
    """Where not one picture of a block could be read: at the beginning, in the middle, and at the end."""
    empty = Shard(File(0, checksum(b"")), 0)
    one, two, three = Manifest.read(folder).shards["train"]
    shards = (empty, one, empty, empty, two, three, empty)
    files = {number: (folder / f"train-{number:05d}.raw").read_bytes() for number in range(3)}
    for number, data in enumerate([b"", files[0], b"", b"", files[1], files[2], b""]):
        (folder / f"train-{number:05d}.raw").write_bytes(data)
    with_manifest(folder, shards={**Manifest.read(folder).shards, "train": shards})
    assert np.array_equal(everything(folder)["train"][0], pictures[0])


def test_the_mean_image(folder, pictures):
    mean = read_mean_image(folder, Manifest.read(folder))
    assert np.array_equal(mean, pictures[0].mean(axis=0, dtype=np.float64).astype(np.float32))


@pytest.mark.parametrize("array", [np.zeros((SIZE, SIZE), np.uint8), np.zeros((3, SIZE, SIZE), np.uint8).T])
def test_arrays_that_a_picture_cannot_be_read_into(folder, array):
    with pytest.raises(ValueError, match="is read into") as caught:
        open_prepared(folder).train.read(0, array)
    assert not isinstance(caught.value, InputError)


def test_is_prepared(folder, tmp_path):
    assert is_prepared(folder)
    assert not is_prepared(tmp_path)
    assert not is_prepared(tmp_path / "nowhere")
    assert not is_prepared(folder / MANIFEST)


# ---- Damage ---------------------------------------------------------------------------------------------------------


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_damaged_picture_is_named_and_the_others_are_read(folder, pictures):
    flip(folder / "train-00001.raw", 3 * SIZE * SIZE * 3)
    dataset, square = open_prepared(folder), np.empty((SIZE, SIZE, 3), np.uint8)
    for number in range(25):
        if number != 13:
            dataset.train.read(number, square)
            assert np.array_equal(square, pictures[0][number])
    message = refused(folder, r"train-00001\.raw: damaged at picture train/13 \(its checksum is wrong\)")
    assert f"npconvnet prepare --verify {folder}" in message


def test_a_shard_of_another_length(folder):
    path = folder / "train-00002.raw"
    path.write_bytes(path.read_bytes()[:-1])
    message = refused(folder, r"train-00002\.raw: 539 bytes where 540 were written")
    assert message.endswith("npconvnet prepare makes shards anew that have been deleted")
    path.unlink()
    refused(folder, r"train-00002\.raw: is missing")


def test_a_shard_that_shrinks_after_it_was_opened(folder):
    dataset, square = open_prepared(folder), np.empty((SIZE, SIZE, 3), np.uint8)
    path = folder / "train-00000.raw"
    path.write_bytes(path.read_bytes()[:-5])
    dataset.train.read(8, square)
    with pytest.raises(InputError, match="damaged at picture train/9"):
        dataset.train.read(9, square)


def test_a_folder_that_goes_after_it_was_opened_is_read_to_the_end(folder):
    dataset, found, expected = open_prepared(folder), *(np.empty((2, SIZE, SIZE, 3), np.uint8))
    dataset.train.read(0, expected)
    shutil.rmtree(folder)
    dataset.train.read(0, found)
    np.testing.assert_array_equal(found, expected)


def test_shards_are_closed_when_nobody_needs_them(folder):
    dataset = open_prepared(folder)
    descriptors = list(dataset.train._descriptors)
    assert all(os.fstat(descriptor).st_size for descriptor in descriptors)
    del dataset
    gc.collect()
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_a_folder_that_is_not_finished(folder):
    (folder / MANIFEST).rename(folder / PLAN)
    assert holds_shards(folder)
    assert not is_prepared(folder)
    refused(folder, "not finished; the same npconvnet prepare goes on with it")


@pytest.mark.parametrize("name", ["train.safetensors", "validation.safetensors"])
def test_a_damaged_index(folder, name):
    flip(folder / name, 500)
    refused(folder, rf"{name}: damaged \(its checksum is wrong\); prepare the data set again")
    (folder / name).unlink()
    refused(folder, rf"{name}: is missing")


def test_a_damaged_mean_image(folder):
    flip(folder / MEAN, 100)
    with pytest.raises(InputError, match=r"mean\.safetensors: damaged \(its checksum"):
        read_mean_image(folder, Manifest.read(folder))


def write_beside(folder, name, data):
    """Writes a file and puts its length and checksum into the manifest."""
    (folder / name).write_bytes(data)
    files = {**Manifest.read(folder).files, name: File(len(data), checksum(data))}
    with_manifest(folder, files=files)


@pytest.mark.parametrize(
    "mean",
    [
        np.zeros((SIZE, SIZE, 3)),
        np.zeros((SIZE, SIZE), np.float32),
        np.full((SIZE, SIZE, 3), np.nan, np.float32),
        None,
    ],
    ids=["float64", "two axes", "NaN", "missing"],
)
def test_a_mean_image_that_is_none(folder, mean):
    write_beside(folder, MEAN, save({"other": np.zeros(1)} if mean is None else {"mean": mean}))
    with pytest.raises(InputError, match=r"mean\.safetensors: not a mean image"):
        read_mean_image(folder, Manifest.read(folder))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("labels", -1, "labels of no class"),
        ("labels", 3, "labels of no class"),
        ("lengths", 0, "pictures of impossible lengths"),
        ("lengths", -5, "pictures of impossible lengths"),
        ("lengths", 2**31 - 1, "pictures of impossible lengths"),
    ],
)
def test_an_index_that_contradicts_the_shards(folder, column, value, message):
    columns = load((folder / "train.safetensors").read_bytes())
    changed = columns[column].copy()
    changed[4] = value
    write_beside(folder, "train.safetensors", save({**columns, column: changed}))
    refused(folder, rf"train\.safetensors: {message}")


def test_an_index_of_other_shards(folder):
    shards = Manifest.read(folder).shards
    with_manifest(folder, shards={**shards, "train": shards["train"][:2]})
    refused(folder, r"shards\.json: other pictures than in train\.safetensors")
    one, two, three = shards["train"]
    with_manifest(folder, shards={**shards, "train": (replace(one, images=11), replace(two, images=9), three)})
    refused(folder, r"train\.safetensors: pictures that don't fill the shards")


def test_a_manifest_without_an_index(folder):
    with_manifest(folder, files={})
    refused(folder, r"shards\.json: does not list train\.safetensors")


# ---- Fuzz -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def small(request, tmp_path_factory):
    """A very small data set: nine pictures in three shards."""
    folder = tmp_path_factory.mktemp("small")
    source = write_class_folders(folder / "source", classes=2, images=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.data.shards.sources.SHORTEST", 4)
        prepared(source, folder / request.param, encoding=request.param, size=8)
    return folder / request.param


@pytest.fixture
def copied(small, tmp_path):
    return Path(shutil.copytree(small, tmp_path / "copy"))


def mutated(data, rng):
    """`data` with one kind of damage or another."""
    data = bytearray(data)
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice([1, 2, 8, 64]))
    match rng.randrange(7):
        case 0 | 1 if data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        case 2:
            del data[at:]
        case 3:
            data[at:at] = rng.randbytes(rng.choice([1, 8, 100]))
        case 4:
            del data[at:end]
        case 5:
            data[at:end] = b"\xff" * (end - at)
        case _:
            data[at:at] = data[at:end]
    return bytes(data)


def read_all(folder):
    """Everything in the folder; None where it is refused in one line."""
    try:
        dataset = open_prepared(folder)
        return everything_of(dataset), read_mean_image(folder, dataset.manifest), dataset.manifest.to_bytes()
    except InputError as error:
        assert "\n" not in str(error)
        assert str(error).startswith(str(folder))
        return None


def same(one, other):
    return all(
        np.array_equal(one[0][split][0], other[0][split][0]) and one[0][split][1:] == other[0][split][1:]
        for split in SPLITS
    ) and (np.array_equal(one[1], other[1]) and one[2] == other[2])


def test_no_damage_is_overlooked(copied):
    """Either everything is as it was, or it is refused."""
    rng, whole = random.Random(1), read_all(copied)
    assert whole is not None
    files = [path for path in sorted(copied.iterdir()) if path.suffix in (".json", ".safetensors", ".raw", ".jpegs")]
    refusals = 0
    for _ in range(2000):
        path = rng.choice(files)
        data = path.read_bytes()
        path.write_bytes(mutated(data, rng))
        found = read_all(copied)
        assert found is None or same(found, whole), path
        refusals += found is None
        path.write_bytes(data)
    assert refusals > 1700  # the others have changed white space, or nothing


NASTY: list[Any] = [
    *(0, 1, -1, 2, 3, 5, 7, 255, 256, 2**15, 2**31 - 1, 2**31, -(2**31), 2**32, 2**62, 2**63, -(2**63), 2**64, 10**30),
    *(0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", "\ud800", "../../etc", "a\0b", None, True, [], {}, [[]]),
    *([1, 2, 3], {"train": []}, [[1, "a", 1]] * 3, "raw", "jpeg"),
]


def with_one_nasty(value, rng):
    """A JSON value with something nasty in one place, deep inside or not."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        return {**value, key: with_one_nasty(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [*value[:at], with_one_nasty(value[at], rng), *value[at + 1 :]]
    return rng.choice(NASTY)


def with_nasty_column(data, rng):
    """An index with one column of other values, another type or another shape."""
    columns = {name: column.copy() for name, column in load(data).items()}
    name = rng.choice(sorted(columns))
    column = columns[name]
    match rng.randrange(5):
        case 0:
            columns[name] = column[: rng.randrange(len(column) + 1)]
        case 1:
            columns[name] = column.astype(rng.choice([np.int8, np.int64, np.float32, np.uint64]))
        case 2:
            columns[name] = rng.choice([column[..., None], column.reshape(-1), np.zeros((), column.dtype)])
        case _ if column.size:
            limits = np.iinfo(column.dtype)
            value = rng.choice([limits.min, limits.max, 0, 1, limits.max // 2 + 9, rng.randrange(limits.max)])
            column.reshape(-1)[rng.randrange(column.size)] = value
    return save(columns)


def hostile(folder, rng):
    """Damages the folder and makes the checksums right again."""
    fields = json.loads((folder / MANIFEST).read_bytes())
    kind = rng.choice(["manifest", "column", "file", "shard"])
    if kind == "manifest":
        fields = with_one_nasty(fields, rng)
    elif kind == "shard":
        path = folder / shard_name("train", 0, fields["encoding"])
        data = mutated(path.read_bytes(), rng)
        path.write_bytes(data)
        fields["shards"]["train"][0][:2] = [len(data), checksum(data)]
        index = Index.from_bytes((folder / index_name("train")).read_bytes())
        for at, begin in enumerate(np.cumsum([0, *index.lengths[:3]])):
            index.checksums[at] = int(checksum(data[begin : begin + index.lengths[at]]), 16)
        if len(data) != index.lengths[:4].sum() and (last := len(data) - index.lengths[:3].sum()) > 0:
            index.lengths[3] = last  # the last of the shard's four
            index.checksums[3] = int(checksum(data[-last:]), 16)
        (folder / index_name("train")).write_bytes(index.to_bytes())
    else:
        path = folder / rng.choice([index_name("train"), index_name("validation"), MEAN])
        data = path.read_bytes()
        path.write_bytes(with_nasty_column(data, rng) if kind == "column" and path.name != MEAN else mutated(data, rng))
    if isinstance(fields, dict) and isinstance(fields.get("files"), dict):
        for name, entry in fields["files"].items():
            if isinstance(entry, list) and name != "x" and kind != "manifest":
                data = (folder / name).read_bytes()
                entry[:] = [len(data), checksum(data)]
    if isinstance(fields, dict):
        (folder / MANIFEST).write_bytes(signed(fields))


def test_a_hostile_folder_whose_checksums_are_right(copied):
    """It may hold any pictures, or be refused; nothing else happens, and little memory is needed for that."""
    rng = random.Random(2)
    files = {path: path.read_bytes() for path in copied.iterdir() if path.name != LOCK}
    accepted = 0
    for number in range(700):
        hostile(copied, rng)
        with little_memory() if number % 5 == 0 else nullcontext():  # watching it makes everything slow
            accepted += read_all(copied) is not None
        for path, data in files.items():
            path.write_bytes(data)
    assert 70 < accepted < 630


@contextmanager
def little_memory():
    """Nowhere in this block more than 20 MB are needed."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
