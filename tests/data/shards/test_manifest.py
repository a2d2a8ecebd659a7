import json
from dataclasses import replace

import numpy as np
import pytest

from npconvnet.data.augment import ColourStatistics
from npconvnet.data.shards.manifest import MANIFEST, File, Manifest, Shard, checksum, index_name, shard_name
from npconvnet.errors import InputError
from npconvnet.synsets import Synset

MADE = Manifest(
    size=64,
    encoding="jpeg",
    source="0123456789abcdef",
    layout="Kaggle",
    note="grün",
    blacklist=frozenset({"val/b.JPEG", "val/\udcff.JPEG"}),
    decoder="Pillow 1",
    synsets=(Synset("n1", "tench, Tinca tinca"), Synset("n2", "魚")),
    colours=ColourStatistics(np.array([1.1, 2.2, 1 / 3]), np.diag([0.1, 1e-300, 3e7])),
    unreadable=3,
    shards={"train": (Shard(File(10, "aa"), 2), Shard(File(0, "bb"), 0)), "validation": ()},
    files={"mean.safetensors": File(7, "cc")},
)


def written(folder, data):
    (folder / MANIFEST).write_bytes(data)
    return folder


def signed(fields):
    """The bytes of a manifest whose checksum is right, whatever its entries are."""
    fields = {name: value for name, value in fields.items() if name != "checksum"}
    fields["checksum"] = checksum(json.dumps(fields, sort_keys=True).encode())
    return json.dumps(fields).encode()


def refused(folder, data):
    with pytest.raises(InputError, match=r"shards\.json") as caught:
        Manifest.read(written(folder, data))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_everything_comes_back(tmp_path):
    read = Manifest.read(written(tmp_path, MADE.to_bytes()))
    assert np.array_equal(read.colours.mean, MADE.colours.mean)
    assert np.array_equal(read.colours.covariance, MADE.colours.covariance)
    for name in Manifest.__dataclass_fields__:
        assert name == "colours" or getattr(read, name) == getattr(MADE, name), name
    assert read.to_bytes() == MADE.to_bytes()


def test_what_is_added_up():
    assert MADE.images("train") == 2
    assert MADE.images("validation") == 0
    assert MADE.bytes == 10


def test_it_is_one_entry_a_line_for_people():
    lines = MADE.to_bytes().decode().splitlines()
    assert lines[2] == '"size": 64,'
    assert len(lines) == 2 + len(json.loads(MADE.to_bytes()))


def test_names_of_files():
    assert shard_name("train", 12, "raw") == "train-00012.raw"
    assert index_name("validation") == "validation.safetensors"


def test_a_folder_without_one(tmp_path):
    with pytest.raises(InputError, match=r"shards\.json: cannot be read \(No such file.*is this a prepared data set"):
        Manifest.read(tmp_path)
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(InputError, match="Is a directory"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe", b"null", b"[]", b'["checksum"]', b'"checksum"', b"7", b"{}", b"[" * 100_000, b'{"a":' * 100_000],
    ids=lambda data: repr(data[:12]),
)
def test_files_that_are_no_manifest(tmp_path, data):
    assert "damaged; prepare the data set again" in refused(tmp_path, data)


def test_another_format(tmp_path):
    data = MADE.to_bytes().replace(b"npconvnet shards 1", b"npconvnet shards 2")
    assert "not of 'npconvnet shards 1'" in refused(tmp_path, data)


def test_a_changed_number(tmp_path):
    assert "checksum is wrong" in refused(tmp_path, MADE.to_bytes().replace(b'"size": 64', b'"size": 65'))


NONE = object()
NONSENSE = [
    *(("size", value) for value in (0, -1, 2**13 + 1, 10**400, "x", None, [], float("nan"), float("inf"), NONE)),
    *(("encoding", value) for value in ("png", 7, None, [], NONE)),
    *(("blacklist", value) for value in (7, None, NONE)),
    *(("synsets", value) for value in (7, [7], [["n1"]], [["n1", "a", "b"]], None, {"abc": 7}, NONE)),
    *(("mean", value) for value in ([], [1, 2], [1, 2, float("nan")], [1, 2, "x"], [1, 2, None], 7, {}, NONE)),
    *(("covariance", value) for value in ([], [1] * 9, [[1, 2], [3]], [[float("inf")] * 3] * 3, NONE)),
    *(("unreadable", value) for value in ("many", None, [], float("inf"), NONE)),
    *(("files", value) for value in (7, [], {"a": 7}, {"a": [1]}, {"a": ["x", "y"]}, NONE)),
    *(("shards", value) for value in (7, {}, {"train": []}, {"train": 7, "validation": []}, NONE)),
    *(
        ("shards", {"train": [shard], "validation": []})
        for shard in (7, [], [1, "a"], [1, "a", -1], [1, "a", "x"], [None, "a", 1], [float("nan"), "a", 1], "abc")
    ),
]


@pytest.mark.parametrize(("name", "value"), NONSENSE, ids=repr)
def test_nonsense_under_a_right_checksum(tmp_path, name, value):
    fields = {**json.loads(MADE.to_bytes()), name: value}
    if value is NONE:
        del fields[name]
    assert "not a manifest" in refused(tmp_path, signed(fields))


def test_an_unchanged_one_under_a_checksum_made_here(tmp_path):
    assert Manifest.read(written(tmp_path, signed(json.loads(MADE.to_bytes())))).size == 64
    assert replace(MADE, size=65).to_bytes() == replace(Manifest.read(tmp_path), size=65).to_bytes()
