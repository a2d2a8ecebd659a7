import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from npconvnet.data.shards import verifying
from npconvnet.data.shards.index import Index
from npconvnet.data.shards.manifest import MANIFEST, MEAN, UNREADABLE, Manifest, checksum, shard_name
from npconvnet.data.shards.reading import open_prepared
from npconvnet.data.shards.verifying import verify
from npconvnet.errors import InputError
from tests.data.shards.sources import SIZE, one_after_the_other
from tests.data.shards.test_manifest import signed
from tests.data.test_image import encode, photograph


@pytest.fixture
def out(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / finished.name))


def problems(out):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifying, "in_processes", one_after_the_other)
        found = verify(out)
    assert all("\n" not in problem and problem.startswith(str(out)) for problem in found)
    return found


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def shard(out, number=1):
    return out / shard_name("train", number, out.name)


def begins(out):
    """Where the pictures of the second shard begin in it."""
    lengths = open_prepared(out).train.index.lengths[8:16]
    return (np.cumsum(lengths) - lengths).tolist()


def test_nothing_is_wrong(finished):
    assert verify(finished, workers=2) == []


@pytest.mark.parametrize("picture", [0, 3, 7])
def test_each_damaged_picture_is_named(out, picture):
    at, name = begins(out)[picture], open_prepared(out).train.name(8 + picture)
    flip(shard(out), at + 5)
    flip(shard(out, 6), 0)
    one, two = problems(out)
    assert one == f"{shard(out)}: damaged at picture {name} (its checksum is wrong)"
    assert two.startswith(f"{shard(out, 6)}: damaged at picture")


def test_all_pictures_of_a_shard(out):
    for at in begins(out):
        flip(shard(out), at + 1)
    assert len(problems(out)) == 8


def test_shards_that_are_missing_or_of_another_length(out):
    shard(out).unlink()
    shard(out, 2).write_bytes(shard(out, 2).read_bytes() + b"\0")
    shard(out, 3).write_bytes(b"")
    one, two, three = problems(out)
    assert "is missing; the same npconvnet prepare makes shards anew" in one
    assert "were written; the same npconvnet prepare makes" in two
    assert f"{shard(out, 3)}: 0 bytes where" in three


@pytest.mark.parametrize("name", ["train.safetensors", "validation.safetensors", MEAN])
def test_files_beside_the_shards(out, name):
    flip(out / name, -9)
    assert problems(out) == [
        f"{out / name}: damaged (its checksum is wrong); prepare the data set again, into a new folder"
    ]


def test_the_report(out):
    (out / UNREADABLE).write_bytes(b"x")
    assert problems(out) == [
        f"{out / UNREADABLE}: 1 bytes where 0 were written; prepare the data set again, into a new folder"
    ]


def test_shards_are_read_without_an_index_too(out):
    (out / "train.safetensors").unlink()
    flip(shard(out), 9)
    index, damaged = problems(out)
    assert "train.safetensors: is missing" in index
    assert damaged == f"{shard(out)}: damaged (its checksum is wrong)"


def test_a_damaged_manifest(out):
    flip(out / MANIFEST, 60)
    with pytest.raises(InputError, match=r"shards\.json"):
        verify(out, workers=1)
    with pytest.raises(InputError, match="is this a prepared data set"):
        verify(out / "nowhere", workers=1)


def with_shard(out, data, lengths):
    """Puts other bytes in place of the last training shard, with checksums that are right."""
    fields = json.loads((out / MANIFEST).read_bytes())
    shard(out, 6).write_bytes(data)
    fields["shards"]["train"][6] = [len(data), checksum(data), len(lengths)]
    index = Index.from_bytes((out / "train.safetensors").read_bytes())
    for n, (length, end) in enumerate(zip(lengths, np.cumsum(lengths), strict=True), len(index) - len(lengths)):
        index.lengths[n], index.checksums[n] = length, int(checksum(data[end - length : end]), 16)
    (out / "train.safetensors").write_bytes(index.to_bytes())
    fields["files"]["train.safetensors"][1] = checksum(index.to_bytes())
    (out / MANIFEST).write_bytes(signed(fields))


@pytest.mark.parametrize("wrong", [encode(photograph(SIZE, SIZE + 1), "JPEG"), b"no picture"], ids=["size", "text"])
def test_jpegs_are_decoded(out, wrong):
    if out.name == "raw":
        return
    right = encode(photograph(SIZE, SIZE), "JPEG")
    pictures = [right, right, wrong, right, right, right]
    with_shard(out, b"".join(pictures), list(map(len, pictures)))
    (problem,) = problems(out)
    name = open_prepared(out).train.name(48 + 2)
    assert problem == f"{shard(out, 6)}: damaged at picture {name} (it is no picture of {SIZE} pixels)"
    assert Manifest.read(out).images("train") == 54


def test_a_shard_whose_pictures_are_right_but_whose_own_checksum_is_not(out):
    fields = json.loads((out / MANIFEST).read_bytes())
    fields["shards"]["train"][1][1] = "0" * 16
    (out / MANIFEST).write_bytes(signed(fields))
    assert problems(out) == [f"{shard(out)}: damaged (its checksum is wrong)"]
