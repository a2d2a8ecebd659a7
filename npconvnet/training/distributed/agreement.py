"""What all ranks must have in common before they train together, and a line that says where they differ."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

import npconvnet
from npconvnet.backend import to_host, use_gpu
from npconvnet.data.opening import Data
from npconvnet.data.shards.manifest import checksum, checksum_of_list
from npconvnet.errors import InputError
from npconvnet.network import Network
from npconvnet.training.distributed.ranks import Ranks

#: A value of more characters is not worth a reader's time.
_SHOWN = 40


def require_same(ranks: Ranks, facts: Callable[[], Mapping[str, Any]]) -> None:
    """Raises InputError on all ranks where one finds other `facts` (by what a user calls them) than the first."""
    if ranks.size == 1:
        return
    everyone = ranks.gather((ranks.host, dict(facts())))
    first_host, expected = everyone[0]
    for rank, (host, found) in enumerate(everyone):
        differing = [name for name in expected | found if expected.get(name) != found.get(name)]
        if differing:
            what = ", ".join(_in_words(name, found.get(name), expected.get(name)) for name in differing)
            raise InputError(f"rank {rank} on {host} is not like rank 0 on {first_host}: it differs in {what}")


def take_gpu(ranks: Ranks) -> None:
    """Gives each rank a GPU of its machine. Raises InputError where two would have the same one."""
    owner: dict[tuple[str, str], int] = {}
    for rank, place in enumerate(ranks.gather((ranks.host, use_gpu(ranks.local_rank)))):
        if place in owner:
            raise InputError(
                f"ranks {owner[place]} and {rank} on {place[0]} have one GPU between them; start as many ranks on a "
                "machine as it has GPUs"
            )
        owner[place] = rank


def code_facts() -> dict[str, Any]:
    """The versions of what computes, and a checksum of npconvnet's sources and of the script that runs."""
    root, script = Path(npconvnet.__file__).parent, Path(sys.argv[0])
    sources = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".cu", ".cuh"))
    code = xxhash.xxh3_64(script.read_bytes() if script.is_file() else b"")
    for path in sources:
        code.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return {"npconvnet's code": code.hexdigest(), "Python": platform.python_version(), "NumPy": np.__version__}


def data_facts(data: Data) -> dict[str, Any]:
    """What the data set is made of: pictures are compared where they are prepared, and by name and class elsewhere.

    Where they lie is every rank's own business.
    """
    return {
        "the classes of the data": [synset.wnid for synset in data.synsets],
        "the number of training images": len(data.train),
        "the number of validation images": len(data.validation),
        "whether the data are prepared": data.source is not None,
        "the names or classes of the images": data.source or checksum_of_list(_listed(data)),
        "the prepared pictures": data.pictures,
    }


def weights_facts(network: Network) -> dict[str, Any]:
    """A checksum of the parameters: all ranks make the same updates, so theirs stay alike to the last bit."""
    return {
        f"the weights of {name}": checksum(np.ascontiguousarray(to_host(value)).data)
        for name, value in network.parameters.items()
    }


def _listed(data: Data) -> Iterator[tuple[str, int]]:
    for source in (data.train, data.validation):
        yield from ((source.name(number), label) for number, label in enumerate(source.labels.tolist()))


def _in_words(name: str, found: Any, expected: Any) -> str:
    values = f" ({found}, not {expected})"
    return name + (values if len(values) <= _SHOWN else "")
