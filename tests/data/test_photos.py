"""The photographs of one call."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from npconvnet.data.photos import Photos
from npconvnet.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """Five photos, the third of them broken, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in "abde":
        Image.fromarray(np.full((4, 5, 3), ord(name), np.uint8)).save(folder / f"{name}.png")
    (folder / "c.png").write_text("no image")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_folder_means_the_images_in_it(folder):
    assert [file.name for file in Photos([folder]).files] == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    assert [file.name for file in Photos([folder / "b.png", folder]).files][:2] == ["b.png", "a.png"]


def test_the_others_go_on_where_one_cannot_be_read(folder, capsys):
    photos = Photos([folder])
    batches = list(photos.batches(2, "test"))
    assert [[file.stem for file, _ in batch] for batch in batches] == [["a", "b"], ["d"], ["e"]]
    assert batches[0][1][1][0, 0, 0] == ord("b")
    with pytest.raises(InputError, match="1 of 5 photos failed; the others are done"):
        photos.finish()
    assert "failed: " in capsys.readouterr().err


def test_what_fails_with_one_of_several_is_listed(folder):
    photos = Photos([folder])
    with photos.may_fail():
        raise InputError("no luck")
    assert photos.failures == ["no luck"]


def test_one_photo_that_cannot_be_read_is_an_error(folder):
    photos = Photos([folder / "c.png"])
    with pytest.raises(InputError, match=r"c\.png: cannot be read as an image"):
        list(photos.batches(2, "test"))


def test_nothing_failed(folder):
    Photos([folder / "a.png"]).finish()


def test_where_results_go(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, several = Photos([folder / "a.png"]), Photos([folder])
    a = folder / "a.png"
    assert one.destinations(None, "_map.png") == {a: Path("a_map.png")}
    assert one.destinations(tmp_path / "x.png", "_map.png") == {a: tmp_path / "x.png"}
    assert one.destinations(folder, "_map.png") == {a: folder / "a_map.png"}
    assert several.destinations(tmp_path / "new" / "maps", "_map.png")[a] == tmp_path / "new" / "maps" / "a_map.png"
    assert (tmp_path / "new" / "maps").is_dir()


def test_results_of_two_photos_in_one_file_are_refused(folder):
    Image.new("RGB", (2, 2)).save(folder / "a.bmp")
    with pytest.raises(InputError, match=r"two photos would both be written to a_map\.png"):
        Photos([folder]).destinations(None, "_map.png")


def test_places_where_nothing_can_go(folder):
    with pytest.raises(InputError, match="there is no folder"):
        Photos([folder / "a.png"]).destinations(folder / "none" / "a.png", "_map.png")
    with pytest.raises(InputError, match="is no folder and can't be made one"):
        Photos([folder]).destinations(folder / "notes.txt", "_map.png")


def test_a_folder_without_images(tmp_path):
    with pytest.raises(InputError, match="no images in this folder"):
        Photos([tmp_path])
