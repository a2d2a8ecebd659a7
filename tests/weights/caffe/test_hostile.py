"""Files of Caffe that are damaged or made to do harm: refused in one line, soon, and with little memory."""

import json
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pytest
from google.protobuf import text_format

from npconvnet.errors import InputError
from npconvnet.network import Network
from npconvnet.weights.caffe import read_caffe
from npconvnet.weights.caffe.messages import CLASSES
from tests.weights.caffe.test_reader import (
    SETTINGS,
    Layer,
    chain,
    conv,
    deploy,
    message,
    part,
    pool,
    trained,
    varint,
    whole,
    write_prototxt,
)

#: How many damaged files of each kind are read.
MUTATIONS = 1000

#: Refused within two seconds; this much even on a machine that does other things too.
SOON = 10


def tiny():
    layers = [
        *chain(conv("conv1", 2, 3, stride=[2]), ("relu1", "ReLU"), ("norm1", "LRN"), pool("pool1", 2, 2)),
        *chain(("fc", "InnerProduct", {"num_output": 3}), ("prob", "Softmax"), start="pool1"),
    ]
    rng = np.random.default_rng(0)
    layers[0].blobs = [rng.standard_normal((2, 3, 3, 3)).astype(np.float32), np.ones(2, np.float32)]
    layers[4].blobs = [rng.standard_normal((3, 2 * 2 * 2)).astype(np.float32), np.ones(3, np.float32)]
    return layers


def refused(path, prototxt=None):
    """The one line with which a file is refused."""
    with pytest.raises(InputError) as error:
        read_caffe(path, prototxt)
    text = str(error.value)
    assert text.startswith((str(path), str(prototxt)))
    assert text.isprintable()
    assert len(text) < 1000
    return text


@pytest.fixture
def write(tmp_path):
    def write(contents):
        path = tmp_path / "a.caffemodel"
        path.write_bytes(contents)
        return path

    return write


@pytest.fixture
def contents():
    return message(trained(tiny(), "fc", crop_size=9)).SerializeToString()


# -- damaged ---------------------------------------------------------------------------------------------------------


def mutated(contents, rng):
    """`contents` with one to three changes of the kinds that happen to files, and of those that people make."""
    data = bytearray(contents)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(data) or 1)
        end = min(start + rng.randint(1, 30), len(data))
        kind = rng.randrange(7)
        if kind == 0:
            data[start:end] = bytes(byte ^ (1 << rng.randrange(8)) for byte in data[start:end])
        elif kind == 1:
            del data[start:]
        elif kind == 2:
            data[start:start] = rng.randbytes(end - start)
        elif kind == 3:
            data[start:start] = data[start:end]
        elif kind == 4:
            del data[start:end]
        elif kind == 5:
            data[start:end] = b"\xff" * (end - start)
        else:
            data[start : start + 1] = bytes([rng.randrange(256)])
    return bytes(data)


def assert_loads_or_is_refused(path, prototxt=None):
    start = time.monotonic()
    try:
        network = read_caffe(path, prototxt)
    except InputError as error:
        assert str(error).isprintable()
    else:
        assert isinstance(network, Network)
        json.dumps(network.options)
    assert time.monotonic() - start < SOON


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
def test_damaged_models(old, write):
    rng = random.Random(old)
    contents = message(trained(tiny(), "fc", crop_size=9), old=old).SerializeToString()
    assert read_caffe(write(contents)).synsets
    for _ in range(MUTATIONS):
        assert_loads_or_is_refused(write(mutated(contents, rng)))


NUMBERS = [-1, 0, 1, 2, 3, 5, 9, 227, 1 << 16, (1 << 31) - 1, (1 << 32) - 1, 1 << 40, 0.5, 1e-45, 1e300, float("nan")]
TEXTS = ["", "data", "label", "conv1", "pool1", "fc", "norm1", *SETTINGS, "Softmax", "Split", "a\nb"]


def messages(net):
    """`net` and every message in it."""
    yield net
    for descriptor, value in net.ListFields():
        if descriptor.message_type:
            for inner in value if isinstance(value, Sequence) else [value]:
                yield from messages(inner)


def change_a_field(net, rng):
    """Sets, repeats, removes or moves the contents of one field of one message."""
    changed = rng.choice(list(messages(net)))
    descriptor = rng.choice(changed.DESCRIPTOR.fields)
    name, value = descriptor.name, getattr(changed, descriptor.name)
    several = isinstance(value, Sequence) and not isinstance(value, str)
    if rng.random() < 0.2:
        changed.ClearField(name)
    elif descriptor.message_type and not several:
        value.SetInParent()
    elif descriptor.message_type:
        value.add().CopyFrom(rng.choice(value))
        value.insert(rng.randrange(len(value)), value.pop())
    else:
        new = rng.choice(TEXTS if descriptor.cpp_type == descriptor.CPPTYPE_STRING else NUMBERS)
        # What the type of the field can't hold is no change.
        with suppress(TypeError, ValueError):
            if not several:
                setattr(changed, name, new)
            elif len(value) and rng.random() < 0.5:
                value[rng.randrange(len(value))] = new
            else:
                value.append(new)


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize("with_prototxt", [False, True])
def test_models_that_say_something_else(old, with_prototxt, write, tmp_path):
    """Their bytes are whole messages, so that more than the parser gets to see them."""
    rng = random.Random(f"{old} {with_prototxt}")
    layers = trained(tiny(), "fc", crop_size=9)
    path = write(message(layers, old=old).SerializeToString())
    contents = message(layers, old=old, with_blobs=not with_prototxt).SerializeToString()
    for _ in range(MUTATIONS):
        net = CLASSES["NetParameter"].FromString(contents)
        for _ in range(rng.randint(1, 3)):
            change_a_field(net, rng)
        if with_prototxt:
            prototxt = tmp_path / "b"
            prototxt.write_text(text_format.MessageToString(net))
            assert_loads_or_is_refused(path, prototxt)
        else:
            assert_loads_or_is_refused(write(net.SerializeToString()))


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
def test_damaged_prototxts(old, contents, write, tmp_path):
    rng = random.Random(old)
    path = write(contents)
    sizes = {"input": ["data"], "input_dim": [1, 3, 9, 9]}
    prototxt = write_prototxt(tmp_path / "b", tiny(), old=old, **sizes)
    assert read_caffe(path, prototxt).synsets
    text = prototxt.read_bytes()
    for _ in range(MUTATIONS):
        prototxt.write_bytes(mutated(text, rng))
        assert_loads_or_is_refused(path, prototxt)


def test_damaged_model_with_a_prototxt(contents, write, tmp_path):
    rng = random.Random(0)
    prototxt = write_prototxt(tmp_path / "b", deploy(tiny(), 9))
    for _ in range(MUTATIONS):
        assert_loads_or_is_refused(write(mutated(contents, rng)), prototxt)


def test_cut_off_anywhere(contents, write):
    for end in range(len(contents)):
        assert_loads_or_is_refused(write(contents[:end]))
    assert "cut off" in refused(write(contents[:-1]))


# -- made to do harm -------------------------------------------------------------------------------------------------


def many(layer, count):
    """`count` layers of `layer`, under their own names."""
    return b"".join(part(100, part(1, str(number)) + layer) for number in range(count))


RELU = part(2, "ReLU") + part(3, "data") + part(4, "data")
DATA = part(100, part(1, "data") + part(2, "Input") + part(4, "data"))


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b"", "a.caffemodel: is empty"),
        (part(1, "a name"), "describes 0 layers"),
        (b"\xff" * 100, "not a .caffemodel"),
        (part(100, b"\x0a\xff\xff\xff\xff\x07"), "not a .caffemodel"),
        (b"\x0a" * 2_000_001, "1024 KiB without their weights"),
        (b"\x0b" * 100_000, "not a .caffemodel"),
        (part(100, b"") * 2_000_000, "1024 KiB without their weights"),
        (part(100, part(7, b"") * 2_000_000), "1024 KiB without their weights"),
        (part(100, part(3, b"") * 2_000_000), "1024 KiB without their weights"),
        (part(2, part(6, part(7, b"") * 2_000_000)), "1024 KiB without their weights"),
        (whole(1, 1) * 2_000_000, "1024 KiB without their weights"),
        (part(100, part(100, part(5, b"") * 100)) * 10_000, "1024 KiB without their weights"),
        (part(100, b"") * 100_000, "describes 100000 layers"),
        (many(RELU, 20_000), "describes 20000 layers"),
        (part(2, part(1, part(1, "conv1") + part(50, part(5, bytes(5_000_000))))), "written by a Caffe of 2013"),
        (part(100, part(1, b"\xff\xfe") + RELU), "layer number 1: its name"),
        (part(100, part(1, "two\nlines") + RELU), "layer number 1: its name"),
        (part(100, part(1, "n" * 100_000) + RELU), "layer number 1: its name"),
        (part(100, part(1, "a") + part(2, b"\xff")), "layer number 1: its name"),
        (part(100, part(1, "a") + part(2, "ReLU") + part(3, b"\x80")), "layer number 1: its name"),
        (many(RELU, 4000), "no layer before it makes"),
        (DATA + many(RELU, 4000), "no class scores that a layer with weights makes"),
        (DATA + many(part(2, "Concat") + part(3, "data") * 9 + part(4, "data"), 4000), "reads the colours"),
    ],
)
def test_refused_soon(contents, reason, write):
    start = time.monotonic()
    assert reason in refused(write(contents))
    assert time.monotonic() - start < SOON


def test_names_that_are_no_text(contents, write):
    assert read_caffe(write(contents + part(1, b"\xff\xfe\xfd"))).synsets


@pytest.mark.parametrize("sizes", [[1 << 40, 1 << 40], [0], [-1, 8], [2] * 60, [3, 8, 1 << 62], [], [1 << 31, 3, 3, 3]])
@pytest.mark.parametrize("blob", [0, 1])
def test_blobs_that_declare_what_they_do_not_hold(sizes, blob, write):
    net = message(deploy(tiny(), 9))
    net.layer[1].blobs[blob].shape.dim[:] = sizes
    assert f"layer 'conv1' (Convolution): its blob {blob} in the .caffemodel is" in refused(
        write(net.SerializeToString())
    )


@pytest.mark.parametrize("size", [0, 1, (1 << 31) - 1])
def test_old_blobs_that_declare_what_they_do_not_hold(size, write):
    net = message(trained(tiny(), "fc", crop_size=9), old=True)
    net.layers[2].blobs[0].num = size
    assert "'conv1' (Convolution): its blob 0 in the .caffemodel is" in refused(write(net.SerializeToString()))


@pytest.mark.parametrize("settings", [{"num_output": (1 << 32) - 1}, {"kernel_size": [(1 << 32) - 1]}])
def test_layers_that_declare_what_their_blobs_do_not_hold(settings, write):
    layers = tiny()
    layers[0].settings |= settings
    assert "its blob 0 in the .caffemodel is" in refused(write(message(deploy(layers, 9)).SerializeToString()))


def test_blob_with_too_few_numbers(write):
    net = message(deploy(tiny(), 9))
    del net.layer[1].blobs[0].data[-1]
    assert "its blob 0 in the .caffemodel has 53 numbers for 2 × 3 × 3 × 3" in refused(write(net.SerializeToString()))


@pytest.mark.parametrize("side", [-9, 1 << 20, 1 << 40])
def test_images_of_absurd_sizes(side, write):
    net = message(tiny(), input=["data"], input_shape=[CLASSES["BlobShape"](dim=[1, 3, side, side])])
    refused(write(net.SerializeToString()))


def test_sizes_that_double_with_each_layer(write):
    layers = deploy(tiny(), 9)[:2]
    layers += [Layer(f"c{number}", "Concat", ("conv1",) * 50, ("conv1",)) for number in range(3000)]
    start = time.monotonic()
    refused(write(message(layers).SerializeToString()))
    assert time.monotonic() - start < SOON


@pytest.mark.parametrize("transform", [{"scale": 0.0}, {"scale": float("nan")}, {"mean_value": [1.0, 2.0]}])
def test_preprocessing_that_makes_no_sense(transform, write):
    refused(write(message(trained(tiny(), "fc", crop_size=9, **transform)).SerializeToString()))
    transform = {"mean_value": [float("inf")] * 3}
    refused(write(message(trained(tiny(), "fc", crop_size=9, **transform)).SerializeToString()))


def test_weights_beyond_float32_are_no_reason_to_warn(write):
    net = message(deploy(tiny(), 9), double=True)
    net.layer[1].blobs[0].double_data[0] = 1e300
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isinf(read_caffe(write(net.SerializeToString())).parameters["conv1.weight"]).any()


# -- other files -----------------------------------------------------------------------------------------------------


def test_files_in_each_other_place(contents, write, tmp_path):
    path = write(contents)
    prototxt = write_prototxt(tmp_path / "b", deploy(tiny(), 9))
    assert refused(prototxt) == f"{prototxt}: not a .caffemodel, or damaged or cut off"
    assert refused(path, path) == f"{path}: not a .prototxt, which is a text file"
    assert "no such" in refused(path, tmp_path / "c").lower()
    assert "no such" in refused(tmp_path / "c").lower()
    assert "cannot be read" in refused(tmp_path)
    assert "cannot be read" in refused(path, tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "b: is empty"),
        (" ", "describes 0 layers"),
        ("layer { name: 'a' type", "line 1: "),
        ("layers { type: SOMETHING }", "line 1: Enum type"),
        ("layer { " * 100_000, "nested too deeply"),
        ("x { " * 100_000, "nested too deeply"),
        ("layer { name: '\\377' }", "line 1: "),
        ("\x1b[31m", "line 1: "),
        ("layer { name: '" + "n" * 900_000, "line 1: "),
        ("input_dim: 1" + "0" * 10_000, "line 1: "),
        ("# nothing\n" * 200_000, "larger than 1024 KiB"),
        ("layer {}\n" * 100_000, "describes 100000 layers"),
        ("name: 1 2 3\n" * 80_000, "line 1: "),
    ],
)
def test_prototxts_that_are_none(text, reason, contents, write, tmp_path):
    prototxt = tmp_path / "b"
    prototxt.write_text(text)
    start = time.monotonic()
    assert reason in refused(write(contents), prototxt)
    assert time.monotonic() - start < SOON


def test_prototxt_can_have_no_more_memory_than_its_size(write, tmp_path):
    """A layer in a prototxt that asks for much gets nothing: its sizes are compared with the blobs first."""
    layers = tiny()
    path = write(message(deploy(layers, 9)).SerializeToString())
    layers[4].settings["num_output"] = (1 << 32) - 1
    assert "'fc' (InnerProduct): its blob 0" in refused(path, write_prototxt(tmp_path / "b", deploy(layers, 9)))


def test_large_files_are_not_read_into_memory(tmp_path):
    # A file with a hole: 3 GiB that take no room on the disk.
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.truncate(3 << 30)
    assert "larger than" in refused(path)


def test_many_small_messages_take_little_memory(tmp_path):
    """In a process that may have 200 MiB more than it has when everything is imported."""
    path = tmp_path / "a"
    path.write_bytes(part(100, part(7, b"") * 50) * 300_000)
    program = f"""
import resource
from pathlib import Path
from npconvnet.errors import InputError
from npconvnet.weights.caffe import read_caffe
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)
try:
    read_caffe(Path({str(path)!r}))
except InputError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "without their weights" in run.stdout, run.stderr


def test_numbers_of_more_than_ten_bytes(write):
    assert "not a .caffemodel" in refused(write(b"\x08" + b"\xff" * 11 + varint(1)))
