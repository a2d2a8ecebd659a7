"""Scores that several ranks find together are those that one finds."""

import json
import sys

import numpy as np
import pytest

from npconvnet.data.toy import make_toy
from tests.command_line import npconvnet
from tests.training.distributed.mpi import on_ranks


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Ten validation pictures, one of them damaged."""
    root = tmp_path_factory.mktemp("toy") / "set"
    make_toy(root, seed=2, train_per_class=1, validation_per_class=1)
    sorted((root / "ILSVRC/Data/CLS-LOC/val").iterdir())[7].write_bytes(b"no picture")
    return root


def by_ranks(count, *arguments):
    done = on_ranks(count, "-m", "npconvnet.cli", *arguments)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("count", [2, 3])
def test_evaluate(pictures, checkpoint, count):
    arguments = ["evaluate", checkpoint, "--data", pictures, "--views", 10, "--json", "--batch-size", 20]
    alone = json.loads(npconvnet(*arguments).stdout)
    done = by_ranks(count, *arguments)
    together = json.loads(done.stdout)  # once
    np.testing.assert_allclose(together.pop("loss"), alone.pop("loss"), rtol=1e-6)
    assert together == alone
    assert together["pictures"] == 9
    assert len(together["unreadable"]) == 1
    assert done.stderr.count("skipped: ") == 1


def test_evaluate_localization(pictures, checkpoint, tmp_path):
    arguments = ["evaluate-localization", "--data", pictures, "--weights", checkpoint, "--json", "--processes", 1]
    alone = npconvnet(*arguments, "--results", tmp_path / "alone.jsonl")
    together = by_ranks(2, *arguments, "--results", tmp_path / "together.jsonl")
    assert json.loads(together.stdout) == json.loads(alone.stdout)
    lines = [(tmp_path / f"{name}.jsonl").read_text().splitlines() for name in ("alone", "together")]
    assert lines[0][0] == lines[1][0]
    assert sorted(lines[0]) == sorted(lines[1])
    assert len(lines[0]) == 11

    (tmp_path / "together.jsonl").write_text("\n".join(lines[1][:4]) + "\n")
    again = by_ranks(3, *arguments, "--results", tmp_path / "together.jsonl")
    assert json.loads(again.stdout) == json.loads(alone.stdout)
    assert sorted((tmp_path / "together.jsonl").read_text().splitlines()) == sorted(lines[0])


def test_other_options_are_refused(pictures, checkpoint):
    command = ["-m", "npconvnet.cli", "evaluate", checkpoint, "--data", pictures]
    done = on_ranks(1, *command, "--views", 10, "--batch-size", 3, ":", "-n", 1, sys.executable, *command)
    assert done.returncode == 2
    assert "it differs in --views (1, not 10), --batch-size (64, not 3)" in done.stderr
