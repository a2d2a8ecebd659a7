"""The state dict in a file of `torch.save`, and nothing else that the file may ask for.

Since PyTorch 1.6 it is a zip archive that compresses nothing: `NAME/data.pkl` describes the tensors, `NAME/data/KEY`
are the storages that hold their numbers. Before, it was five pickles in a row (magic number, version, system,
description, keys), then for each key the count of its numbers, in 8 bytes, and the numbers.

The description is a pickle: a program that builds objects. Here it can build dictionaries, lists, and tensors whose
numbers are really in the file. It is not given to Python's own unpickler, which takes 64 GiB of memory where a file
asks it to remember an object under the number 2³². Where PyTorch is installed, `torch.load(weights_only=True)` reads
the file after these checks, because it believes the sizes that it finds.
"""

from __future__ import annotations

import math
import mmap
import pickletools
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from npconvnet.errors import InputError

Tensors = dict[str, npt.NDArray[Any]]

#: The longest description, and the longest list of files, in bytes. The description of VGG-19 is a fortieth as long.
LONGEST_DESCRIPTION = 1 << 18
#: The most dimensions of a tensor.
MOST_DIMENSIONS = 8
#: The upper half of a float32, which NumPy has no type for.
BFLOAT16 = np.dtype([("bfloat16", "<u2")])
#: Where checkpoints keep the state dict among other things.
_STATE_DICTS = ("state_dict", "model_state_dict", "model", "net")


def read_torch_file(path: Path) -> Tensors:
    """The tensors of the state dict in `path`, by name, as they are there; `as_float32` makes weights of them.

    The state dict may stand among other things, as in a checkpoint. Raises InputError for a file that is damaged, is
    none of `torch.save`, holds no state dict, or asks for anything but tensors; nothing that it asks for is ever run.
    """
    try:
        with path.open("rb") as file:
            tensors = _read(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
            return _read_through_torch(file) or tensors
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except struct.error as error:
        raise InputError(f"{path}: damaged, or cut off ({error})") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def as_float32(tensor: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """`tensor` in float32, a copy only where it is not that already."""
    if tensor.dtype == BFLOAT16:
        return (tensor["bfloat16"].astype("<u4") << 16).view("<f4")
    with np.errstate(over="ignore"):
        return tensor.astype("<f4", copy=False)


def _read_through_torch(file: BinaryIO) -> Tensors | None:
    """The same by PyTorch; None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    try:
        value = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever PyTorch's own parts happen to raise
        raise ValueError(f"PyTorch cannot read it ({str(error).partition(chr(10))[0]})") from error
    tensors = _state_dict(value, torch.Tensor)
    return {
        name: tensor.view(torch.int16).numpy().view(BFLOAT16) if tensor.dtype == torch.bfloat16 else tensor.numpy()
        for name, tensor in ((name, tensor.detach()) for name, tensor in tensors.items())
    }


def _read(data: memoryview) -> Tensors:
    """The same without PyTorch: arrays that lie in `data` itself."""
    if bytes(data[:2]) not in (b"PK", b"\x80\2"):
        raise ValueError("is not a file of torch.save")
    description, contents = _read_zip(data) if bytes(data[:4]) == b"PK\3\4" else _read_legacy(data)
    storages: dict[str, npt.NDArray[Any]] = {}
    for storage in description.storages.values():
        if storage.key not in contents:
            raise ValueError(f"damaged: the numbers of storage {storage.key!r:.80} are missing")
        found = storages[storage.key] = np.frombuffer(contents[storage.key], storage.dtype)
        if found.size != storage.count:
            raise ValueError(f"damaged: storage {storage.key!r:.80} has {found.size} numbers, not {storage.count}")
    for tensor in description.tensors:  # also those beside the state dict, because PyTorch makes them all
        tensor.array(storages)
    tensors = {name: tensor.array(storages) for name, tensor in _state_dict(description.value, DescribedTensor).items()}
    if sum(array.size for array in tensors.values()) > sum(storage.size for storage in storages.values()):
        raise ValueError("its tensors share numbers, which those of a network don't")
    return tensors


def _state_dict(value: Any, kind: type) -> dict[str, Any]:
    """The named tensors, of the type `kind`, in what a file holds."""
    if isinstance(value, dict):
        for candidate in (*(value.get(key) for key in _STATE_DICTS), value):
            if isinstance(candidate, dict):
                found = {name: tensor for name, tensor in candidate.items() if isinstance(tensor, kind)}
                if found and all(isinstance(name, str) for name in found):
                    return found
    raise ValueError("holds no state dict; torch.save(model.state_dict(), FILE) writes one")


# -- the two layouts -------------------------------------------------------------------------------------------------


def _read_zip(data: memoryview) -> tuple[Description, dict[str, memoryview]]:
    """The description, and the contents of the storages by their keys."""
    files = _unzip(data)
    folder = next(iter(files)).partition("/")[0]
    if f"{folder}/data.pkl" not in files:
        raise ValueError("a zip archive, but not one of torch.save (it has no data.pkl)")
    if files.get(f"{folder}/byteorder", b"little") != b"little":
        raise ValueError("its numbers are big-endian; save it again on a little-endian computer")
    description = _describe(files[f"{folder}/data.pkl"], 0)
    return description, {name.removeprefix(f"{folder}/data/"): contents for name, contents in files.items()}


_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


def _read_legacy(data: memoryview) -> tuple[Description, dict[str, memoryview]]:
    """The same of a file from before PyTorch 1.6."""
    magic = _describe(data, 0)
    version = _describe(data, magic.end)
    if (magic.value, version.value) != (_MAGIC, _VERSION):
        raise ValueError("is not a file of torch.save")
    system = _describe(data, version.end)
    if not isinstance(system.value, dict) or system.value.get("little_endian") is not True:
        raise ValueError("its numbers are big-endian; save it again on a little-endian computer")
    description = _describe(data, system.end)
    keys = _describe(data, description.end)
    contents, start = {}, keys.end
    for key in keys.value if isinstance(keys.value, list) else ():
        if not isinstance(key, str) or key not in description.storages:
            raise ValueError("damaged: it has numbers that no tensor uses")
        storage = description.storages[key]
        end = start + 8 + storage.size
        if data[start : start + 8] != struct.pack("<q", storage.count) or end > len(data):
            raise ValueError(f"damaged, or cut off: storage {key!r:.80} does not have {storage.count} numbers")
        contents[key] = data[start + 8 : end]
        start = end
    return description, contents


# -- zip -------------------------------------------------------------------------------------------------------------


def _unzip(data: memoryview) -> dict[str, memoryview]:
    """The files in the zip archive `data`, by name.

    `zipfile` finds its way through archives that are put together otherwise than usual, and PyTorch another way. So
    only the usual is read here: the list of files at the end and complete, each file once, and no two in one place.
    """
    end = len(data) - 22
    mark, count, size, start, comment = struct.unpack("<4s6xH2IH", data[-22:])
    if bytes(data[max(end - 20, 0) : end])[:4] == b"PK\6\7":  # PyTorch writes the same as zip64, too
        end, (found,) = end - 76, struct.unpack("<8xQ4x", data[end - 20 : end])
        mark64, count, size, start = struct.unpack("<4s28x3Q", data[end : end + 56])
        if found != end or mark64 != b"PK\6\6":
            raise ValueError("damaged (the end of the zip archive points elsewhere)")
    if mark != b"PK\5\6" or comment or start + size != end or size > LONGEST_DESCRIPTION:
        raise ValueError("damaged, cut off, or not a zip archive of torch.save (no list of files is at its end)")
    files: dict[str, memoryview] = {}
    while start < end:
        name, contents, start = _unzip_file(data, start)
        files[name] = contents
    different = {name.casefold() for name in files}
    if start != end or len(different) != count or sum(map(len, files.values())) > len(data):
        raise ValueError("damaged, or not a zip archive of torch.save (some of its files share a name or a place)")
    if not files:
        raise ValueError("an empty zip archive")
    return files


def _unzip_file(data: memoryview, entry: int) -> tuple[str, memoryview, int]:
    """The name and contents of the file with the entry at `entry` in the list, and where the next entry is."""
    mark, flags, method, packed, unpacked, name, extra, comment, local = struct.unpack(
        "<4s4x2H8x2I3H8xI", data[entry : entry + 46]
    )
    text = str(data[entry + 46 : entry + 46 + name], "utf-8")
    local_mark, local_name, local_extra = struct.unpack("<4s22x2H", data[local : local + 30])
    start = local + 30 + local_name + local_extra
    if (mark, local_mark) != (b"PK\1\2", b"PK\3\4") or start + unpacked > len(data):
        raise ValueError(f"damaged, or cut off (in the zip archive, at the file {text!r:.80})")
    if "/code/" in text:
        raise ValueError("is a TorchScript program; save the state_dict() of the model instead")
    if method or flags & 1 or packed != unpacked:
        raise ValueError(f"the file {text!r:.80} in it is compressed or encrypted, which torch.save does not do")
    return text, data[start : start + unpacked], entry + 46 + name + extra + comment


# -- the description -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StorageType:
    """`torch.FloatStorage` and the like."""

    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class Storage:
    """So many numbers of one type, which stand elsewhere in the file."""

    key: str
    dtype: np.dtype[Any]
    count: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class DescribedTensor:
    """Which numbers of which storage make up a tensor."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, storages: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """The tensor, in the memory of its storage; raises ValueError where it reaches beyond that."""
        storage, item = storages[self.storage.key], storages[self.storage.key].itemsize
        if math.prod(self.shape) > storage.size:
            raise ValueError(f"damaged: a tensor of {self.shape!s:.80} in a storage of {storage.size} numbers")
        strides = tuple(item * step for step in self.strides)
        try:
            # NumPy compares the offset and the strides with the size of the storage.
            return np.ndarray(self.shape, storage.dtype, storage, item * self.offset, strides)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"damaged: a tensor of {self.shape!s:.80} reaches beyond its storage") from error


@dataclass(frozen=True, slots=True)
class Description:
    """What a pickle builds, the storages and tensors that it names, and where it ends."""

    value: Any
    storages: dict[str, Storage]
    tensors: list[DescribedTensor]
    end: int


def _describe(data: memoryview, start: int) -> Description:
    """Follows the pickle at `start`; raises ValueError where it asks for what torch.save does not write."""
    file = BytesIO(data[start : start + LONGEST_DESCRIPTION])
    unpickler = _Unpickler()
    try:
        value = unpickler.run(file)
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError(f"damaged: its description makes no sense ({error})") from error
    return Description(value, unpickler.storages, unpickler.tensors, start + file.tell())


#: Little-endian, like the files.
_STORAGE_TYPES: dict[str, np.dtype[Any]] = {
    "Float": np.dtype("<f4"),
    "Double": np.dtype("<f8"),
    "Half": np.dtype("<f2"),
    "BFloat16": BFLOAT16,
    "Long": np.dtype("<i8"),
    "Int": np.dtype("<i4"),
    "Short": np.dtype("<i2"),
    "Char": np.dtype("i1"),
    "Byte": np.dtype("u1"),
    "Bool": np.dtype("?"),
}


def _instructions(file: BytesIO) -> Iterator[tuple[str, Any]]:
    """Name and argument of each instruction of the pickle in `file`, which ends with STOP."""
    try:
        for opcode, argument, _ in pickletools.genops(file):
            yield opcode.name, argument
    except ValueError as error:
        raise ValueError(f"damaged, cut off, or with a description that is too long ({error})") from error


class _Unpickler:
    """The part of the pickle machine that state dicts need."""

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self.tensors: list[DescribedTensor] = []
        self.copied = 0
        self.globals: dict[str, StorageType | Callable[..., Any]] = {
            "collections OrderedDict": self.ordered_dict,
            "torch._utils _rebuild_tensor": self.tensor,  # PyTorch before 0.4, and so torchvision's VGG-16
            "torch._utils _rebuild_tensor_v2": self.tensor,
            "torch._utils _rebuild_parameter": self.parameter,
            **{f"torch {name}Storage": StorageType(dtype) for name, dtype in _STORAGE_TYPES.items()},
        }

    def run(self, file: BytesIO) -> Any:
        """What the pickle in `file` builds."""
        stack: list[Any] = []
        below: list[list[Any]] = []
        memo: dict[int, Any] = {}
        for instruction, argument in _instructions(file):
            match instruction:
                case "PROTO":
                    if argument != 2:
                        raise ValueError(f"its description is of pickle protocol {argument}, and torch.save writes 2")
                case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINSTRING":
                    stack.append(argument)
                case "NONE" | "NEWTRUE" | "NEWFALSE":
                    stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[instruction])
                case "EMPTY_TUPLE":
                    stack.append(())
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_DICT":
                    stack.append({})
                case "MARK":
                    below.append(stack)
                    stack = []
                case "TUPLE":
                    items, stack = stack, below.pop()
                    stack.append(tuple(items))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    count = int(instruction[-1])
                    stack[-count:] = [tuple(stack[-count:])]
                case "APPEND":
                    item = stack.pop()
                    _require(stack[-1], list).append(item)
                case "APPENDS":
                    items, stack = stack, below.pop()
                    _require(stack[-1], list).extend(items)
                case "SETITEM":
                    key, item = stack[-2:]
                    del stack[-2:]
                    _require(stack[-1], dict)[_key(key)] = item
                case "SETITEMS":
                    items, stack = stack, below.pop()
                    pairs = zip(items[::2], items[1::2], strict=True)
                    _require(stack[-1], dict).update((_key(key), item) for key, item in pairs)
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "GLOBAL":
                    if argument not in self.globals:
                        raise ValueError(
                            f"asks for {argument!r:.80}; only tensors are read, and nothing was run: "
                            "torch.save(model.state_dict(), FILE) writes those alone"
                        )
                    stack.append(self.globals[argument])
                case "REDUCE":
                    arguments = _require(stack.pop(), tuple)
                    stack[-1] = stack[-1](*arguments)
                case "BUILD":
                    if _require(stack.pop(), dict).keys() != {"_metadata"}:  # the versions of modules
                        raise ValueError("its description sets attributes, which torch.save does not do")
                    _require(stack[-1], dict)
                case "BINPERSID":
                    stack[-1] = self.storage(*_require(stack[-1], tuple))
                case "STOP":
                    return stack.pop()
                case _:
                    raise ValueError(f"its description uses {instruction}, which torch.save does not write")
        raise AssertionError("genops ends with STOP or raises")

    def ordered_dict(self, pairs: list[list[Any]] | tuple[()] = ()) -> dict[Any, Any]:
        """A dictionary; Python 2 gave its items as pairs."""
        # One list could be given again and again.
        self.copied += len(pairs)
        if self.copied > LONGEST_DESCRIPTION:
            raise ValueError("its description copies one dictionary many times, which torch.save does not do")
        return {_key(key): item for key, item in pairs}

    def storage(self, kind: str, type: StorageType, key: str, device: str, count: int, view: None = None) -> Storage:
        """What `('storage', ...)` stands for."""
        if kind != "storage" or view is not None:
            raise ValueError("damaged: its description names neither a tensor nor a storage")
        if not 0 <= _require(count, int) < 1 << 63:
            raise ValueError("damaged: a storage of an impossible size")
        _require(device, str)
        new = Storage(_require(key, str), _require(type, StorageType).dtype, count)
        if self.storages.setdefault(key, new) != new:
            raise ValueError(f"damaged: storage {key!r:.80} is described in two ways")
        return new

    def tensor(
        self,
        storage: Storage,
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        requires_grad: bool = False,
        hooks: object = None,
        metadata: object = None,
    ) -> DescribedTensor:
        """`torch._utils._rebuild_tensor_v2`."""
        if metadata:
            raise ValueError("a tensor in it is conjugated or negated")
        for sizes in (shape, strides, (offset,)):
            if len(_require(sizes, tuple)) > MOST_DIMENSIONS or any(_require(size, int) < 0 for size in sizes):
                raise ValueError("damaged: a tensor of negative size, or of too many dimensions")
        self.tensors.append(DescribedTensor(_require(storage, Storage), offset, shape, strides))
        return self.tensors[-1]

    def parameter(self, tensor: DescribedTensor, requires_grad: bool, hooks: object) -> DescribedTensor:
        """`torch._utils._rebuild_parameter`."""
        described: DescribedTensor = _require(tensor, DescribedTensor)
        return described


def _require(value: Any, kind: type) -> Any:
    """`value`, which has to be a `kind` and not something derived from it, as bool is from int."""
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} instead of {kind.__name__}")
    return value


def _key(key: Any) -> str | int:
    # Nothing else can be hashed safely: a tuple within a tuple within a tuple ... overflows the stack.
    if type(key) not in (str, int):
        raise TypeError(f"{type(key).__name__} as a key")
    return key  # type: ignore[no-any-return]
