"""MATLAB's .mat files (level 5), checked element by element before SciPy reads them.

SciPy believes what a file says of itself: an unknown type ends the process, cells within cells use up the stack, and
room for a number of cells is made before the first of them is read. So every element is compared with the bytes that
are there.

    file    = 128 bytes of header, elements
    element = type and number of bytes (4 each), the bytes, padding to a multiple of 8
            | type and number of bytes (2 each), up to 4 bytes
    matrix  = an element that holds elements: flags, dimensions, name, and for
              numbers, text  the values
              cells          a matrix for each
              structs        the length of a field's name, the names, a matrix for each field

Source: MathWorks, "MAT-File Format".
"""

from __future__ import annotations

import io
import math
import re
import struct
import zlib
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy.typing as npt
import scipy.io

from npconvnet.errors import InputError
from npconvnet.weights.imported import read_contents

#: MATLAB writes no larger variable to such a file, and the network is one.
LARGEST_FILE = (1 << 31) - 1
#: A network has two texts for each class, of which ImageNet has 21,841 in all, and some twenty values for each layer.
MOST_MATRICES = 50_000
MOST_VARIABLES = MOST_FIELDS = 1000
DEEPEST = 16
#: Weights hardly shrink when they are compressed; a small file may hold zeros, or an image of one colour.
MOST_EXPANSION, ALWAYS_EXPANDED = 8, 1 << 24

_HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
#: The size of one value of each type of number; and the types that text may have, which is one to four bytes a letter.
_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
_TEXT_TYPES = {1, 2, 4, 16, 17, 18}
#: Classes of matrices.
_CELL, _STRUCT, _TEXT, _NUMBERS = 1, 2, 4, range(6, 16)
_REFUSED = {3: "an object", 5: "a sparse matrix", 16: "a function", 17: "an object", 18: "an object"}
_COMPLEX = 0x800
_FIELD_NAME = re.compile(rb"[A-Za-z]\w*\0")

#: (type, first byte, byte behind the last)
Element: TypeAlias = tuple[int, int, int]


def read_mat(path: Path, names: Collection[str]) -> dict[str, npt.NDArray[Any]]:
    """The variables `names` of a .mat file, as far as it has them: numbers, text, cells as objects, structs as records.

    Raises InputError where the file is not a whole .mat file of level 5, or holds anything else in these variables.
    """
    contents = read_contents(path, LARGEST_FILE)
    try:
        data = _checked(contents, names)
        variables: dict[str, npt.NDArray[Any]] = scipy.io.loadmat(io.BytesIO(data))  # type: ignore[arg-type]
    except (ValueError, TypeError, MemoryError) as error:
        raise InputError(f"{path}: damaged, or not a .mat file of MatConvNet: {error}") from error
    return {name: variables[name] for name in names if name in variables}


def _checked(data: bytes, names: Collection[str]) -> bytes:
    """A .mat file of the variables `names` of `data`, checked and uncompressed; raises ValueError for what is wrong."""
    if data[124:128] == b"\x00\x02IM":
        raise ValueError("it is MATLAB 7.3's (HDF5); in MATLAB, load it and save it again with save(…, '-v7')")
    if data[124:128] != _HEADER[124:]:
        raise ValueError("it does not say that it is level 5, little-endian")
    variables: dict[str, memoryview] = {}
    for variable in _variables(data):
        name = _name(variable)
        if name in variables:
            raise ValueError(f"two variables are called '{name}'")
        if name in names:
            _check(variable)
            variables[name] = variable
    return b"".join([_HEADER, *variables.values()])


def _variables(data: bytes) -> Iterator[memoryview]:
    """Each a matrix with its tag, uncompressed."""
    room = ALWAYS_EXPANDED + MOST_EXPANSION * len(data)
    for number, (kind, first, last) in enumerate(_elements(data, len(_HEADER), len(data))):
        if number == MOST_VARIABLES:
            raise ValueError(f"it holds more than {MOST_VARIABLES} variables")
        if kind == _COMPRESSED:
            variable = _inflated(memoryview(data)[first:last], room)
            room -= len(variable)
        else:
            variable = memoryview(data)[first - 8 : last]
        inside = islice(_elements(variable, 0, len(variable)), 2)
        if [kind for kind, *_ in inside] != [_MATRIX] or len(variable) == 8:
            raise ValueError("it holds something that is not a variable")
        yield variable


def _inflated(compressed: memoryview, room: int) -> memoryview:
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(compressed, room + 1)
    except zlib.error:
        raise ValueError("what it holds compressed is damaged") from None
    if len(data) > room:
        raise ValueError(f"it would unpack to more than {MOST_EXPANSION} times its size, which weights never do")
    if not inflater.eof:
        raise ValueError("what it holds compressed is cut off")
    return memoryview(data)


def _elements(data: bytes | memoryview, at: int, stop: int) -> Iterator[Element]:
    """One behind the other from `at`, up to `stop` exactly."""
    while at < stop:
        if at + 8 > stop:
            raise ValueError("it is cut off")
        kind, size = struct.unpack_from("<II", data, at)
        first, following = at + 8, at + 8 + size
        if kind >> 16:
            kind, size, first, following = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        elif kind != _COMPRESSED:
            following += -size % 8
        if following > stop or first + size > following:
            raise ValueError("it is cut off")
        yield kind, first, first + size
        at = following


def _name(variable: memoryview) -> str:
    """The third element. Objects have another there, but no variable that is wanted is one."""
    *_, (_, first, last) = islice(_elements(variable, 8, len(variable)), 3)
    return bytes(variable[first:last]).decode("latin1")


def _check(variable: memoryview) -> None:
    """Raises ValueError unless SciPy can read `variable`."""
    waiting, matrices = [(8, len(variable), 0)], 0
    while waiting:
        first, last, depth = waiting.pop()
        count, inside = _matrices_inside(variable, first, last)
        matrices += count
        if matrices > MOST_MATRICES or depth > DEEPEST:
            raise ValueError(f"it holds more than {MOST_MATRICES} values, or one more than {DEEPEST} cells deep")
        waiting += [(first, last, depth + 1) for first, last in inside if first < last]  # or it is []


def _matrices_inside(data: memoryview, first: int, last: int) -> tuple[int, list[tuple[int, int]]]:
    """(the number of values that SciPy makes room for, where the matrices are) of the matrix from `first` to `last`."""
    elements = _elements(data, first, last)
    flags = _integers(_take(data, elements, {_UINT32})[1])
    dims = _integers(_take(data, elements, {_INT32})[1])
    _take(data, elements, {_INT8})
    if len(flags) != 2 or not 2 <= len(dims) <= 32 or min(dims) < 0:
        raise ValueError(f"it holds a matrix of the impossible shape {dims[:8]}")
    kind, count, expected = flags[0] & 0xFF, math.prod(dims), 0
    room = 0
    if kind in _NUMBERS and not flags[0] & _COMPLEX:
        kind, values = _take(data, elements, _BYTES)
        if len(values) != count * _BYTES[kind]:
            raise ValueError(f"it holds {len(values)} bytes of numbers in the shape {dims[:8]}")
    elif kind == _TEXT:
        _, text = _take(data, elements, _TEXT_TYPES)
        if not count <= len(text) <= 4 * count or max(dims) > max(1, len(text)):
            raise ValueError(f"it holds {len(text)} bytes of text in the shape {dims[:8]}")
    elif kind == _CELL:
        room = expected = count
    elif kind == _STRUCT:
        fields = _count_fields(data, elements)
        room, expected = max(1, count) * max(1, fields), count * fields
    else:
        raise ValueError(f"it holds {_REFUSED.get(kind, 'complex numbers')}, which no network needs")
    if room > MOST_MATRICES:
        raise ValueError(f"it says that one array holds {room} values; {MOST_MATRICES} are the most that are read")
    inside = list(islice(elements, expected + 1))
    if len(inside) != expected or any(kind != _MATRIX for kind, *_ in inside):
        raise ValueError(f"it holds an array of {expected} values, and they are not there or not all that is there")
    return room, [(first, last) for _, first, last in inside]


def _count_fields(data: memoryview, elements: Iterator[Element]) -> int:
    (length, *_) = _integers(_take(data, elements, {_INT32})[1]) or [0]
    _, names = _take(data, elements, {_INT8})
    if length < 1 or len(names) % length or len(names) // length > MOST_FIELDS:
        raise ValueError(f"it holds a struct whose field names are damaged, or more than {MOST_FIELDS}")
    for at in range(0, len(names), length):
        if not _FIELD_NAME.match(names[at : at + length]):
            raise ValueError("it holds a struct whose field names are damaged")
    return len(names) // length


def _take(data: memoryview, elements: Iterator[Element], types: Collection[int]) -> tuple[int, memoryview]:
    """The next element, which has to be of one of `types`: (type, bytes)."""
    kind, first, last = next(elements, (None, 0, 0))
    if kind is None or kind not in types:
        raise ValueError("it holds a matrix with parts missing or in the wrong order")
    return kind, data[first:last]


def _integers(data: memoryview) -> list[int]:
    if len(data) % 4:
        raise ValueError("it holds a matrix whose description is damaged")
    return list(struct.unpack(f"<{len(data) // 4}i", data))
