"""Files of torch.save: the same numbers with and without PyTorch, and nothing but numbers."""

import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from io import BytesIO

import numpy as np
import pytest

from npconvnet.errors import InputError
from npconvnet.weights.torchvision.torch_file import BFLOAT16, as_float32, read_torch_file

# -- beside PyTorch --------------------------------------------------------------------------------------------------


def saved(torch, path, value, layout):
    torch.save(value, path, _use_new_zipfile_serialization=layout == "zip")
    return path


def read_without_torch(path, monkeypatch):
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "torch", None)
        return read_torch_file(path)


def assert_same(read, expected):
    assert list(read) == list(expected)
    for name, tensor in expected.items():
        array = read[name]
        assert array.shape == tensor.shape
        assert array.dtype == tensor.dtype
        assert array.tobytes() == tensor.tobytes()


def every_kind_of_tensor(torch):
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6) * -1.5
    return OrderedDict(
        {
            "plain": torch.randn(3, 4, 2, 2),
            "transposed": torch.randn(5, 3).t(),
            "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
            "rows of another": whole[:2],
            "columns of another": whole[2:, ::2],
            "parameter": torch.nn.Parameter(torch.randn(4)),
            "one number": torch.tensor(7),
            "no numbers": torch.zeros(0, 3),
            "double": torch.randn(3, dtype=torch.float64),
            "half": torch.tensor([1.5, -2.0, 65504, float("inf")], dtype=torch.float16),
            "byte": torch.tensor([0, 255], dtype=torch.uint8),
            "bool": torch.tensor([True, False, True]),
            "int": torch.tensor([-(2**31), 2**31 - 1], dtype=torch.int32),
        }
    )


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_all_kinds_of_tensors_agree_bit_for_bit(layout, torch, tmp_path, monkeypatch):
    state = every_kind_of_tensor(torch)
    expected = {name: tensor.detach().numpy() for name, tensor in state.items()}
    path = saved(torch, tmp_path / "w.pth", state, layout)
    assert_same(read_torch_file(path), expected)
    assert_same(read_without_torch(path, monkeypatch), expected)


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_bfloat16_agrees_bit_for_bit(layout, torch, tmp_path, monkeypatch):
    state = {"b": torch.tensor([1.0, -3.14159, 1e38, 1e-40, float("-inf"), float("nan")], dtype=torch.bfloat16)}
    path = saved(torch, tmp_path / "w.pth", state, layout)
    for read in (read_torch_file(path), read_without_torch(path, monkeypatch)):
        assert read["b"].dtype == BFLOAT16
        assert as_float32(read["b"]).tobytes() == state["b"].float().numpy().tobytes()


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_the_state_dict_of_a_module_and_of_a_checkpoint(layout, torch, tmp_path, monkeypatch):
    """With the versions of its modules, and an optimizer with its own tensors beside it."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    module(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    checkpoint = {"epoch": 3, "best": torch.tensor(71.5), "optimizer": optimizer.state_dict(), "arch": "linear"}
    expected = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    for name, value in {
        "bare": module.state_dict(),
        "state_dict": checkpoint | {"state_dict": module.state_dict()},
        "model": checkpoint | {"model": module.state_dict()},
    }.items():
        path = saved(torch, tmp_path / name, value, layout)
        assert_same(read_torch_file(path), expected)
        assert_same(read_without_torch(path, monkeypatch), expected)


# -- files by hand ---------------------------------------------------------------------------------------------------


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def whole(value):
    number = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(number)]) + number


def several(values):
    return b"(" + b"".join(map(whole, values)) + b"t"


def function(name):
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def storage(key="0", kind="torch FloatStorage", count=6, end=b""):
    return b"(" + text("storage") + function(kind) + text(key) + text("cpu") + whole(count) + end + b"tQ"


def tensor(of=None, offset=0, shape=(2, 3), strides=(3, 1), metadata=b""):
    where = (storage() if of is None else of) + whole(offset) + several(shape) + several(strides)
    hooks = function("collections OrderedDict") + b")R"
    return function("torch._utils _rebuild_tensor_v2") + b"(" + where + b"\x89" + hooks + metadata + b"tR"


def dictionary(**items):
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def program(body):
    return b"\x80\x02" + body + b"."


SIX = np.arange(6, dtype="<f4")


def zipped(body, files=None, compression=zipfile.ZIP_STORED):
    file = BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        usual = {"data.pkl": program(body), "data/0": SIX.tobytes(), "version": b"3\n"}
        for name, contents in (usual | (files or {})).items():
            archive.writestr(f"w/{name}", contents)
    return file.getvalue()


def legacy(body, keys=None, numbers=None):
    magic = program(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19")
    system = program(dictionary(little_endian=b"\x88"))
    keys = b"](" + text("0") + b"e" if keys is None else keys
    numbers = struct.pack("<q", 6) + SIX.tobytes() if numbers is None else numbers
    return magic + program(whole(1001)) + system + program(body) + program(keys) + numbers


def written(tmp_path, contents):
    path = tmp_path / "w.pth"
    path.write_bytes(contents)
    return path


def in_layout(layout, body):
    return zipped(body) if layout == "zip" else legacy(body)


def plain(layout):
    return in_layout(layout, dictionary(a=tensor(storage(end=b"N" if layout == "legacy" else b""))))


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_files_by_hand(layout, tmp_path):
    """Or the hostile ones below would be refused for another reason than theirs."""
    assert_same(read_torch_file(written(tmp_path, plain(layout))), {"a": SIX.reshape(2, 3)})


@pytest.mark.usefixtures("either_way")
def test_files_of_the_first_versions(tmp_path):
    """As torchvision's VGG-16: tensors by `_rebuild_tensor`, and a dictionary and texts of Python 2."""
    sizes = whole(0) + several((2, 3)) + several((3, 1))
    old = function("torch._utils _rebuild_tensor") + b"(" + storage(end=b"N") + sizes + b"tR"
    body = function("collections OrderedDict") + b"(](](U\x01a" + old + b"eetR"
    assert_same(read_torch_file(written(tmp_path, legacy(body))), {"a": SIX.reshape(2, 3)})


# -- hostile files ---------------------------------------------------------------------------------------------------


class Touch:
    """Whoever unpickles it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_a_pickle_that_would_make_a_file_is_refused_and_makes_none(layout, tmp_path):
    made = tmp_path / "made"
    body = pickle.dumps({"a": Touch(made)}, protocol=2)[2:-1]
    pickle.loads(program(body))["a"].close()
    assert made.exists()
    made.unlink()
    with pytest.raises(InputError, match=r"w\.pth: asks for '_?io open'; only tensors are read, and nothing was run"):
        read_torch_file(written(tmp_path, in_layout(layout, body)))
    assert not made.exists()


def patched(contents, at, format, *values):
    """`contents` with other `values` at the byte `at`."""
    return contents[:at] + struct.pack(format, *values) + contents[at + struct.calcsize(format) :]


def entries(contents):
    """Where the entries of the list of files in an archive begin."""
    return [at for at in range(len(contents)) if contents.startswith(b"PK\1\2", at)]


def of_one(value):
    """A state dict of one tensor, in a zip archive."""
    return zipped(dictionary(a=value))


def in_one_place():
    """Nine files of 100,000 bytes, all at the place of the first."""
    contents = zipped(dictionary(a=tensor()), {f"data/{key}": b"" for key in range(2, 10)} | {"data/1": bytes(100_000)})
    *others, large = entries(contents)[3:]
    (place,) = struct.unpack_from("<I", contents, large + 42)
    for entry in others:
        contents = patched(patched(contents, entry + 20, "<2I", 100_000, 100_000), entry + 42, "<I", place)
    return contents


DEEP = b")" + b"\x85" * 100_000
ORDERED = function("collections OrderedDict")
PLAIN = zipped(dictionary(a=tensor()))
END = len(PLAIN) - 22
DATA_PKL, DATA_0, _ = entries(PLAIN)
OLD = dictionary(a=tensor(storage(end=b"N")))

HOSTILE_PICKLES = {
    "a command": (function("os system") + b"(" + text("false") + b"tR", "asks for 'os system'"),
    "memory": (function("builtins bytearray") + b"(" + whole(10**12) + b"tR", "asks for 'builtins bytearray'"),
    "a tensor of memory": (
        function("torch FloatTensor") + b"(" + whole(10**12) + b"tR",
        "asks for 'torch FloatTensor'",
    ),
    "a name of several lines": (function(r"a\n\n b"), r"asks for 'a\\n\\n b'"),
    "2^60 bytes": (b"\x8e" + struct.pack("<Q", 1 << 60), "expected 1152921504606846976 bytes"),
    "a text of 2^32 bytes": (b"X\xff\xff\xff\xff", "expected 4294967295 bytes"),
    "a number of 2^31 bytes": (b"\x8b\xff\xff\xff\x7f", "in stream to read long4"),
    "a long program": (b"N" * 2_000_000, "exhausted before"),
    "a deep key": (b"}(" + DEEP + b"Nu", "tuple as a key"),
    "a deep storage": (b"(" + DEEP + b"NNNNtQ", "neither a tensor nor a storage"),
    "deep arguments": (DEEP + DEEP + b"R", "makes no sense"),
    "deep sizes": (tensor(shape=()).replace(b"(t(", DEEP + b"("), "makes no sense"),
    "attributes of a function": (ORDERED + dictionary(_metadata=b"N") + b"b", "instead of dict"),
    "attributes of a type": (function("torch FloatStorage") + dictionary(_metadata=b"N") + b"b", "instead of dict"),
    "attributes of a dictionary": (ORDERED + b")R" + dictionary(items=b"N") + b"b", "sets attributes"),
    "a text as a function": (text("a") + b")R", "makes no sense"),
    "a type as a function": (function("torch FloatStorage") + b")R", "makes no sense"),
    "many copies": (
        b"](](" + b"(K\x00K\x00t" * 1000 + b"eq\x01" + (ORDERED + b"h\x01\x85R") * 2000 + b"e",
        "copies one dictionary many times",
    ),
    "another instruction": (b"0", "uses POP"),
    "no such instruction": (b"\xff", "opcode"),
    "an empty stack": (b"\x85R", "makes no sense"),
    "an unknown object": (b"h\x07", "makes no sense"),
    "another protocol": (b"\x80\x04N", "protocol 4"),
}
HOSTILE_TENSORS = {
    "too few numbers": (tensor(storage(count=7)), "has 6 numbers, not 7"),
    "2^62 numbers": (tensor(storage(count=1 << 62)), "has 6 numbers, not 4611686018427387904"),
    "2^200 numbers": (tensor(storage(count=1 << 200)), "impossible size"),
    "a negative count": (tensor(storage(count=-6)), "impossible size"),
    "numbers of another size": (tensor(storage(kind="torch DoubleStorage")), "has 3 numbers, not 6"),
    "no numbers": (tensor(storage(key="1")), "storage '1' are missing"),
    "no storage": (tensor(text("0")), "makes no sense"),
    "no type": (tensor(storage(kind="collections OrderedDict")), "makes no sense"),
    "larger than the storage": (tensor(shape=(3, 3)), r"\(3, 3\) in a storage of 6"),
    "beyond the storage": (tensor(offset=1), "reaches beyond"),
    "beyond it by strides": (tensor(strides=(4, 1)), "reaches beyond"),
    "far beyond it": (tensor(offset=1 << 62), "reaches beyond"),
    "very far beyond it": (tensor(offset=1 << 200), "reaches beyond"),
    "far beyond it by strides": (tensor(strides=(1 << 62, 1)), "reaches beyond"),
    "the same numbers again and again": (tensor(shape=(1 << 40, 1), strides=(0, 0)), "in a storage of 6"),
    "2^200 times": (tensor(shape=(1 << 200, 1), strides=(0, 0)), "in a storage of 6"),
    "backwards": (tensor(offset=5, strides=(-3, -1)), "of negative size"),
    "before the storage": (tensor(offset=-1), "of negative size"),
    "60 dimensions": (tensor(shape=(1,) * 60, strides=(1,) * 60), "too many dimensions"),
    "fewer strides than sizes": (tensor(strides=(1,)), "reaches beyond"),
    "true as a size": (tensor(shape=(1, 6)).replace(whole(1), b"\x88", 1), "makes no sense"),
    "a list of sizes": (tensor(shape=()).replace(b"(t(", b"]("), "makes no sense"),
    "negated": (tensor(metadata=dictionary(neg=b"\x88")), "conjugated or negated"),
}
HOSTILE_FILES = {
    "two types for one storage": (
        zipped(dictionary(a=tensor(), b=tensor(storage(kind="torch IntStorage")))),
        "described in two ways",
    ),
    "two tensors in one place": (zipped(dictionary(a=tensor(), b=tensor())), "share numbers"),
    "an empty dictionary": (zipped(b"}"), "holds no state dict"),
    "no names": (zipped(b"}K\x01" + tensor() + b"s"), "holds no state dict"),
    "a list": (zipped(b"](" + tensor() + b"e"), "holds no state dict"),
    "an empty file": (b"", "empty"),
    "an archive without its last byte": (PLAIN[:-1], "cut off"),
    "the head of an archive": (PLAIN[:40], "cut off"),
    "a bomb": (zipped(b"", {"data/1": bytes(1 << 24)}, zipfile.ZIP_DEFLATED), "compressed"),
    "two sizes": (patched(PLAIN, DATA_0 + 24, "<I", 25), "compressed"),
    "2^30 bytes": (patched(PLAIN, DATA_0 + 20, "<2I", 1 << 30, 1 << 30), "cut off"),
    "an encrypted file": (patched(PLAIN, DATA_PKL + 8, "<H", 1), "encrypted"),
    "a file in no place": (patched(PLAIN, DATA_0 + 42, "<I", 7), "damaged"),
    "a file beyond the archive": (patched(PLAIN, DATA_0 + 42, "<I", 1 << 31), "damaged"),
    "nine files in one place": (in_one_place(), "share a name or a place"),
    "two files of one name": (
        zipped(dictionary(a=tensor()), {"data/1": b""}).replace(b"w/data/1", b"w/DATA/0"),
        "share a name or a place",
    ),
    "a list of files elsewhere": (patched(PLAIN, END + 16, "<I", 0), "no list of files"),
    "a list of more files": (patched(PLAIN, END + 10, "<H", 9), "share a name or a place"),
    "another list of files": (
        PLAIN[:END] + struct.pack("<4s4xQ4x", b"PK\6\7", 0) + PLAIN[END:],
        "points elsewhere",
    ),
    "something before the archive": (b"PK\3\4" + PLAIN, "no list of files"),
    "something behind the archive": (PLAIN + bytes(8), "no list of files"),
    "a comment": (patched(PLAIN, END + 20, "<H", 1), "no list of files"),
    "an empty archive": (b"PK\3\4" + struct.pack("<4s12xI2x", b"PK\5\6", 4), "empty zip archive"),
    "an archive of other things": (zipped(b"").replace(b"data.pkl", b"data.txt"), "has no data.pkl"),
    "a program of TorchScript": (zipped(b"", {"code/__torch__/a.py": b""}), "TorchScript"),
    "big-endian numbers": (zipped(b"", {"byteorder": b"big"}), "big-endian"),
    "another magic number": (program(whole(1)) * 5, "not a file of torch.save"),
    "a deep magic number": (program(DEEP) * 2, "not a file of torch.save"),
    "no pickle": (b"\x80\x02hello", "damaged"),
    "numbers of no tensor": (legacy(OLD, keys=b"](" + text("7") + b"e"), "no tensor uses"),
    "a deep key": (legacy(OLD, keys=b"](" + DEEP + b"e"), "no tensor uses"),
    "no keys": (legacy(OLD, keys=b"N"), "are missing"),
    "another count": (legacy(OLD, numbers=bytes(32)), "does not have 6 numbers"),
    "2^60 numbers": (
        legacy(dictionary(a=tensor(storage(count=1 << 60, end=b"N"))), numbers=struct.pack("<q", 1 << 60)),
        "does not have 1152921504606846976 numbers",
    ),
    "too few numbers": (legacy(OLD)[:-1], "cut off"),
    "a view": (legacy(dictionary(a=tensor(storage(end=several((0, 1, 2)))))), "neither a tensor nor a storage"),
}
HOSTILE = {
    **{f"{name} (zip)": (zipped(body), match) for name, (body, match) in HOSTILE_PICKLES.items()},
    **{f"{name} (legacy)": (legacy(body), match) for name, (body, match) in HOSTILE_PICKLES.items()},
    **{f"tensor: {name}": (of_one(value), match) for name, (value, match) in HOSTILE_TENSORS.items()},
    **HOSTILE_FILES,
}


@pytest.mark.usefixtures("without_torch")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused_in_one_line(name, tmp_path):
    contents, match = HOSTILE[name]
    path = written(tmp_path, contents)
    with pytest.raises(InputError, match=match) as refusal:
        read_torch_file(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < len(str(path)) + 250


#: Reads the files in a folder, with 256 MiB more than Python has taken already, and prints what each came to.
IN_LITTLE_MEMORY = """
import resource, sys, time
from pathlib import Path
sys.modules["torch"] = None
from npconvnet.errors import InputError
from npconvnet.weights.torchvision.torch_file import read_torch_file

pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (256 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sorted(Path(sys.argv[1]).iterdir()):
    start = time.perf_counter()
    try:
        read_torch_file(path)
        outcome = "read"
    except InputError:
        outcome = "refused"
    print(outcome, "late" if time.perf_counter() - start > 2 else "in time")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_hostile_files_are_refused_in_time_and_in_little_memory(tmp_path):
    for number, (contents, _) in enumerate(HOSTILE.values()):
        (tmp_path / str(number)).write_bytes(contents)
    command = [sys.executable, "-c", IN_LITTLE_MEMORY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["refused in time"] * len(HOSTILE)


def test_pytorch_sees_no_hostile_file(torch, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it has been read"))
    for contents, match in HOSTILE.values():
        with pytest.raises(InputError, match=match):
            read_torch_file(written(tmp_path, contents))


@pytest.mark.usefixtures("either_way")
def test_an_object_remembered_under_a_large_number(tmp_path):
    """For which Python's own unpickler takes 64 GiB."""
    body = dictionary(a=tensor(), b=b"Nr\xff\xff\xff\xff")
    assert_same(read_torch_file(written(tmp_path, zipped(body))), {"a": SIX.reshape(2, 3)})


def test_what_only_pytorch_refuses_is_refused_in_one_line(torch, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("one line\nand another")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(InputError, match=r"w\.pth: PyTorch cannot read it \(one line\)$"):
        read_torch_file(written(tmp_path, PLAIN))


@pytest.mark.filterwarnings("ignore")  # it is deprecated
def test_a_program_of_torchscript_is_told_what_to_save(torch, tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), tmp_path / "w")
    with pytest.raises(InputError, match=r"TorchScript program; save the state_dict\(\)"):
        read_torch_file(tmp_path / "w")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="none: cannot be read"):
        read_torch_file(tmp_path / "none")
    with pytest.raises(InputError, match="cannot be read"):
        read_torch_file(tmp_path)


# -- mutations -------------------------------------------------------------------------------------------------------


def mutated(rng, contents):
    """`contents` with bytes changed, cut off, put in, doubled or taken out."""
    at, length = int(rng.integers(len(contents))), int(rng.integers(1, 40))
    head, part, tail = contents[:at], contents[at : at + length], contents[at + length :]
    return [
        head + bytes([contents[at] ^ (1 << int(rng.integers(8)))]) + contents[at + 1 :],
        head + rng.bytes(len(part)) + tail,
        head + b"\xff" * len(part) + tail,
        head,
        head + rng.bytes(length) + part + tail,
        head + part + part + tail,
        head + tail,
    ][int(rng.integers(7))]


def read_or_refused(path):
    try:
        return read_torch_file(path)
    except InputError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)
        return None


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in a mutated name of a function
@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_mutated_files_are_read_or_refused(layout, torch, rng, tmp_path, monkeypatch):
    """By the reader without PyTorch, and every twentieth by both: what PyTorch reads then is the same."""
    contents, path = plain(layout), tmp_path / "w.pth"
    reads = 0
    for number in range(3000):
        path.write_bytes(mutated(rng, contents))
        with monkeypatch.context() as context:
            context.setitem(sys.modules, "torch", None)
            read = read_or_refused(path)
        reads += read is not None
        again = read_or_refused(path) if number % 20 == 0 else None
        if again is not None:
            assert_same(again, read)
    assert 30 < reads < 2970
