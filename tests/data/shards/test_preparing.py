import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load

from npconvnet.data.ilsvrc import open_dataset
from npconvnet.data.image import decode_image
from npconvnet.data.shards import preparing
from npconvnet.data.shards.index import Index
from npconvnet.data.shards.manifest import LOCK, MANIFEST, MEAN, PLAN, SPLITS, UNREADABLE, Manifest, shard_name
from npconvnet.data.shards.preparing import prepare
from npconvnet.data.shards.reading import open_prepared, read_mean_image
from npconvnet.data.shards.writing import PARTS
from npconvnet.errors import InputError
from tests.data import test_ilsvrc
from tests.data.shards.sources import (
    SHORTEST,
    SIZE,
    contents,
    everything,
    prepared,
    refused,
    wanted,
)
from tests.data.test_ilsvrc import VALIDATION, WNIDS, tar, voc, write_official, write_unpacked
from tests.data.test_image import DAMAGED, corrupt_exif, encode, header_of_png, photograph, ramp16


@pytest.fixture
def own(source, tmp_path):
    """A copy of the source that may be written to."""
    return Path(shutil.copytree(source, tmp_path / "own"))


def assert_holds(folder, source):
    """The folder holds what can be read of the source: raw pictures exactly."""
    dataset, expected = open_dataset(source), wanted(source)
    for split, examples in zip(SPLITS, (dataset.train, dataset.validation), strict=True):
        found, labels, names, boxes, sizes = everything(folder)[split]
        assert names == [name for name, *_ in expected[split]]
        assert labels == [label for _, label, *_ in expected[split]]
        assert [tuple(size) for size in sizes] == [size for _, _, size, _ in expected[split]]
        by_name = {example.name: example for example in examples}
        assert boxes == [dataset.boxes(by_name[name]) for name in names]
        assert np.array_equal(found, [square for *_, square in expected[split]])


def unreadable(folder):
    """What the report says, by name."""
    lines = [json.loads(line) for line in (folder / UNREADABLE).read_text().splitlines()]
    assert len({line["name"] for line in lines}) == len(lines)
    return {line["name"]: line["reason"] for line in lines}


# ---- What comes out -------------------------------------------------------------------------------------------------


def test_class_folders(raw, source):
    assert_holds(raw, source)
    manifest = Manifest.read(raw)
    assert (manifest.size, manifest.encoding, manifest.layout) == (SIZE, "raw", "class folders")
    assert [synset.wnid for synset in manifest.synsets] == ["class0", "class1", "class2"]
    assert manifest.note == open_dataset(source).note
    assert manifest.unreadable == 0
    assert manifest.images("train") == 54
    assert [shard.images for shard in manifest.shards["train"]] == [8] * 6 + [6]
    assert sorted(contents(raw)) == sorted(
        [MANIFEST, MEAN, UNREADABLE, "train.safetensors", "validation.safetensors"]
        + [f"train-{number:05d}.raw" for number in range(7)]
        + ["validation-00000.raw"]
    )


def test_jpeg_holds_the_same_pictures_as_pillow_makes_jpegs_of_them(raw, source, tmp_path):
    prepared(source, tmp_path / "out", encoding="jpeg")
    for split in SPLITS:
        found, expected = everything(tmp_path / "out")[split], everything(raw)[split]
        jpegs = [encode(Image.fromarray(square), "JPEG", quality=90) for square in expected[0]]
        assert np.array_equal(found[0], [decode_image(jpeg, "") for jpeg in jpegs])
        assert found[1:] == expected[1:]


def test_mean_and_colours_of_all_training_pictures(finished, source):
    """Those of the squares before they are made JPEGs, in either format."""
    squares = np.array([square for *_, square in wanted(source)["train"]])
    pixels, manifest = squares.reshape(-1, 3).astype(np.float64), Manifest.read(finished)
    np.testing.assert_allclose(manifest.colours.mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(manifest.colours.covariance, np.cov(pixels.T, bias=True), rtol=1e-9)
    mean = squares.mean(axis=0, dtype=np.float64).astype(np.float32)
    assert np.array_equal(read_mean_image(finished, manifest), mean)


def test_kaggles_tree_with_boxes(toy, tmp_path):
    prepared(toy, tmp_path / "out", size=20)
    dataset = open_dataset(toy)
    expected = {split: wanted(toy, 20)[split] for split in SPLITS}
    for split, examples in zip(SPLITS, (dataset.train, dataset.validation), strict=True):
        found, labels, names, boxes, _ = everything(tmp_path / "out")[split]
        assert np.array_equal(found, [square for *_, square in expected[split]])
        assert labels == [example.label for example in examples]
        assert names == [example.name for example in examples]
        assert boxes == [dataset.boxes(example) for example in examples]
        assert all(boxes)
    assert Manifest.read(tmp_path / "out").synsets == dataset.synsets


def test_official_tars_are_read_in_place(tmp_path, monkeypatch):
    def picture(name):
        return encode(photograph(20 + len(name), 31, seed=sum(name.encode())), "JPEG")

    monkeypatch.setattr(test_ilsvrc, "image", picture)
    source = tmp_path / "source"
    source.mkdir()
    write_official(source)
    train = {f"Annotation/{WNIDS[1]}/{WNIDS[1]}_7.xml": voc((WNIDS[1], (1, 2, 3, 4)), (WNIDS[1], (5, 6, 7, 8)))}
    (source / "ILSVRC2012_bbox_train_v2.tar.gz").write_bytes(tar(train, "w:gz"))
    before = contents(source)
    source.chmod(0o555)
    prepared(source, tmp_path / "out")
    source.chmod(0o755)
    assert contents(source) == before
    assert_holds(tmp_path / "out", source)
    manifest = Manifest.read(tmp_path / "out")
    assert manifest.layout == "official tars"
    assert len(manifest.blacklist) == 2
    assert sum(map(len, everything(tmp_path / "out")["train"][3])) == 2


def exif_rotated(picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(picture, "JPEG", exif=exif)


ODD = {
    "png.JPEG": encode(photograph(30, 40)),
    "cmyk.JPEG": encode(photograph(30, 40).convert("CMYK"), "JPEG"),
    "grey.JPEG": encode(photograph(30, 40).convert("L"), "JPEG"),
    "16 bit.JPEG": encode(Image.fromarray(ramp16())),
    "turned by exif.JPEG": exif_rotated(photograph(30, 40)),
    "corrupt exif.JPEG": encode(photograph(30, 40), "JPEG", exif=corrupt_exif()),
    "progressive.JPEG": encode(photograph(30, 40), "JPEG", progressive=True),
    "palette.JPEG": encode(photograph(30, 40).quantize(10), transparency=3),
    "gif.JPEG": encode(photograph(30, 40), "GIF"),
    "one pixel.JPEG": encode(photograph(1, 1)),
    "panorama.JPEG": encode(photograph(3, 900), "JPEG"),
    "fish 魚 ü.JPEG": encode(photograph(30, 40), "JPEG"),
    os.fsdecode(b"latin \xff.JPEG"): encode(photograph(30, 40), "JPEG"),
    "two\nlines.JPEG": encode(photograph(30, 40), "JPEG"),
}
BAD = {**{f"{name}.JPEG": data for name, data in DAMAGED.items()}, "bomb.JPEG": header_of_png(60_000, 60_000)}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # of the Pillow that the test itself reads with
def test_oddities_are_read_and_damage_is_listed(own, tmp_path):
    """The same names in two classes; every readable one of them comes out, and none of the others stops the work."""
    for label in ("class0", "class1"):
        for name, data in {**ODD, **BAD}.items():
            (own / label / name).write_bytes(data)
    prepared(own, tmp_path / "out")
    assert_holds(tmp_path / "out", own)
    listed = unreadable(tmp_path / "out")
    assert listed.keys() == {f"{label}/{name}" for label in ("class0", "class1") for name in BAD}
    assert listed["class1/empty.JPEG"] == "cannot be read as an image (the file is empty)"
    assert "3600000000 pixels" in listed["class0/bomb.JPEG"]
    manifest = Manifest.read(tmp_path / "out")
    assert manifest.unreadable == 2 * len(BAD)
    assert sum(map(manifest.images, SPLITS)) == 60 + 2 * len(ODD)
    sizes = {
        name: size
        for split in SPLITS
        for name, size in zip(*[everything(tmp_path / "out")[split][i] for i in (2, 4)], strict=True)
    }
    assert sizes["class0/turned by exif.JPEG"] == [40, 30]


def test_annotations_that_cannot_be_read(toy, tmp_path):
    """The pictures are kept, without boxes."""
    own = Path(shutil.copytree(toy, tmp_path / "own"))
    train = sorted((own / "ILSVRC" / "Annotations").glob("CLS-LOC/train/*/*.xml"))
    train[1].write_text("<annotation>")
    train[2].write_text(train[2].read_text().replace("<xmin>", "<xmin>9999999999"))
    prepared(own, tmp_path / "out")
    found, _, names, boxes, _ = everything(tmp_path / "out")["train"]
    assert len(found) == len(train)
    listed = unreadable(tmp_path / "out")
    assert listed.keys() == {names[1], names[2]}
    assert "cannot be read as a VOC annotation" in listed[names[1]]
    assert "corners that cannot be" in listed[names[2]]
    assert [bool(each) for each in boxes[:4]] == [True, False, False, True]
    assert Manifest.read(tmp_path / "out").unreadable == 0


def test_a_damaged_archive_of_boxes_stops_before_the_work_begins(own, tmp_path):
    (own / "bbox_train.tar.gz").write_bytes(b"<html>")
    for folder in ("train", "val"):
        (own / folder).mkdir()
        for label in range(3):
            shutil.copytree(own / f"class{label}", own / folder / f"class{label}")
    message = refused(own, tmp_path / "out")
    assert "bbox_train.tar.gz: the archive cannot be read" in message
    assert message.endswith("or move it away to do without these boxes")


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 16_384, 16_385, 50_000, 262_144, 819_200, 1_281_167, 10**7])
def test_blocks_depend_on_the_number_of_examples_alone(count):
    spans = preparing._spans("train", count)
    assert [n for span in spans for n in (span.begin, span.end)] == sorted([n for s in spans for n in (s.begin, s.end)])
    assert sum(map(len, spans)) == count
    assert [span.number for span in spans] == list(range(len(spans)))
    assert all(256 <= len(span) <= max(4096, count / 200 + 1) for span in spans[:-1])
    assert len(spans) <= 200
    assert (
        len(spans) == min(-(-count // 256), max(64, -(-count // 4096))) or 16_384 < count < 262_144 or count > 819_200
    )


def test_any_number_of_processes_gives_the_same_bytes(raw, source, tmp_path):
    prepared(source, tmp_path / "out", workers=3)
    assert contents(tmp_path / "out") == contents(raw)


# ---- What is there already ------------------------------------------------------------------------------------------


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != LOCK}


def test_a_finished_data_set_is_left_as_it_is(finished, source):
    before = times(finished)
    lines: list[str] = []
    done = prepared(source, finished, encoding=finished.name, say=lines.append)
    assert done.pictures == 0
    assert len(done.dataset.train) == 54
    assert lines == []
    assert times(finished) == before


def test_shards_that_are_missing_are_made_again(finished, source, tmp_path):
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    before = contents(out)
    lines: list[str] = []
    (out / shard_name("train", 2, finished.name)).unlink()
    (out / shard_name("validation", 0, finished.name)).write_bytes(b"cut")
    kept = times(out)
    done = prepared(source, out, encoding=finished.name, say=lines.append)
    assert done.pictures == 8 + 6
    assert contents(out) == before
    assert "6 of 8 shards are there already" in lines[0]
    assert {path for path, time in times(out).items() if kept.get(path) != time} == {
        out / shard_name("train", 2, finished.name),
        out / shard_name("validation", 0, finished.name),
    }


def test_a_missing_shard_whose_pictures_have_changed(raw, own, tmp_path):
    out = Path(shutil.copytree(raw, tmp_path / "out"))
    (own / "class0" / "003.jpg").write_bytes(encode(photograph(seed=99), "JPEG"))
    (out / "train-00000.raw").unlink()
    message = refused(own, out)
    assert "train-00000.raw: comes out otherwise than when the data set was prepared" in message
    assert not (out / "train-00000.raw").exists()
    assert (out / MANIFEST).exists()


def test_what_stands_beside_the_shards_cannot_be_made_again(raw, source, tmp_path):
    out = Path(shutil.copytree(raw, tmp_path / "out"))
    (out / "train.safetensors").unlink()
    assert "prepare the data set again, into a new folder" in refused(source, out)


def interrupt(*_):
    raise KeyboardInterrupt


def interrupted(source, out, **options):
    """A preparation that ends when its plan is written."""
    with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(preparing, "in_processes", interrupt)
        prepared(source, out, **options, workers=1)
    return out


@pytest.mark.parametrize("state", ["begun", "prepared"])
@pytest.mark.parametrize(
    ("options", "message"), [({"size": 13}, "with --size 12"), ({"encoding": "jpeg"}, "with --format raw")]
)
def test_another_size_or_format_is_refused(raw, source, tmp_path, state, options, message):
    out = raw if state == "prepared" else interrupted(source, tmp_path / "out")
    before = contents(out)
    assert f"{out}: was {state} {message}; name another folder" in refused(source, out, **options)
    assert contents(out) == before


@pytest.mark.parametrize("state", ["begun", "prepared"])
@pytest.mark.parametrize("change", ["more", "fewer", "renamed"])
def test_another_source_is_refused(raw, source, own, tmp_path, state, change):
    out = raw if state == "prepared" else interrupted(source, tmp_path / "out")
    path = own / "class1" / "007.jpg"
    if change == "more":
        shutil.copy(path, path.with_name("more.jpg"))
    elif change == "fewer":
        path.unlink()
    else:
        path.rename(path.with_name("007a.jpg"))
    before = contents(out)
    assert f"was {state} from other pictures or labels" in refused(own, out)
    assert contents(out) == before


def test_another_decoder_is_refused_while_work_goes_on(source, tmp_path, monkeypatch):
    out = interrupted(source, tmp_path / "out")
    monkeypatch.setattr(preparing, "decoder_name", lambda: "another")
    assert "was begun with Pillow" in refused(source, out)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000])
def test_a_damaged_plan(source, tmp_path, content):
    out = interrupted(source, tmp_path / "out")
    (out / PLAN).write_bytes(content)
    assert "shards.unfinished.json: damaged" in refused(source, out)


def test_a_folder_in_which_not_even_the_plan_was_finished(source, raw, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK).write_bytes(b"")
    (tmp_path / "out" / f".{PLAN}.4711.unfinished").write_bytes(b"{")
    prepared(source, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(raw)


def test_folders_that_hold_anything_else_are_refused_and_kept(source, tmp_path):
    (tmp_path / "thesis.txt").write_text("")
    assert refused(source, tmp_path).endswith("not empty, and no prepared data set; name a new or empty folder")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert "cannot be used (Not a directory)" in refused(source, tmp_path / "thesis.txt")
    assert "(Not a directory)" in refused(source, tmp_path / "thesis.txt" / "out")


def test_a_folder_in_the_source_is_refused(own):
    before = contents(own)
    for out in (own, own / "out", own / "class0" / ".." / "out"):
        assert "which is only read" in refused(own, out)
    assert contents(own) == before


def test_a_source_that_is_none_leaves_no_folder(tmp_path):
    (tmp_path / "source").mkdir()
    assert "no images in a layout" in refused(tmp_path / "source", tmp_path / "out")
    assert "no such folder" in refused(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sources_that_are_not_whole(tmp_path):
    """A tar that is cut in the middle, and a list of labels that lacks a line."""
    write_official(tmp_path / "tars")
    path = tmp_path / "tars" / "ILSVRC2012_img_train.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "ILSVRC2012_img_train.tar: the tar is cut off" in refused(tmp_path / "tars", tmp_path / "out")
    write_unpacked(tmp_path / "tree")
    (tmp_path / "tree" / "val.txt").write_text("".join(f"{name} 0\n" for name in VALIDATION[1:]))
    assert f"no label for the validation image {VALIDATION[0]}" in refused(tmp_path / "tree", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [0, -1, 2**13 + 1])
def test_impossible_sizes(source, tmp_path, size):
    assert f"squares of {size} pixels can't be made" in refused(source, tmp_path / "out", size=size)


def test_one_at_a_time(source, tmp_path):
    with preparing._locked(tmp_path / "out"):
        assert "another npconvnet prepare is at work" in refused(source, tmp_path / "out")
    assert list(contents(tmp_path / "out")) == []


def test_not_one_training_picture(own, tmp_path):
    for path in own.rglob("*.jpg"):
        path.write_bytes(b"no picture")
    for _ in range(2):
        message = refused(own, tmp_path / "out")
        assert "not one of the training pictures can be read (class" in message
    assert not (tmp_path / "out" / MANIFEST).exists()


# ---- The disk -------------------------------------------------------------------------------------------------------


def test_too_little_room_is_said_before_the_work_begins(source, tmp_path, monkeypatch):
    needed = 60 * SIZE**2 * 3
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    message = refused(source, tmp_path / "out")
    assert "25.9kB are needed" in message
    assert "--format jpeg" in message
    prepared(source, tmp_path / "out", encoding="jpeg")  # what has just been refused does not stand in its way
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    prepared(source, tmp_path / "out")


def test_only_what_is_missing_needs_room(raw, source, tmp_path, monkeypatch):
    out = Path(shutil.copytree(raw, tmp_path / "out"))
    (out / "train-00000.raw").unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=8 * SIZE**2 * 3))
    assert prepared(source, out).pictures == 8


# ---- Interruptions --------------------------------------------------------------------------------------------------

BEFORE = f"""
import os, resource, signal
from pathlib import Path
from npconvnet.data.image import decode_image
from npconvnet.data.shards import preparing
preparing.SHORTEST = {SHORTEST}
"""


def start(source, out, before="", size=SIZE):
    """`prepare` in a process of its own, with two workers; `before` is run first."""
    code = f"{BEFORE}{before}\npreparing.prepare(Path({str(source)!r}), Path({str(out)!r}), {size}, 'raw', 2)"
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def finished_parts(out):
    return sorted(path.name for path in (out / PARTS).glob("[tv]*"))


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A source of 60 pictures that take a while to decode, and its shards, made without interruption."""
    root = tmp_path_factory.mktemp("slow")
    source, large = root / "source", encode(photograph(700, 900), compress_level=1)
    for number in range(60):
        path = source / f"class{number % 2}" / f"{number:02d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(large)
    prepared(source, root / "out", workers=2)
    return source, contents(root / "out")


def test_work_that_is_stopped_again_and_again_ends_with_the_same_bytes(slow, tmp_path):
    source, whole = slow
    out = tmp_path / "out"
    seen: dict[str, tuple[int, int]] = {}

    def look():
        """Shards that are finished are never written again."""
        for name in finished_parts(out):
            stat = (out / f"{name}.raw").stat()
            assert seen.setdefault(name, (stat.st_ino, stat.st_mtime_ns)) == (stat.st_ino, stat.st_mtime_ns)

    for parts, number in ((0, signal.SIGKILL), (1, signal.SIGINT), (3, signal.SIGKILL), (5, signal.SIGINT)):
        process = start(source, out)
        wait_for((out / PLAN).exists)
        wait_for(lambda parts=parts: len(finished_parts(out)) >= parts)
        process.send_signal(number)
        error = process.communicate(timeout=60)[1]  # returns once no worker holds stderr any more
        assert ("KeyboardInterrupt" in error) == (number == signal.SIGINT)
        assert not (out / MANIFEST).exists()
        if number == signal.SIGINT:
            assert not list(out.rglob("*.unfinished"))
        look()
    # Then it is killed in each of the moments at which something gets its name or goes, when all shards are there.
    for moment in range(1, 7):
        process = start(source, out, _kill_before(moment))
        assert process.wait(60) == -signal.SIGKILL
        assert (out / MANIFEST).exists() == (moment == 6)
    look()
    assert prepared(source, out, workers=1).pictures == 0
    assert contents(out) == whole
    look()
    assert len(seen) == 8


def _kill_before(moment):
    """Code that kills the process before the so-manyth file beside the shards gets its name; the last is removed."""
    return f"""
moments = 0
def killing(function):
    def call(path, *arguments, **options):
        global moments
        moments += 1
        if moments == {moment}:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(path, *arguments, **options)
    return call
Path.replace = killing(Path.replace)
preparing._Work.remove_parts = lambda work: killing(lambda path: None)(work.out)
"""


def test_a_process_that_dies_is_one_line_and_the_next_run_goes_on(slow, tmp_path):
    source, whole = slow
    out = tmp_path / "out"

    def kill_a_worker():
        wait_for(lambda: finished_parts(out))
        child = multiprocessing.active_children()[0]
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    assert "a process died, perhaps for lack of memory" in refused(source, out, workers=2)
    killer.join()
    assert not list(out.rglob("*.unfinished"))
    prepared(source, out, workers=2)
    assert contents(out) == whole


LIMITED = """
def limit(count, then):
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, count))
    return then
"""


@pytest.mark.parametrize(
    ("before", "finished"),
    [
        ("limit(12_000, None)", 2),  # only the last shard of either split is shorter
        ("join = preparing._Work.join_parts\npreparing._Work.join_parts = lambda work: limit(2_000, join)(work)", 8),
    ],
    ids=["shards", "index"],
)
def test_a_full_disk_stops_the_work_and_what_is_finished_is_kept(source, tmp_path, before, finished):
    """No file may be longer than the limit."""
    prepared(source, tmp_path / "whole", size=24)
    out = tmp_path / "out"
    error = start(source, out, LIMITED + before, size=24).communicate(timeout=60)[1]
    assert "cannot be written (File too large); once it can, the same command goes on where it was" in error
    assert "InputError" in error.splitlines()[-1]
    assert not list(out.rglob("*.unfinished"))
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*.raw")}
    assert len(kept) <= finished
    assert prepared(source, out, size=24).pictures == 60 - sum(len(path.read_bytes()) // (24 * 24 * 3) for path in kept)
    assert contents(out) == contents(tmp_path / "whole")
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


def test_a_part_that_is_damaged_while_it_waits_is_made_again(source, raw, tmp_path):
    out = interrupted(source, tmp_path / "out")
    with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(preparing._Work, "join_parts", interrupt)
        prepared(source, out)
    part = out / PARTS / "train-00001"
    part.write_bytes(part.read_bytes()[:-1])
    assert prepared(source, out).pictures == 8
    assert contents(out) == contents(raw)


def test_the_plan_is_all_that_a_folder_without_shards_holds(source, tmp_path):
    out = interrupted(source, tmp_path / "out")
    assert list(contents(out)) == [PLAN]
    with pytest.raises(InputError, match="not finished; the same npconvnet prepare goes on"):
        open_prepared(out)


def test_what_is_said_before_the_work_begins(source, tmp_path):
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "SHORTEST", 8)
        prepare(source, tmp_path / "out", SIZE, "raw", 1, lines.append)
    assert lines == [
        f"{source} (class folders): 54 training and 6 validation pictures become squares of 12 pixels in "
        f"{tmp_path / 'out'}, 25.9kB"
    ]
    assert Index.from_bytes((tmp_path / "out" / "train.safetensors").read_bytes()).lengths.sum() == 54 * SIZE**2 * 3
    assert load((tmp_path / "out" / MEAN).read_bytes()).keys() == {"mean"}


def test_pictures_that_are_no_files_stop_nothing(own, tmp_path):
    os.mkfifo(own / "class0" / "pipe.jpg")
    (own / "class0" / "circle.jpg").symlink_to("circle.jpg")
    finished = prepared(own, tmp_path / "out").dataset.manifest
    lines = [json.loads(line) for line in (tmp_path / "out" / UNREADABLE).read_text().splitlines()]
    assert [line["name"] for line in lines] == ["class0/circle.jpg", "class0/pipe.jpg"]
    assert finished.unreadable == 2


def test_not_one_validation_picture(own, tmp_path):
    for split in ("train", "val"):
        for label in range(3):
            shutil.copytree(own / f"class{label}", tmp_path / "split" / split / f"class{label}")
    for path in (tmp_path / "split" / "val").rglob("*.jpg"):
        path.write_bytes(b"no picture")
    message = refused(tmp_path / "split", tmp_path / "out")
    assert "not one of the validation pictures can be read (val/class" in message
    shutil.copy(tmp_path / "split" / "train" / "class0" / "000.jpg", tmp_path / "split" / "val" / "class0")
    assert prepared(tmp_path / "split", tmp_path / "out").dataset.manifest.images("validation") == 1


def test_shards_and_work_that_was_begun_are_no_source(source, raw, tmp_path):
    assert "holds shards, which are prepared" in refused(raw, tmp_path / "out")
    begun = interrupted(source, tmp_path / "begun")
    assert "holds shards" in refused(begun, tmp_path / "out")
