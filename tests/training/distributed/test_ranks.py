"""What ranks tell each other: three real processes, each of which prints what it has heard; and one alone."""

import json
import subprocess
import sys

import numpy as np
import pytest

from npconvnet.training.distributed.ranks import ALONE
from tests.training.distributed.mpi import on_ranks

BEGIN = """
import json, os, sys, time
import numpy as np
from npconvnet.training.distributed.ranks import Ranks, fail, join
ranks = join()
def say(x):
    said = ranks.gather(x)
    if ranks.is_first:
        print(json.dumps(said))
"""


def heard(story, count=3):
    """What each of so many ranks says of a `story`."""
    done = on_ranks(count, "-c", BEGIN + story)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert len(said) == count
    return said


def test_who_is_who():
    found = heard("say([ranks.size, ranks.local_rank, ranks.is_first])")
    assert found == [[3, 0, True], [3, 1, False], [3, 2, False]]


def test_gather():
    assert heard("say(ranks.gather(['x'] * ranks.rank))") == [[[], ["x"], ["x", "x"]]] * 3


def test_sum():
    assert heard("say(ranks.sum(ranks.rank, 0.1, True))") == [[3.0, pytest.approx(0.3), 3.0]] * 3


def test_from_first():
    assert heard("say(ranks.from_first(lambda: ['made', ranks.rank]))") == [["made", 0]] * 3


def test_after_first():
    """The others begin when the first is done."""
    story = """
def make():
    began = time.monotonic()
    time.sleep(0.2 * ranks.is_first)
    return began, time.monotonic()
say(ranks.after_first(make))
"""
    (_, first_ended), *others = heard(story)
    assert all(began >= first_ended for began, _ in others)


def test_copy_from_first():
    story = """
arrays = [np.full((2, 3), ranks.rank, np.float32), np.arange(4.)[::2] + ranks.rank]
ranks.copy_from_first(arrays)
say([array.tolist() for array in arrays])
"""
    assert heard(story) == [[[[0, 0, 0], [0, 0, 0]], [0, 2]]] * 3


def test_collect():
    story = "say(sorted(ranks.collect([ranks.rank, n] for n in range(ranks.rank * 2))))"
    first, *others = heard(story)
    assert first == [[1, 0], [1, 1], [2, 0], [2, 1], [2, 2], [2, 3]]
    assert others == [[], []]


@pytest.mark.parametrize("count", range(8))
def test_shares_make_the_whole(count):
    slices = heard("say([[part.start, part.stop] for part in map(ranks.share, range(8))])")
    parts = [list(range(count)[slice(*of_rank[count])]) for of_rank in slices]
    assert sum(parts, []) == list(range(count))  # noqa: RUF017
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("failing", [0, 2])
def test_a_failure_of_one_ends_all(failing):
    story = f"""
if ranks.rank == {failing}:
    fail("error: too bad", 3)
ranks.gather(None)
"""
    done = on_ranks(3, "-c", BEGIN + story)
    assert done.returncode == 3
    assert f"rank {failing} on {ALONE.host}: error: too bad" in done.stderr
    assert "has died" not in done.stderr


def test_a_failure_before_the_ranks_have_met_ends_all():
    story = BEGIN.replace(
        "ranks = join()", "if os.environ['PMI_RANK'] == '1': fail('error: too bad', 3)\nranks = join()"
    )
    done = on_ranks(3, "-c", story)
    assert done.returncode == 3
    assert "rank 1 on " in done.stderr


def test_an_error_that_nobody_expects_ends_all():
    done = on_ranks(3, "-c", BEGIN + "if ranks.rank == 1: raise KeyError('oh')\nranks.gather(None)")
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "KeyError: 'oh'" in done.stderr


def test_alone():
    array = np.ones(3)
    ALONE.copy_from_first([array])
    assert (ALONE.rank, ALONE.size, ALONE.is_first, ALONE.local_rank) == (0, 1, True, 0)
    assert ALONE.sum(1, 2.5) == (1, 2.5)
    assert ALONE.gather("x") == ["x"]
    assert ALONE.from_first(lambda: 5) == ALONE.after_first(lambda: 5) == 5
    assert list(ALONE.collect([1, 2])) == [1, 2]
    assert ALONE.share(7) == slice(0, 7)
    assert (array == 1).all()


def test_a_launcher_of_another_mpi(monkeypatch):
    """It has started four, and this MPI knows of one."""
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    code = "from npconvnet.training.distributed.ranks import join; join()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert "4 ranks were started, and MPI knows of this one alone" in done.stderr
