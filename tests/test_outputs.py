"""Files that commands write."""

import errno

import numpy as np
import pytest

from npconvnet.errors import InputError
from npconvnet.outputs import (
    as_file_name,
    is_unfinished,
    require_outputs,
    require_writable,
    save_arrays,
    whole_file,
    write_bytes,
    write_whole,
)


def test_arrays_come_back_as_they_were(tmp_path):
    save_arrays(require_writable(tmp_path / "numbers.npz"), a=np.arange(3), b=np.ones((2, 2), np.float32))
    with np.load(tmp_path / "numbers.npz") as numbers:
        np.testing.assert_array_equal(numbers["a"], [0, 1, 2])
        assert numbers["b"].dtype == np.float32


def test_arrays_go_where_they_are_told_to(tmp_path):
    save_arrays(tmp_path / "numbers", a=np.arange(3))
    assert (tmp_path / "numbers").exists()


def test_places_where_nothing_can_be_written(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        require_writable(tmp_path / "none" / "picture.png")
    with pytest.raises(InputError, match="is a folder"):
        require_writable(tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        write_bytes(tmp_path / "none" / "picture.png", b"")
    with pytest.raises(InputError, match="cannot be written"):
        save_arrays(tmp_path / "none" / "numbers.npz", a=np.ones(1))


def test_a_file_gets_its_name_when_it_is_whole(tmp_path):
    with whole_file(tmp_path / "a", "") as file:
        file.write(b"some")
        assert [is_unfinished(path) for path in tmp_path.iterdir()] == [True]
    assert not is_unfinished(tmp_path / "a")
    with pytest.raises(KeyError), whole_file(tmp_path / "a", "") as file:
        file.write(b"other")
        raise KeyError
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"some"}


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_whole(tmp_path / "a", b"some")
    monkeypatch.setattr("npconvnet.outputs.os.fsync", full)
    with pytest.raises(InputError, match=r"a: cannot be written \(No space left on device\); free some space"):
        write_whole(tmp_path / "a", b"other")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"some"}


def test_outputs_that_would_overwrite_an_input_or_each_other(tmp_path):
    photo, figure = tmp_path / "photo.jpg", tmp_path / "figure.png"
    require_outputs([figure, None], [photo, None])
    with pytest.raises(InputError, match="it is an input"):
        require_outputs([tmp_path / "." / "photo.jpg"], [photo])
    with pytest.raises(InputError, match="named for two outputs"):
        require_outputs([figure, tmp_path / "figure.png"], [photo])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("conv1", "conv1"),
        ("fire2.squeeze1x1", "fire2.squeeze1x1"),
        ("/features/features.0/Conv", "features_features.0_Conv"),
        ("../../etc/passwd", "etc_passwd"),
        ("..", "_"),
        ("a b\0c\\d", "a_b_c_d"),
        ("", "_"),
    ],
)
def test_names_from_files_lead_nowhere(text, name):
    assert as_file_name(text) == name
