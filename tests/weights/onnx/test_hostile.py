"""ONNX files that are damaged or meant to do harm: refused in one line, soon, and with little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from npconvnet.errors import InputError
from npconvnet.weights.onnx.reader import read_onnx
from tests.weights.onnx.test_reader import Builder, like_mxnet, save, small

BILLION = 10**9


def small_model():
    return small().model()


def with_constant(change):
    """The smallest network after `change` to its filters."""
    model = small_model()
    change(model.graph.initializer[0])
    return model


def with_dims(*dims):
    def change(tensor):
        del tensor.dims[:]
        tensor.dims.extend(dims)

    return with_constant(change)


def with_external(**entries):
    """The filters in another file, as the entries say."""

    def change(tensor):
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)

    return with_constant(change)


def sharing_bytes():
    """Filters and bias in the same bytes of another file."""
    model = with_external(location="beside.bin")
    bias = model.graph.initializer[1]
    bias.ClearField("raw_data")
    bias.data_location = TensorProto.EXTERNAL
    bias.external_data.add(key="location", value="beside.bin")
    return model


def with_conv(**attributes):
    model = small_model()
    model.graph.node[0].attribute.extend(helper.make_attribute(*item) for item in attributes.items())
    return model


def with_nodes(*nodes):
    """The smallest network after other nodes in front of its last."""
    model = small_model()
    old = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*old[:-1], *nodes, old[-1]])
    return model


def reading(model, *inputs):
    """The model whose last node reads something else."""
    del model.graph.node[-1].input[:]
    model.graph.node[-1].input.extend(inputs)
    return model


def nested(depth):
    graph = helper.make_graph([], "inner", [], [])
    for _ in range(depth):
        node = helper.make_node("If", ["condition"], ["y"])
        node.attribute.append(AttributeProto(name="then_branch", type=AttributeProto.GRAPH, g=graph))
        graph = helper.make_graph([node], "outer", [], [])
    return reading(with_nodes(*graph.node), "y")


def nested_by_hand(depth):
    """Graphs in attributes of nodes in graphs, deeper than protobuf itself would write."""
    contents = b""
    for _ in range(depth):
        for key in (b"\x32", b"\x2a", b"\x0a"):  # g of an attribute, attribute of a node, node of a graph
            contents = key + varint(len(contents)) + contents
    return b"\x08\x07\x3a" + varint(len(contents)) + contents


def varint(number):
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])


def chain(operator, count, **attributes):
    names = ["v1", *(f"t{index}" for index in range(count))]
    nodes = [helper.make_node(operator, [names[n]], [names[n + 1]], **attributes) for n in range(count)]
    return reading(with_nodes(*nodes), names[-1])


def doubling(count):
    names = ["v1", *(f"t{index}" for index in range(count))]
    nodes = [helper.make_node("Concat", [names[n]] * 2, [names[n + 1]], axis=1) for n in range(count)]
    return reading(with_nodes(*nodes), names[-1])


def sharing(count):
    """One matrix of 4 MB, and very many layers made of it."""
    b = Builder(size=(1, 3, 8, 8))
    b.node("Flatten").node("Gemm", b.constant(192, 1000))
    shared = b.constant(1000, 1000)
    for _ in range(count):
        b.node("Gemm", shared)
    return b.model()


def padded(amount):
    b = small()
    b.node("Pad", b.constant(value=np.array([0, 0, amount, 0, 0, 0, 0, 0])))
    return b.node("AveragePool", kernel_shape=[1, 1]).model()


def sized(*nodes, side=8):
    """The smallest network, made a vector of a size that the nodes compute of "size"."""
    b = small(size=(1, 3, side, side))
    b.last = "v1"
    b.node("Flatten")
    b.nodes += [helper.make_node("Shape", [b.last], ["size"]), *nodes]
    return b.node("Reshape", nodes[-1].output[0]).model()


def empty_parts(count):
    contents = b"\x0a\x00" * count
    return b"\x08\x07\x3a" + varint(len(contents)) + contents


def with_name(name):
    model = small_model()
    model.graph.node[-1].op_type = "Sigmoid"
    model.graph.node[-1].name = name
    return model


WHOLE = small_model().SerializeToString()

HOSTILE = {
    "empty": b"",
    "cut off": WHOLE[: len(WHOLE) // 2],
    "cut off by a byte": WHOLE[:-1],
    "bytes of nothing": bytes(1000),
    "text": b"\x08 is no network\n" * 100,
    "a length beyond the end": b"\x08\x07\x3a\xff\xff\xff\xff\x0f",
    "a number without end": b"\x08" + b"\xff" * 1000,
    "huge sizes": with_dims(1 << 40, 1 << 40, 3, 3),
    "sizes whose product overflows": with_dims(1 << 32, 1 << 32, 1, 1),
    "sizes of more than is there": with_dims(BILLION, 3, 3, 3),
    "sizes of less than is there": with_dims(1, 3, 3, 3),
    "negative sizes": with_dims(-4, -3, 3, 3),
    "no numbers": with_dims(0, 3, 3, 3),
    "no numbers, and huge sizes": with_dims(0, 1 << 62, 1 << 62, 1 << 62),
    "many dimensions": with_dims(*[1] * 100_000),
    "a list that is too short": with_constant(lambda t: (t.ClearField("raw_data"), t.float_data.extend([1.0] * 3))),
    "an unknown type": with_constant(lambda t: setattr(t, "data_type", 999)),
    "no type": with_constant(lambda t: t.ClearField("data_type")),
    "a huge image": small(size=(1, 3, BILLION, BILLION)).model(),
    "a huge group": with_conv(group=1 << 62),
    "a huge stride": with_conv(strides=[1 << 62, 1 << 62]),
    "no stride": with_conv(strides=[0, 0]),
    "huge padding": with_conv(pads=[BILLION] * 4),
    "padding beyond memory": with_conv(pads=[1 << 23] * 4),
    "a huge window": small().node("MaxPool", kernel_shape=[1 << 62, 1 << 62]).model(),
    "a huge window in padding": small().node("MaxPool", kernel_shape=[1 << 23] * 2, pads=[(1 << 23) - 1] * 4).model(),
    "a huge normalisation": reading(with_nodes(helper.make_node("LRN", ["v1"], ["n"], size=1 << 62)), "n"),
    "a long attribute": with_conv(kernel_shape=[3] * 1_000_000),
    "very much padding": padded(1 << 62),
    "less than no padding": padded(-1),
    "sizes that double": sized(
        helper.make_node("Identity", ["size"], ["s0"]),
        *(helper.make_node("Concat", [f"s{n}"] * 2, [f"s{n + 1}"], axis=0) for n in range(40)),
    ),
    "a size that is not there": sized(
        helper.make_node("Constant", [], ["third"], value=numpy_helper.from_array(np.array(3))),
        helper.make_node("Gather", ["size", "third"], ["target"]),
    ),
    "a size beyond 64 bits": sized(helper.make_node("Identity", ["size"], ["target"]), side=1 << 33),
    "a huge target": small().node("Reshape", "c0").model(),
    "no number for a rate": reading(with_nodes(helper.make_node("Dropout", ["v1"], ["d"], ratio=float("nan"))), "d"),
    "a cycle": reading(
        with_nodes(helper.make_node("Add", ["v1", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])), "b"
    ),
    "a node that reads itself": reading(with_nodes(helper.make_node("Relu", ["a"], ["a"])), "a"),
    "an input that nothing makes": reading(small_model(), "nothing"),
    "an input without a name": reading(small_model(), ""),
    "no inputs": reading(small_model()),
    "two nodes of one output": with_nodes(helper.make_node("Relu", ["v0"], ["v1"])),
    "a node that makes the image": with_nodes(helper.make_node("Relu", ["v0"], ["data"])),
    "two constants of one name": with_constant(lambda t: setattr(t, "name", "c1")),
    "outside by ..": with_external(location="../outside.bin"),
    "outside by .. and back": with_external(location="../home/beside.bin"),
    "outside, absolute": with_external(location="OUTSIDE"),
    "outside by a link": with_external(location="link.bin"),
    "outside by a linked folder": with_external(location="linked/outside.bin"),
    "in a folder": with_external(location="."),
    "in a device": with_external(location="/dev/zero"),
    "in a pipe": with_external(location="pipe"),
    "in a file that is missing": with_external(location="missing.bin"),
    "in a file of a very long name": with_external(location="a" * 100_000),
    "in a file of a name with a zero": with_external(location="beside.bin\0"),
    "beyond the end of a file": with_external(location="beside.bin", offset="1"),
    "before the beginning of a file": with_external(location="beside.bin", offset="-400"),
    "a length that is wrong": with_external(location="beside.bin", length=str(BILLION)),
    "an offset that is no number": with_external(location="beside.bin", offset="0x"),
    "an offset of many digits": with_external(location="beside.bin", offset="9" * 100_000),
    "nowhere": with_external(),
    "bytes that are others' as well": sharing_bytes(),
    "graphs in graphs": nested(20),
    "graphs in graphs, very deep": nested_by_hand(10_000),
    "10000 nodes": chain("Relu", 10_000),
    "100000 nodes": chain("Relu", 100_000),
    "100000 nodes that do nothing": chain("Identity", 100_000),
    "a million empty nodes": empty_parts(1_000_000),
    "very many channels": doubling(40),
    "layers that share their weights": sharing(2000),
    "an operator with very many inputs": reading(with_nodes(helper.make_node("Concat", ["v1"] * 100_000, ["a"])), "a"),
    "a name of two lines": with_name("a\nb\x1b[2J"),
    "a very long name": with_name("a" * 1_000_000),
    "a name that is no text": with_name("broken").SerializeToString().replace(b"broken", b"br\xff\xfeen"),
}

#: Reads every file of a folder, and says what came of it, in how many seconds, and with how much more memory (KiB).
CHILD = """
import json, resource, sys, time
from pathlib import Path
from npconvnet.errors import InputError
from npconvnet.weights.onnx.reader import read_onnx

def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

for path in sorted(Path(sys.argv[1]).glob("*.onnx"), key=lambda path: path.stat().st_size):
    before, start = used(), time.perf_counter()
    try:
        came = repr(read_onnx(path))
    except InputError as error:
        came = str(error)
    print(json.dumps([path.stem, came, time.perf_counter() - start, used() - before]))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """(what came of it, seconds, KiB) of every hostile file, in a process of their own."""
    outside = tmp_path_factory.mktemp("outside")
    home = outside / "home"
    home.mkdir()
    for path in (outside / "outside.bin", home / "beside.bin"):
        path.write_bytes(bytes(432))
    (home / "link.bin").symlink_to(outside / "outside.bin")
    (home / "linked").symlink_to(outside)
    os.mkfifo(home / "pipe")
    for name, contents in HOSTILE.items():
        if name == "outside, absolute":
            contents = with_external(location=str(outside / "outside.bin"))
        raw = contents if isinstance(contents, bytes) else contents.SerializeToString()
        (home / f"{name}.onnx").write_bytes(raw)
    done = subprocess.run([sys.executable, "-c", CHILD, home], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return {name: (came, seconds, memory) for name, came, seconds, memory in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", HOSTILE)
def test_refused_in_one_line_soon_and_with_little_memory(name, outcomes):
    came, seconds, memory = outcomes[name]
    assert f"{name}.onnx: " in came
    assert came.isprintable()
    assert len(came) < 1000
    assert seconds < 2
    assert memory < 200 * 1024


def test_what_no_protobuf_can_be_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "read_bytes", None)
    path = tmp_path / "model.onnx"
    path.touch()
    with pytest.raises(InputError, match=f"^{path}: is empty$"):
        read_onnx(path)
    with path.open("wb") as file:
        file.truncate(1 << 31)  # without any bytes on the disk
    with pytest.raises(InputError, match=f"^{path}: larger than 2097151 KiB, which no such file is"):
        read_onnx(path)


def test_what_is_refused_above_is_accepted_without_the_harm(tmp_path):
    """Or the tests above would prove nothing."""
    (tmp_path / "beside.bin").write_bytes(bytes(432))
    for model in (
        with_external(location="beside.bin"),
        chain("Relu", 100),
        doubling(3),
        sharing(2),
        with_conv(pads=[9] * 4),
        sized(helper.make_node("Identity", ["size"], ["target"])),
    ):
        read_onnx(save(tmp_path, model))


# -- fuzzing ---------------------------------------------------------------------------------------------------------


def mutated(contents, rng):
    """`contents` after one of the things that happen to files."""
    at, length = int(rng.integers(len(contents))), int(rng.integers(1, 30))
    before, part, after = contents[:at], contents[at : at + length], contents[at + length :]
    match rng.integers(7):
        case 0:
            flipped = bytearray(contents)
            for place in rng.integers(len(contents), size=rng.integers(1, 4)):
                flipped[place] ^= 1 << rng.integers(8)
            return bytes(flipped)
        case 1:
            return before
        case 2:
            return before + rng.bytes(length) + part + after
        case 3:
            return before + part + part + after
        case 4:
            return before + after
        case 5:
            return before + b"\xff" * len(part) + after
        case _:
            other = int(rng.integers(len(contents)))
            return before + contents[other : other + length] + after


def described():
    """The smallest network with the metadata of npconvnet."""
    model = small_model()
    fields = {"resize": 9, "crop": 8, "mean": [1, 2, 3], "std": [1, 2, 3]}
    header = {"model": "tiny", "preprocessing": fields, "synsets": [["n", "name"]] * 4}
    helper.set_model_props(model, {"npconvnet.network": json.dumps(header)})
    return model


def padded_and_sized():
    b = small()
    b.last = "v1"
    b.node("Pad", b.constant(value=np.array([0, 0, 1, 0, 0, 0, 1, 1])))
    b.node("AveragePool", kernel_shape=[2, 2], strides=[2, 2])
    zero, rest, image = b.constant(value=np.array(0)), b.constant(value=np.array([-1])), b.last
    b.node("Shape").node("Gather", zero).node("Unsqueeze", b.constant(value=np.array([0]))).node("Concat", rest, axis=0)
    target, b.last = b.last, image
    return b.node("ReduceMean", axes=[2, 3]).node("Reshape", target)


FUZZED = {
    "padded and sized": lambda: padded_and_sized().model(),
    "caffe": lambda: small().model(producer="onnx-caffe2"),
    "npconvnet": described,
    "mxnet": lambda: like_mxnet().model(ir_version=6),
    "external": lambda: with_external(location="beside.bin"),
}


@pytest.mark.parametrize("name", FUZZED)
def test_mutated_files_are_read_or_refused(name, tmp_path):
    contents = FUZZED[name]().SerializeToString()
    (tmp_path / "beside.bin").write_bytes(bytes(432))
    rng, path = np.random.default_rng(0), tmp_path / "model.onnx"
    refused = 0
    for _ in range(2000):
        path.write_bytes(mutated(contents, rng))
        try:
            network = read_onnx(path)
        except InputError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ")
            assert str(error).isprintable()
        else:
            if network.preprocessing.crop <= 64:
                with np.errstate(all="ignore"):  # whatever the numbers have become
                    network.scores(np.zeros((1, network.preprocessing.crop, network.preprocessing.crop, 3), np.float32))
    assert refused > 400
