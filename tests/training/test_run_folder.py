"""The data that a run began with, and those that a resumed run is given."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from npconvnet.data.augment import ColourStatistics
from npconvnet.data.opening import Data
from npconvnet.errors import InputError
from npconvnet.synsets import Synset
from npconvnet.training.run_folder import RunFolder
from tests.data.test_loader import Greys

DATA = Data(Path("data"), "class folders", "", (Synset("n1", "one"), Synset("n2", "two")), Greys(5), Greys(2))
PREPARED = replace(DATA, root=Path("prepared"), source="made of this")


def begun(tmp_path, data):
    folder = RunFolder.choose(tmp_path / "run", "tiny")
    folder.create({}, 3, data, ColourStatistics(np.zeros(3), np.eye(3)))
    return RunFolder.resume(tmp_path / "run")


def test_keeps_the_number_of_ranks(tmp_path):
    folder = begun(tmp_path, DATA)
    assert folder.ranks == 3
    for damage in (None, 0, "3"):
        folder.configuration["ranks"] = damage
        with pytest.raises(InputError, match="number of ranks in its configuration is damaged"):
            _ = folder.ranks


@pytest.mark.parametrize("then", [DATA, PREPARED], ids=["decoded", "prepared"])
@pytest.mark.parametrize("now", [DATA, PREPARED], ids=["decoded", "prepared"])
def test_the_same_data_prepared_or_not(tmp_path, then, now):
    begun(tmp_path, then).require_same_data(replace(now, root=Path("elsewhere"), layout="unpacked", note="moved"))


@pytest.mark.parametrize("then", [DATA, PREPARED], ids=["decoded", "prepared"])
@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"synsets": DATA.synsets[:1]}, "classes"),
        ({"train": Greys(6)}, "training_images"),
        ({"validation": Greys(1)}, "validation_images"),
    ],
    ids=str,
)
def test_other_data(tmp_path, then, change, name):
    folder = begun(tmp_path, then)
    for now in (DATA, PREPARED):
        with pytest.raises(InputError, match=f"{now.root} is not the data set .* differs in {name}$"):
            folder.require_same_data(replace(now, **change))


def test_prepared_from_other_images(tmp_path):
    with pytest.raises(InputError, match=r"differs in source$"):
        begun(tmp_path, PREPARED).require_same_data(replace(PREPARED, source="made of that"))
