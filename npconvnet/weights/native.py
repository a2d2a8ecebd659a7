"""npconvnet's own weight file: safetensors, with a JSON header and a checksum in its metadata.

The header says how to make the network again (model, options), how to feed it (preprocessing) and what its scores mean
(synsets). The checksum covers tensors and header. A checkpoint is the same file with more tensors and more header.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from npconvnet.backend import Array, to_host
from npconvnet.errors import InputError
from npconvnet.models import make_again
from npconvnet.network import INPUT, Network
from npconvnet.outputs import NO_ROOM, whole_file
from npconvnet.preprocessing import Preprocessing
from npconvnet.synsets import Synset

Tensors = dict[str, npt.NDArray[Any]]

#: The tensor that holds the mean image of a preprocessing that has one.
_MEAN_IMAGE = "mean_image"


def save_network(
    path: Path, network: Network, more_tensors: Mapping[str, Array] | None = None, **more_header: Any
) -> None:
    """Writes `network` to `path`, atomically; `more_tensors` and `more_header` are kept beside it.

    Raises InputError where the file can't be written; whatever stood at `path` is then still there.
    """
    header = {
        "model": network.model,
        "name": network.name,
        "options": network.options,
        "preprocessing": network.preprocessing.to_json(),
        "synsets": [[synset.wnid, synset.names] for synset in network.synsets],
        **more_header,
    }
    tensors = {**network.parameters, **(more_tensors or {})}
    if network.preprocessing.mean_image is not None:
        tensors[_MEAN_IMAGE] = network.preprocessing.mean_image
    write_file(path, {name: to_host(tensor) for name, tensor in tensors.items()}, header)


def load_network(path: Path) -> Network:
    """The network in the weight file or checkpoint `path`, on the CPU; raises InputError for anything else."""
    tensors, header = read_file(path)
    return network_from(path, tensors, header)


def bundled_network() -> Network:
    """SqueezeNet 1.1 trained on ImageNet, which ships with the package; see assets/NOTICE.md."""
    with resources.as_file(resources.files("npconvnet") / "assets" / "squeezenet1_1.safetensors") as path:
        return load_network(path)


def network_from(path: Path, tensors: Tensors, header: Mapping[str, Any]) -> Network:
    """Makes the network that `read_file` returned; raises InputError, naming `path`, where the parts don't fit."""
    try:
        network = make_again(header["model"], header["options"])
        network.name = str(header.get("name", network.model))  # files from before there were names lack it
        network.preprocessing = Preprocessing.from_json(header["preprocessing"], tensors.get(_MEAN_IMAGE))
        if network.preprocessing.crop != network.shapes[INPUT][0]:
            raise ValueError(f"a crop of {network.preprocessing.crop} pixels, for {network.shapes[INPUT][0]}")
        synsets = tuple(Synset(wnid, names) for wnid, names in header["synsets"])
        if len(synsets) != len(network.synsets):
            raise ValueError(f"{len(synsets)} class names for {len(network.synsets)} classes")
        network.synsets = synsets
        network.load({name: tensors[name] for name in network.parameters.keys() & tensors.keys()})
    except (KeyError, TypeError, ValueError, AttributeError, MemoryError, OverflowError) as error:
        raise InputError(f"{path}: its header does not describe a network of npconvnet ({error})") from error
    return network


def write_file(path: Path, tensors: Tensors, header: Mapping[str, Any]) -> None:
    """Writes safetensors, as `whole_file` does; the same tensors and header give the same bytes."""
    text = json.dumps(header, ensure_ascii=False)
    data = memoryview(save(tensors, {"npconvnet": text, "sha256": _checksum(tensors, text)}))
    length = int.from_bytes(data[:8], "little")
    # safetensors writes the metadata in any order.
    description = json.dumps(json.loads(bytes(data[8 : 8 + length])), sort_keys=True, separators=(",", ":")).encode()
    description += b" " * (-len(description) % 8)
    with whole_file(path, NO_ROOM) as file:
        file.writelines([len(description).to_bytes(8, "little"), description, data[8 + length :]])


def read_file(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """(tensors, header) of a file that `write_file` wrote, after its checksum has been compared.

    Raises InputError where the file is missing, is not one of npconvnet's, or has been damaged or cut off.
    """
    try:
        if path.is_dir():
            raise InputError(
                f"{path} is a folder; give a weight file, such as the best.safetensors in the folder of a run"
            )
        if not path.is_file():
            raise InputError(f"{path}: no such weight file")
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged, cut off, or not a safetensors file ({error})") from error
    if not {"npconvnet", "sha256"} <= metadata.keys():
        raise InputError(f"{path}: a safetensors file, but not one that npconvnet wrote (it has no npconvnet header)")
    if metadata["sha256"] != _checksum(tensors, metadata["npconvnet"]):
        raise InputError(f"{path}: damaged (its checksum does not match its contents)")
    try:
        header: dict[str, Any] = json.loads(metadata["npconvnet"])
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: its header is not JSON ({error})") from error
    return tensors, header


def _checksum(tensors: Tensors, header: str) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()
