"""What the ranks of test_wires.py do: `python -m tests.training.distributed.sums WIRE FOLDER PER_MACHINE [MISTAKE]`.

Each rank sums every case several times, and keeps what it got in FOLDER. On GPUs, all that is queued is done as late as
may be; then what is in the wire's stream as early; then what is in the backward's.
"""

import os
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from npconvnet.backend import host_memory, module_of, to_host, use_gpu
from npconvnet.training.distributed.ranks import MPIRanks, Ranks, join
from npconvnet.training.distributed.wires import MPIWire, NCCLWire, WireFormat
from tests.training.distributed.gpus import pretend

TIMES = range(3)
SIZES = [1, 2, 7, 1000, 4099]
DTYPES: dict[WireFormat, list[str]] = {"float32": ["float32", "float64"], "bfloat16": ["float32"]}


def key(*case: object) -> str:
    """The name of a sum in the files."""
    return " ".join(map(str, case))


def numbers(rank: int, size: int, dtype: str) -> Any:
    """What `rank` brings to a sum."""
    return np.random.default_rng([rank, size]).normal(size=size).astype(dtype)


def on_gpu(host: Any) -> Any:
    """An array that is not filled yet: the copy to it waits in the current stream."""
    pinned = host_memory(host.shape, host.dtype, "gpu")
    pinned[:] = host
    x = module_of("gpu").empty(host.shape, host.dtype)
    x.set(pinned)
    return x


def begins_too_early(wire: Any) -> None:
    """Nothing is waited for before the sum."""
    wire._stream.wait_event = lambda event: None


def ends_too_early(wire: Any) -> None:
    """Nobody waits for the sum."""
    begin_sum = wire.begin_sum
    wire.begin_sum = lambda x: begin_sum(x) and (lambda: None)


def computes_elsewhere(wire: Any) -> None:
    """What is sent is made in the stream of the backward, and what has come is looked at there."""
    sum_, null = wire._sum, wire._gpu.cuda.Stream.null

    def sum_in_null(x: Any) -> None:
        with null:
            sum_(x)

    wire._sum = sum_in_null


def lets_go_too_early(wire: Any) -> None:
    """What is sent is in memory of the backward's stream, which may want it back at once."""
    all_to_all, null = wire._all_to_all, wire._gpu.cuda.Stream.null

    def all_to_all_of_null(group: Any, x: Any) -> Any:
        with null:
            copy = x.copy()
        return all_to_all(group, copy)

    wire._all_to_all = all_to_all_of_null


MISTAKES: dict[str, Callable[[Any], None]] = {
    mistake.__name__: mistake for mistake in (begins_too_early, ends_too_early, computes_elsewhere, lets_go_too_early)
}


def hurry(stream: Any) -> None:
    """What it is asked for from now on, it does at once."""
    append = stream._append

    def append_and_do(work: Callable[[], object]) -> None:
        append(work)
        stream.synchronize()

    stream._append = append_and_do


def main(engine: str, folder: str, per_machine: str = "9", mistake: str | None = None) -> None:
    """All sums are begun before the first is waited for. So many ranks make believe that they are on one machine."""
    Ranks.host = f"machine {int(os.environ['PMI_RANK']) // int(per_machine)}"
    if engine == "nccl":
        pretend(8)
    ranks = join()
    assert isinstance(ranks, MPIRanks)
    if engine == "nccl":
        use_gpu(ranks.rank)
    put = on_gpu if engine == "nccl" else np.copy
    sums: dict[str, Any] = {}
    for time, (form, dtypes) in product(TIMES, DTYPES.items()):
        wire: Any = (NCCLWire if engine == "nccl" else MPIWire)(ranks, form)
        if mistake:
            MISTAKES[mistake](wire)
        if engine == "nccl" and time:
            hurry([wire._stream, wire._gpu.cuda.Stream.null][time - 1])
        cases = [*product(dtypes, SIZES)]
        xs = [put(numbers(ranks.rank, size, dtype)) for dtype, size in cases]
        waits = [wire.begin_sum(x) for x in xs]
        for (dtype, size), x, wait in zip(cases, xs, waits, strict=True):
            wait()
            sums[key(time, form, dtype, size)] = to_host(x).copy()
    np.savez(Path(folder) / f"{ranks.rank}.npz", **sums)


if __name__ == "__main__":
    main(*sys.argv[1:])
