"""What ranks must have in common. The others' answers are made up."""

from dataclasses import replace

import numpy as np
import pytest

from npconvnet.errors import InputError
from npconvnet.models import MODELS
from npconvnet.training.distributed import agreement
from npconvnet.training.distributed.agreement import code_facts, data_facts, require_same, take_gpu, weights_facts
from npconvnet.training.distributed.ranks import ALONE, Ranks
from tests.data.test_loader import Greys
from tests.training.test_run_folder import DATA


class Three(Ranks):
    """The first of three ranks; the others answer as they are told."""

    size = 3

    def __init__(self, *others):
        self.others = others

    def gather(self, x):
        return [x, *self.others]


SAME = {"--seed": 1, "the classes of the data": ["cat"] * 100}


def test_alike():
    require_same(Three((ALONE.host, SAME), ("node2", SAME)), lambda: SAME)


@pytest.mark.parametrize(
    ("theirs", "what"),
    [
        (SAME | {"--seed": 2}, r"--seed \(2, not 1\)"),
        (SAME | {"the classes of the data": []}, "the classes of the data"),
        ({"--seed": 1}, "the classes of the data"),
        (SAME | {"--more": 3}, r"--more \(3, not None\)"),
    ],
)
def test_who_differs_in_what(theirs, what):
    line = rf"^rank 2 on node2 is not like rank 0 on {ALONE.host}: it differs in {what}$"
    with pytest.raises(InputError, match=line):
        require_same(Three((ALONE.host, SAME), ("node2", theirs)), lambda: SAME)


def test_one_alone_is_not_asked():
    require_same(ALONE, lambda: pytest.fail("asked"))


def test_code(monkeypatch, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("1")
    monkeypatch.setattr("sys.argv", [str(script)])
    facts = code_facts()
    assert code_facts() == facts
    script.write_text("2")
    assert code_facts() != facts


@pytest.mark.parametrize(
    "other",
    [
        replace(DATA, synsets=DATA.synsets[::-1]),
        replace(DATA, train=Greys(6)),
        replace(DATA, validation=Greys(3)),
        replace(DATA, source="prepared"),
        replace(DATA, pictures="prepared"),
    ],
)
def test_data(other):
    assert data_facts(DATA) == data_facts(replace(DATA, root=DATA.root / "elsewhere", note="moved"))
    assert data_facts(other) != data_facts(DATA)


def test_labels_are_data():
    other = Greys(5)
    other.labels = other.labels[::-1]
    assert data_facts(replace(DATA, train=other)) != data_facts(DATA)


def test_weights():
    network = MODELS["tiny"](classes=4)
    network.initialize(np.random.default_rng(0))
    facts = weights_facts(network)
    weight = network.nodes[0].layer.parameters["weight"]
    weight.flat[3] = np.nextafter(weight.flat[3], np.float32(1))
    assert [name for name in facts if facts[name] != weights_facts(network)[name]] == ["the weights of conv1.weight"]


def test_gpus(monkeypatch):
    monkeypatch.setattr(agreement, "use_gpu", lambda number: f"0000:0{number}")
    take_gpu(Three((ALONE.host, "0000:01"), ("node2", "0000:00")))
    with pytest.raises(InputError, match=rf"^ranks 0 and 2 on {ALONE.host} have one GPU between them"):
        take_gpu(Three((ALONE.host, "0000:01"), (ALONE.host, "0000:00")))
