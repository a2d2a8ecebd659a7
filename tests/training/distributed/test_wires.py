"""Sums over real processes: by MPI, and by NCCL between stand-ins for GPUs."""

import re
from functools import reduce
from itertools import product

import numpy as np
import pytest

from npconvnet.kernels import from_bfloat16, to_bfloat16
from tests.training.distributed.mpi import on_ranks
from tests.training.distributed.sums import DTYPES, MISTAKES, SIZES, TIMES, key, numbers

CASES = [(form, dtype, size) for form, dtypes in DTYPES.items() for dtype, size in product(dtypes, SIZES)]


def sums(folder, engine, ranks, per_machine=9, *mistake):
    """What each rank gets, by the key of the case."""
    done = on_ranks(ranks, "-m", "tests.training.distributed.sums", engine, folder, per_machine, *mistake)
    assert done.returncode == 0, done.stderr
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(ranks)]


#: (engine, ranks, of them on a machine); 3 by 2 are machines of different numbers, which count as one.
JOBS = [(engine, *job) for engine in ("mpi", "nccl") for job in [(2, 9), (3, 9), (4, 2), (3, 2), (2, 1)]]


@pytest.fixture(scope="module", params=JOBS, ids="{0[0]} {0[1]} by {0[2]}".format)
def summed(request, tmp_path_factory):
    """(what each rank has got, ranks on a machine)."""
    return sums(tmp_path_factory.mktemp("sums"), *request.param), request.param[2]


def rounded(x):
    return from_bfloat16(to_bfloat16(x))


def assert_is_sum(x, ranks, per_machine, form, dtype, size):
    parts = [numbers(rank, size, dtype) for rank in range(ranks)]
    if form == "bfloat16":
        by_machine = (
            [parts] if ranks % per_machine else [parts[i : i + per_machine] for i in range(0, ranks, per_machine)]
        )
        machines = [rounded(reduce(np.add, map(rounded, machine))) for machine in by_machine]
        np.testing.assert_array_equal(x, rounded(reduce(np.add, machines)))
    else:
        exact = np.sum(parts, axis=0, dtype=np.float64)
        np.testing.assert_allclose(x, exact, rtol=0, atol=np.finfo(dtype).eps * np.abs(parts).sum(axis=0).max())
        assert x.dtype == dtype


@pytest.mark.parametrize(("form", "dtype", "size"), CASES)
def test_all_ranks_get_the_sum_and_the_same_bits_again_and_again(summed, form, dtype, size):
    of_ranks, per_machine = summed
    found = [of_rank[key(time, form, dtype, size)] for of_rank in of_ranks for time in TIMES]
    for x in found:
        assert_is_sum(x, len(of_ranks), per_machine, form, dtype, size)
    assert len({x.tobytes() for x in found}) == 1


def test_another_run_gives_the_same_bits(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    for x, y in zip(sums(first, "mpi", 3), sums(second, "mpi", 3), strict=True):
        assert {name: value.tobytes() for name, value in x.items()} == {name: v.tobytes() for name, v in y.items()}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_stand_ins_find_mistakes(mistake, tmp_path):
    found = sums(tmp_path, "nccl", 2, 9, mistake)
    with pytest.raises(AssertionError):
        for of_rank, time, case in product(found, TIMES, CASES):
            assert_is_sum(of_rank[key(time, *case)], 2, 9, *case)


# ---- NCCL that does not come up -------------------------------------------------------------------------------------

ON_GPUS = """
from npconvnet.backend import use_gpu
from npconvnet.training.distributed.ranks import join
from npconvnet.training.distributed.wires import NCCLWire
from tests import stand_in_nccl
from tests.training.distributed.gpus import pretend

pretend(2)
ranks = join()
"""
REFUSALS = {
    "no NCCL": ("stand_in_nccl.available = False", "cupy finds no NCCL.* run: pip install nvidia-nccl-cu13"),
    "one GPU": (
        "use_gpu(0)",
        r"NCCL does not connect the ranks \(.*Duplicate GPU detected\); run with NCCL_DEBUG=INFO",
    ),
}


@pytest.mark.parametrize(("arranged", "line"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(arranged, line):
    done = on_ranks(2, "-c", f"{ON_GPUS}\n{arranged}\nNCCLWire(ranks, 'float32')")
    assert done.returncode != 0
    assert re.search(f"InputError: {line}", done.stderr)
