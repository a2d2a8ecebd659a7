"""`npconvnet prepare`, as a person types it."""

import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from npconvnet.data.shards.manifest import PLAN, PREPARE_SHARD
from npconvnet.data.shards.reading import open_prepared
from tests.command_line import npconvnet, refused
from tests.data.test_image import encode, photograph


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("source")
    for number in range(24):
        path = root / f"class{number % 2}" / f"{number:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(photograph(30, 40, seed=number), "JPEG"))
    (root / "class1" / "torn.jpg").write_bytes(b"")
    return root


def prepare(*arguments):
    done = npconvnet("prepare", *arguments)
    assert done.returncode == 0, done.stderr
    return done


def test_prepare_and_prepare_again_and_verify(source, tmp_path):
    out = tmp_path / "new" / "out"
    done = prepare(source, out, "--size", 16)
    assert done.stderr == (
        f"{source} (class folders): 21 training and 4 validation pictures become squares of 16 pixels in {out}, "
        "19.2kB\n"
    )
    first, *others = done.stdout.splitlines()
    assert first.startswith(f"{out}: 20 training and 4 validation pictures, 18.4kB; ")
    assert first.endswith(" images/s")
    assert others == [
        "no val/ folder: every tenth image of each class is held out for validation (4 images)",
        f"pictures that could not be read: 1; {out / 'unreadable.jsonl'} names them; "
        "if they are mended, prepare into a new folder",
        f"train with: python train_imagenet.py --data {out}",
    ]
    assert len(open_prepared(out).train) == 20
    again = prepare(source, out, "--size", 16)
    assert again.stderr == ""
    counts = "20 training and 4 validation pictures"
    assert again.stdout.splitlines()[0] == (
        f"{out}: prepared already, with {counts}; npconvnet prepare --verify compares every byte"
    )
    assert prepare("--verify", out).stdout == f"{out}: whole, every picture as it was prepared\n"
    assert prepare(out, "--verify").returncode == 0


def test_verify_lists_all_problems(source, tmp_path):
    out = tmp_path / "out"
    prepare(source, out, "--size", 16, "--format", "jpeg")
    data = bytearray((out / "train-00000.jpegs").read_bytes())
    data[100] ^= 1
    data[-100] ^= 1
    (out / "train-00000.jpegs").write_bytes(data)
    done = npconvnet("prepare", "--verify", out)
    assert done.returncode == 2
    assert done.stdout == ""
    one, two, summary = done.stderr.splitlines()
    assert one.startswith(f"{out / 'train-00000.jpegs'}: damaged at picture class0/00.jpg")
    assert two.startswith(f"{out / 'train-00000.jpegs'}: damaged at picture class1/")
    assert summary == f"error: {out}: not as it was prepared; problems found: 2; {PREPARE_SHARD}"


@pytest.mark.parametrize("arguments", [["one"], ["one", "two", "three"], ["--verify", "one", "two"]])
def test_folders_too_many_or_too_few(arguments):
    assert refused("prepare", *arguments) == "error: give SOURCE and OUT, or --verify and OUT"


def test_what_is_refused(source, tmp_path):
    assert "no such folder" in refused("prepare", tmp_path / "nowhere", tmp_path / "out")
    assert "which is only read" in refused("prepare", source, source / "out")
    assert "is this a prepared data set" in refused("prepare", "--verify", tmp_path)
    assert "8192" in refused("prepare", source, tmp_path / "out", "--size", 10_000)


# ---- Signals --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A source of one block of training pictures, which takes many seconds."""
    root = tmp_path_factory.mktemp("slow")
    large = encode(Image.new("RGB", (2500, 2500)))
    for number in range(200):
        path = root / f"class{number % 2}" / f"{number:03d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(large)
    return root


def start(*arguments):
    """The command in a process group of its own, as a terminal starts it."""
    command = [sys.executable, "-m", "npconvnet.cli", "prepare", *map(str, arguments), "--workers", "2"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("whole_group", [True, False], ids=["all processes", "the parent alone"])
def test_a_signal_ends_it_in_the_middle_of_a_shard(slow, tmp_path, number, whole_group):
    out = tmp_path / "out"
    process = start(slow, out)
    wait_for(lambda: list(out.glob(".train-*.unfinished")))
    (os.killpg if whole_group else os.kill)(process.pid, number)
    stdout, stderr = process.communicate(timeout=60)  # returns once no worker holds them any more
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.splitlines()[1:] == ["interrupted; the same command goes on from here"]
    assert not list(out.rglob("*.unfinished"))
    assert (out / PLAN).exists()


def test_the_second_of_two_at_once_is_refused(slow, tmp_path):
    out = tmp_path / "out"
    process = start(slow, out)
    wait_for(lambda: list(out.glob(".train-*.unfinished")))
    assert refused("prepare", slow, out) == f"error: {out}: another npconvnet prepare is at work in it"
    process.kill()
    process.communicate(timeout=60)
    assert list(out.glob(".train-*.unfinished"))
