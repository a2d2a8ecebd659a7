"""The cache of prepared data sets: made, used again, made anew when the files change; by one process at a time."""

import os
import threading

import pytest
from filelock import FileLock
from PIL import Image

from npconvnet.data import cache
from npconvnet.data.cache import cache_folder, prepared_in_cache, toy_folder
from npconvnet.data.ilsvrc import open_dataset
from npconvnet.errors import InputError
from tests.data.prepared import reds

SIZE = 12

pytestmark = pytest.mark.usefixtures("own_cache")


def prepared(root):
    """The data set in the cache, and what was said."""
    said: list[str] = []
    return prepared_in_cache(open_dataset(root), SIZE, said.append), said


def folders():
    return [path for home in (cache_folder() / "prepared").iterdir() for path in home.iterdir() if path.is_dir()]


def test_where_it_is(tmp_path, monkeypatch):
    assert toy_folder() == tmp_path / "cache" / "npconvnet" / "toy"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "npconvnet"


def test_prepared_once_and_used_again(pictures):
    before = {path: path.stat().st_mtime_ns for path in pictures.rglob("*")}
    first, said = prepared(pictures)
    assert (reds(first.train), reds(first.validation)) == ([0, 120], [60, 180])
    assert len(said) == 1
    assert f"preparing {pictures} once, in {first.root}" in said[0]
    assert first.root.is_relative_to(cache_folder())
    shard = first.root / "train-00000.raw"
    written = shard.stat().st_mtime_ns
    again, said = prepared(pictures)
    assert again.root == first.root
    assert said == [f"{pictures} was prepared before, in {first.root}"]
    assert shard.stat().st_mtime_ns == written
    assert {path: path.stat().st_mtime_ns for path in pictures.rglob("*")} == before


def test_each_size_has_its_own(pictures):
    first, _ = prepared(pictures)
    other = prepared_in_cache(open_dataset(pictures), SIZE + 1, print)
    assert (first.train.size, other.train.size) == (SIZE, SIZE + 1)
    assert set(folders()) == {first.root, other.root}


def rename(root):
    (root / "dog").rename(root / "hen")


@pytest.mark.parametrize(
    "change",
    [
        lambda root: Image.new("RGB", (9, 9)).save(root / "cat" / "2.png"),
        lambda root: Image.new("RGB", (9, 9)).save(root / "cat" / "0.png"),
        lambda root: os.utime(root / "dog" / "1.png", ns=(1, 1)),
        lambda root: (root / "cat" / "1.png").rename(root / "cat" / "3.png"),
        rename,
    ],
    ids=["added", "overwritten", "touched", "renamed", "class renamed"],
)
def test_made_anew_where_the_files_change(pictures, change):
    first, _ = prepared(pictures)
    change(pictures)
    second, said = prepared(pictures)
    assert "preparing" in said[0]
    assert folders() == [second.root] != [first.root]


@pytest.mark.parametrize("name", ["shards.json", "train.safetensors", "train-00000.raw"])
def test_made_anew_where_it_is_damaged(pictures, name):
    first, _ = prepared(pictures)
    (first.root / name).write_bytes(b"x")
    second, said = prepared(pictures)
    assert "preparing" in said[0]
    assert second.root == first.root
    assert reds(second.train) == [0, 120]


def test_made_anew_where_the_manifest_is_missing(pictures):
    first, _ = prepared(pictures)
    (first.root / "shards.json").unlink()
    second, said = prepared(pictures)
    assert "preparing" in said[0]
    assert reds(second.train) == [0, 120]


def test_what_was_interrupted_goes_on(pictures, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("npconvnet.data.shards.preparing._Work.join_parts", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepared(pictures)
    (folder,) = folders()
    shard = folder / "train-00000.raw"
    written = shard.stat().st_mtime_ns
    data, _ = prepared(pictures)
    assert data.root == folder
    assert shard.stat().st_mtime_ns == written
    assert reds(data.train) == [0, 120]


def test_waits_for_another_run(pictures):
    first, _ = prepared(pictures)
    lock = FileLock(first.root.parent / "lock")
    waiting = threading.Event()
    said = []

    def say(line):
        said.append(line)
        waiting.set()

    with lock:
        thread = threading.Thread(target=prepared_in_cache, args=(open_dataset(pictures), SIZE, say))
        thread.start()
        assert waiting.wait(30)
        assert thread.is_alive()
    thread.join(30)
    assert not thread.is_alive()
    assert "waiting for another run" in said[0]
    assert "was prepared before" in said[1]
    with lock.acquire(timeout=0):
        pass


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), InputError("no room")])
def test_leaves_nothing_where_it_fails(pictures, monkeypatch, error):
    def prepare(source, out, size):
        out.mkdir(parents=True)
        (out / "train-00000.raw").write_bytes(bytes(1000))
        raise error

    monkeypatch.setattr(cache, "prepare", prepare)
    with pytest.raises(type(error)):
        prepared(pictures)
    assert folders() == []
