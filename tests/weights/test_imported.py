"""What every reader of another framework's files relies on."""

import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest

from npconvnet.errors import InputError
from npconvnet.preprocessing import Preprocessing
from npconvnet.synsets import Synset
from npconvnet.weights.imported import assemble, read_contents, unique_name

ROWS = [("fc", "Linear", {"in_features": 2 * 2 * 3, "out_features": 2}, ("input",))]
PREPROCESSING = Preprocessing(2, 2)


def parameters(weight=1.0):
    return {"fc.weight": np.full((2, 12), weight), "fc.bias": np.zeros(2)}


def test_parameters_are_float32_and_what_that_cannot_hold_is_infinite():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = assemble(ROWS, parameters(1e300), PREPROCESSING)
    assert {parameter.dtype for parameter in network.parameters.values()} == {np.dtype(np.float32)}
    assert np.isposinf(network.parameters["fc.weight"]).all()


def test_preprocessing_and_class_names_belong_to_it():
    preprocessing, synsets = Preprocessing(3, 2, (1, 2, 3)), (Synset("a", "b"), Synset("c", "d"))
    network = assemble(ROWS, parameters(), preprocessing, synsets)
    assert (network.preprocessing, network.synsets) == (preprocessing, synsets)


@pytest.mark.parametrize(
    ("rows", "own", "synsets", "message"),
    [
        ([("flat", "Flatten", {}, ("input",))], {}, None, "none of its layers has weights"),
        ([("relu", "ReLU", {}, ("input",))], {}, None, r"'relu' makes \(2, 2, 3\), not one score for each class"),
        (ROWS, {}, None, "lacks the parameters fc.bias"),
        (ROWS, parameters(), [Synset("a", "b")], "1 class names for 2 classes"),
    ],
)
def test_parts_that_make_no_network(rows, own, synsets, message):
    with pytest.raises(ValueError, match=message):
        assemble(rows, own, PREPROCESSING, synsets)


def test_unique_names():
    assert unique_name("a", {"b"}) == "a"
    assert unique_name("a", {"a"}) == "a_2"
    assert unique_name("a", {"a", "a_2"}) == "a_3"


def test_contents(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert read_contents(path, 3) == b"abc"
    with pytest.raises(InputError, match=rf"^{path}: larger than 0 KiB, which no such file is$"):
        read_contents(path, 2)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=rf"^{path}: is empty$"):
        read_contents(path, 3)
    with pytest.raises(InputError, match=rf"^{tmp_path}/none: cannot be read \(No such file"):
        read_contents(tmp_path / "none", 3)


def test_contents_that_memory_has_no_room_for(tmp_path):
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    script = """
        import resource, sys
        from pathlib import Path
        from npconvnet.errors import InputError
        from npconvnet.weights.imported import read_contents
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**29,) * 2)
        try:
            read_contents(Path(sys.argv[1]), 1 << 31)
        except InputError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == f"{path}: larger than the memory that is left\n", done
