"""A weight file of any framework, recognised by its contents and never by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from npconvnet.errors import InputError
from npconvnet.network import Network
from npconvnet.synsets import Synset, imagenet_synsets, numbered_synsets
from npconvnet.weights import native
from npconvnet.weights.conventions import Convention

Format = Literal["npconvnet", "matconvnet", "caffe", "torchvision", "onnx"]


def _matconvnet(path: Path) -> Network:
    from npconvnet.weights.matconvnet import read_matconvnet

    return read_matconvnet(path)


def _caffe(path: Path, prototxt: Path | None = None) -> Network:
    from npconvnet.weights.caffe import read_caffe

    return read_caffe(path, prototxt)


def _torchvision(path: Path) -> Network:
    from npconvnet.weights.torchvision import read_torchvision

    return read_torchvision(path)


def _onnx(path: Path, convention: Convention | None = None) -> Network:
    from npconvnet.weights.onnx import read_onnx

    return read_onnx(path, convention)


#: What reads each format. Their libraries are imported when they are needed, because some take a second.
FORMATS: dict[Format, Callable[[Path], Network]] = {
    "npconvnet": native.load_network,
    "matconvnet": _matconvnet,
    "caffe": _caffe,
    "torchvision": _torchvision,
    "onnx": _onnx,
}


def load_network(
    path: Path,
    format: Format | None = None,
    synsets: tuple[Synset, ...] | None = None,
    prototxt: Path | None = None,
    convention: Convention | None = None,
) -> Network:
    """The network in the weight file `path`, on the CPU, with its preprocessing and class names.

    `format` is found out unless given. `synsets` replaces the names of the classes; those of ImageNet stand in where
    the file has 1000 classes and no names. `prototxt` describes the architecture of a .caffemodel, whose own
    description is used without it. `convention` says how the network of an .onnx is fed that does not say it itself.
    Raises InputError for files that are damaged, hostile, or of another kind.
    """
    _head(path)
    format = format or recognise(path)
    if prototxt and format != "caffe":
        raise InputError(f"{path}: a .prototxt goes with a .caffemodel, and this is {format}")
    if convention and format != "onnx":
        raise InputError(f"{path}: only an .onnx has to be told how its network is fed, and this is {format}")
    if format == "caffe":
        network = _caffe(path, prototxt)
    elif format == "onnx":
        network = _onnx(path, convention)
    else:
        network = FORMATS[format](path)
    if network.name == "graph":
        network.name = path.stem
    count = len(network.synsets)
    if synsets is None and count == len(imagenet_synsets()) and network.synsets == numbered_synsets(count):
        synsets = imagenet_synsets()
    if synsets is not None:
        if len(synsets) != count:
            raise InputError(f"{path}: has {count} classes, and {len(synsets)} names were given")
        network.synsets = synsets
    return network


def recognise(path: Path) -> Format:
    """The format of `path` by its contents; raises InputError where it is none of them."""
    head = _head(path)
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{path}: a pointer to the file, not the file itself; fetch it with git lfs pull")
    for format, fits in _SIGNS.items():
        if fits(head):
            return format
    raise InputError(
        f"{path}: not a weight file that npconvnet knows (its own, MatConvNet's .mat, .caffemodel, torchvision's .pth "
        "or .safetensors, .onnx); if it is one, it is damaged or cut off"
    )


def _head(path: Path) -> bytes:
    """The first 64 KiB of `path`."""
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except IsADirectoryError:
        raise InputError(
            f"{path} is a folder; give a weight file, such as the best.safetensors in the folder of a run"
        ) from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such weight file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if not head:
        raise InputError(f"{path}: is empty")
    return head


_TORCH_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"


def _is_safetensors(head: bytes) -> bool:
    # Eight bytes for the length of the header, which is a JSON object.
    return head[6:9] == b"\0\0{"


#: What the first 64 KiB show. The first byte of a protobuf is the number and type of its first field: 1, a whole
#: number, in ONNX (its version); 1, a text, in Caffe (the name), or one of the lists of layers.
_SIGNS: dict[Format, Callable[[bytes], bool]] = {
    "npconvnet": lambda head: _is_safetensors(head) and b'"npconvnet":' in head,
    "torchvision": lambda head: _is_safetensors(head) or head.startswith((b"PK\x03\x04", _TORCH_MAGIC)),
    "matconvnet": lambda head: head.startswith(b"MATLAB "),
    "onnx": lambda head: head.startswith(b"\x08"),
    "caffe": lambda head: head.startswith((b"\x0a", b"\x12", b"\x1a", b"\xa2\x06")),
}
