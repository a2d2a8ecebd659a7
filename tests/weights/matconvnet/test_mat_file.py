"""Damaged and hostile .mat files: one line each, whatever the bytes, and no more memory than they have a right to."""

import random
import struct
import subprocess
import sys
import textwrap
import time
import zlib

import numpy as np
import pytest

from npconvnet.errors import InputError
from npconvnet.weights.matconvnet import read_matconvnet
from npconvnet.weights.matconvnet.mat_file import read_mat
from tests.weights.matconvnet.files import SMALL, class_names, new, normalization, old, save, with_parameters

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
INT8, INT32, UINT32, DOUBLE, MATRIX, COMPRESSED, UTF8 = 1, 5, 6, 9, 14, 15, 16
CELL, STRUCT, OBJECT, TEXT, SPARSE, NUMBERS, FUNCTION, OPAQUE = 1, 2, 3, 4, 5, 6, 16, 17


def element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def integers(*values):
    return element(INT32, struct.pack(f"<{len(values)}i", *values))


def matrix(kind, dims, *parts, name=b"", flags=0):
    head = element(UINT32, struct.pack("<II", kind | flags, 0)), integers(*dims), element(INT8, name)
    return element(MATRIX, b"".join([*head, *parts]))


def number(value=1.0):
    return matrix(NUMBERS, (1, 1), element(DOUBLE, struct.pack("<d", value)))


def field_names(*names, length=8):
    return integers(length) + element(INT8, b"".join(name.ljust(length, b"\0") for name in names))


def layers(kind, dims, *parts, flags=0):
    return HEADER + matrix(kind, dims, *parts, name=b"layers", flags=flags)


@pytest.fixture
def read(tmp_path):
    def read(data):
        (tmp_path / "net.mat").write_bytes(data)
        return read_mat(tmp_path / "net.mat", ("layers",))["layers"]

    return read


def test_the_files_made_here_are_what_scipy_reads(read):
    """Or what is refused below might be refused for another reason."""
    assert read(layers(CELL, (1, 2), number(), number(2.0)))[0, 1] == 2
    assert read(layers(CELL, (1, 1), element(MATRIX, b""))).item().size == 0
    assert read(layers(STRUCT, (1, 1), field_names(b"a", b"b"), number(), number(2.0)))["b"].item() == 2
    assert read(layers(TEXT, (1, 3), element(UTF8, "aé".encode() + b"b"))).item() == "aéb"
    assert read(layers(NUMBERS, (2, 2), element(2, bytes([1, 2, 3, 4])))).tolist() == [[1, 3], [2, 4]]


def deep(levels):
    inner = number()
    for _ in range(levels):
        inner = matrix(CELL, (1, 1), inner)
    return inner


def compressed(data):
    packed = zlib.compress(data)
    return struct.pack("<II", COMPRESSED, len(packed)) + packed


HOSTILE = {
    "header alone, cut": (HEADER[:100], "level 5"),
    "MATLAB 7.3": (
        b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM\x89HDF",
        "7.3's .HDF5.; in MATLAB, load it and save",
    ),
    "big-endian": (HEADER[:124] + b"\x01\x00MI", "little-endian"),
    "no matrix": (HEADER + element(DOUBLE, bytes(8)), "not a variable"),
    "cut tag": (HEADER + b"\x0e\0\0", "cut off"),
    "size beyond the end": (HEADER + struct.pack("<II", MATRIX, 0xFFFFFFF8), "cut off"),
    "empty variable": (HEADER + element(MATRIX, b""), "not a variable"),
    "a million variables": (HEADER + number() * 10**6, "more than 1000 variables"),
    "twice": (layers(CELL, (0, 0)) + layers(CELL, (0, 0))[128:], "two variables are called 'layers'"),
    "compressed damage": (HEADER + struct.pack("<II", COMPRESSED, 4) + b"abcd", "compressed is damaged"),
    "compressed cut": (HEADER + struct.pack("<II", COMPRESSED, 8) + zlib.compress(bytes(99))[:8], "compressed is cut"),
    "compressed twice": (HEADER + compressed(compressed(layers(CELL, (0, 0))[128:])), "not a variable"),
    "compressed with a rest": (HEADER + compressed(layers(CELL, (0, 0))[128:] + bytes(8)), "not a variable"),
    "a type that does not exist": (layers(NUMBERS, (1, 1), element(255, bytes(8))), "in the wrong order"),
    "a type far beyond": (layers(NUMBERS, (1, 1), struct.pack("<II", 0xFFFF, 8) + bytes(8)), "in the wrong order"),
    "a type of text": (layers(TEXT, (1, 1), element(255, b"a")), "in the wrong order"),
    "fewer numbers": (
        layers(NUMBERS, (1 << 30, 1 << 30), element(DOUBLE, bytes(8))),
        "8 bytes of numbers in the shape",
    ),
    "more numbers": (layers(NUMBERS, (1, 1), element(DOUBLE, bytes(16))), "16 bytes of numbers"),
    "no numbers": (layers(NUMBERS, (1, 1)), "parts missing"),
    "a text of spaces": (layers(TEXT, (1, 1 << 30), element(UTF8, b"")), "0 bytes of text in the shape"),
    "many empty texts": (layers(TEXT, (1 << 30, 0), element(UTF8, b"")), "0 bytes of text in the shape"),
    "short text": (layers(TEXT, (1, 3), element(UTF8, "éé".encode())), "."),
    "bytes after": (layers(NUMBERS, (1, 1), element(DOUBLE, bytes(8)), number()), "not all that is there"),
    "negative": (layers(CELL, (-1, -1), number()), "impossible shape"),
    "one dimension": (layers(CELL, (1,), number()), "impossible shape"),
    "33 dimensions": (layers(CELL, (1,) * 33, number()), "impossible shape"),
    "dimensions, and a byte": (layers(CELL, ())[:-16] + element(INT32, bytes(9)) + element(INT8, b"layers"), "."),
    "cells": (layers(CELL, (1 << 15, 1 << 15), number()), "one array holds 1073741824 values"),
    "fewer cells": (layers(CELL, (1, 3), number()), "an array of 3 values, and they are not there"),
    "cells of numbers": (layers(CELL, (1, 1), element(DOUBLE, bytes(8))), "an array of 1 values"),
    "a small element for a cell": (layers(CELL, (1, 1), struct.pack("<HHI", MATRIX, 4, 0)), "cut off"),
    "structs": (layers(STRUCT, (1 << 15, 1 << 15), field_names(b"a"), number()), "1073741824 values"),
    "structs without fields": (layers(STRUCT, (1 << 15, 1 << 15), field_names()), "1073741824 values"),
    "a million fields": (layers(STRUCT, (0, 0), field_names(*[b"a"] * 10**6, length=2)), "more than 1000"),
    "no length of names": (layers(STRUCT, (1, 1), integers(0), element(INT8, b"a\0"), number()), "names are damaged"),
    "a negative length": (layers(STRUCT, (1, 1), integers(-1), element(INT8, b"a\0"), number()), "names are damaged"),
    "endless name": (layers(STRUCT, (1, 1), integers(4), element(INT8, b"aaaa"), number()), "names are damaged"),
    "no name": (layers(STRUCT, (1, 1), field_names(b""), number()), "names are damaged"),
    "half a name": (layers(STRUCT, (1, 1), integers(4), element(INT8, b"a\0\0"), number()), "names are damaged"),
    "deep": (HEADER + matrix(CELL, (1, 1), deep(5000), name=b"layers"), "more than 16 cells deep"),
    "an object": (layers(OBJECT, (1, 1), element(INT8, b"evil"), field_names(b"a"), number()), "holds an object"),
    "a sparse matrix": (layers(SPARSE, (1, 1), integers(7), integers(0, 9), number()), "holds a sparse matrix"),
    "a function": (layers(FUNCTION, (1, 1), number()), "holds a function"),
    "an opaque object": (layers(OPAQUE, (1, 1), number()), "holds an object"),
    "complex": (layers(NUMBERS, (1, 1), element(DOUBLE, bytes(8)), element(DOUBLE, bytes(8)), flags=0x800), "complex"),
    "a class that does not exist": (layers(99, (1, 1), number()), "."),
}


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused_in_one_line(read, tmp_path, data, message):
    start = time.monotonic()
    with pytest.raises(InputError, match=rf"^{tmp_path}/net\.mat: damaged, or not a \.mat file.*{message}") as caught:
        read(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert time.monotonic() - start < 2


FIELDS = matrix(STRUCT, (0, 0), field_names(*[b"a%d" % n for n in range(900)]))
BOMBS = {
    "zeros": (
        layers(NUMBERS, (1, 10**7), element(DOUBLE, bytes(8 * 10**7))),
        "would unpack to more than 8 times its size",
    ),
    "empty cells": (layers(CELL, (1, 10**6), element(MATRIX, b"") * 10**6), "one array holds 1000000 values"),
    "structs": (HEADER + matrix(CELL, (1, 500), FIELDS * 500, name=b"layers"), "more than 50000 values"),
    "elements": (HEADER + element(DOUBLE, b"") * 10**6, "not a variable"),
}


@pytest.mark.parametrize(("data", "message"), BOMBS.values(), ids=BOMBS)
def test_bombs_do_not_exhaust_memory(tmp_path, data, message):
    """In a process that may take no more than half a gigabyte besides what it takes to start."""
    (tmp_path / "net.mat").write_bytes(HEADER + compressed(data[128:]))
    script = """
        import resource, sys, time
        from pathlib import Path
        from npconvnet.errors import InputError
        from npconvnet.weights.matconvnet import read_matconvnet
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**29,) * 2)
        start = time.monotonic()
        try:
            read_matconvnet(Path(sys.argv[1]))
        except InputError as error:
            print(time.monotonic() - start < 2, error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "net.mat")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith(f"True {tmp_path}/net.mat: damaged, or not a .mat file"), done
    assert message in done.stdout


def test_what_is_cut_off_is_refused(tmp_path, rng):
    whole = small_network(tmp_path, rng, new, compress=False)
    for length in rng.integers(0, len(whole), 200):
        (tmp_path / "net.mat").write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_matconvnet(tmp_path / "net.mat")


def test_other_variables_may_hold_anything(read):
    """A network often lies beside the state of its training."""
    function = matrix(FUNCTION, (1, 1), number(), name=b"getBatch")
    assert read(HEADER + function + layers(NUMBERS, (1, 1), element(DOUBLE, bytes(8)))[128:] + function) == 0


def test_an_empty_file(read, tmp_path):
    with pytest.raises(InputError, match=rf"^{tmp_path}/net\.mat: is empty$"):
        read(b"")


def test_large_files_are_not_read_into_memory(tmp_path):
    """Twelve GiB with a hole, which take no room on the disk."""
    path = tmp_path / "net.mat"
    path.write_bytes(HEADER)
    with path.open("ab") as file:
        file.truncate(12 << 30)
    with pytest.raises(InputError, match=rf"^{path}: larger than 2097151 KiB"):
        read_mat(path, ("layers",))


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"none: cannot be read"):
        read_mat(tmp_path / "none", ("layers",))


def small_network(tmp_path, rng, layout, *, compress):
    norm = normalization(14, rng.uniform(80, 160, (14, 14, 3)).astype(np.float32), border=(2, 2))
    variables = layout(with_parameters(SMALL, rng), norm, class_names(3))
    return save(tmp_path / "whole.mat", variables, compressed=compress).read_bytes()


def mutated(data, chance):
    """One to three of the things that happen to a file, or that someone does to it."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 3])):
        at, length = chance.randrange(len(changed)), chance.choice([1, 2, 4, 8, 64])
        piece = bytes(changed[at : at + length])
        kind = chance.choice(["flip", "byte", "word", "cut", "insert", "repeat", "remove", "ones", "swap"])
        if kind == "flip":
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == "byte":
            changed[at] = chance.randrange(256)
        elif kind == "word":
            at -= at % 4
            value = chance.choice([0, 1, 2, 7, 8, 14, 15, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 8])
            changed[at : at + 4] = struct.pack("<I", value)
        elif kind == "cut":
            del changed[at:]
        elif kind == "insert":
            changed[at:at] = chance.randbytes(length)
        elif kind == "repeat":
            changed[at:at] = piece
        elif kind == "remove":
            del changed[at : at + length]
        elif kind == "ones":
            changed[at : at + length] = b"\xff" * len(piece)
        else:
            to = chance.randrange(len(changed))
            changed[to : to + length] = piece
        if not changed:
            break
    return bytes(changed)


@pytest.mark.parametrize("layout", [old, new])
@pytest.mark.parametrize("compress", [False, True])
def test_mutated_files_are_read_or_refused(tmp_path, rng, layout, compress):
    whole = small_network(tmp_path, rng, layout, compress=compress)
    path, chance, read, slowest = tmp_path / "net.mat", random.Random(0), 0, 0.0
    for _ in range(700):
        path.write_bytes(mutated(whole, chance))
        start = time.monotonic()
        try:
            read_matconvnet(path)
            read += 1
        except InputError as error:
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error)
        slowest = max(slowest, time.monotonic() - start)
    assert slowest < 2
    assert 0 < read < 700
