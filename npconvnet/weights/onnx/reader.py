"""ONNX in: a graph of the operators that npconvnet has, read as the network it is.

What the file does not say is taken from where it comes from: npconvnet's own export carries preprocessing and class
names in its metadata; files that went through Caffe2 (most of the model zoo's classical networks) want BGR minus the
mean colour, which is put right in the filters; all others are taken to be fed like torchvision's networks.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from npconvnet.errors import InputError
from npconvnet.network import INPUT, Network
from npconvnet.weights.conventions import CONVENTIONS, Convention, swap_red_and_blue
from npconvnet.weights.imported import assemble, read_contents, unique_name
from npconvnet.weights.metadata import from_metadata
from npconvnet.weights.onnx.layers import Activation, Translation, fed_inputs, translate
from npconvnet.weights.onnx.tensors import quoted

#: In bytes; a protobuf ends there.
LARGEST = (1 << 31) - 1
#: Where the file leaves the size of the image open.
USUAL_CROP = 224
#: The most fields that are not numbers of a tensor: each takes a hundred bytes of memory, and as few as two of file.
MOST_FIELDS = 1 << 18


def read_onnx(path: Path, convention: Convention | None = None) -> Network:
    """The network in the file `path`, whose one input is an image (N, 3, S, S) and whose one output class scores.

    A softmax at the end, or its logarithm, is dropped. S is 224 where any is taken. `convention` says how it is fed
    where the file does not, and is guessed unless given. Raises InputError, naming the node, for operators and
    attributes that npconvnet has no layer for, and for files that are damaged or hostile.
    """
    contents = read_contents(path, LARGEST)
    try:
        return _network(_parse(contents), path.parent, convention)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # InputError among them, which does not know the path
        raise InputError(f"{path}: {_one_line(str(error))}") from None


def _network(model: onnx.ModelProto, folder: Path, convention: Convention | None) -> Network:
    described = from_metadata({entry.key: entry.value for entry in model.metadata_props})
    preprocessing, synsets = (described.preprocessing, described.synsets) if described else (None, None)
    name, shape = _image_input(model.graph, preprocessing.crop if preprocessing else USUAL_CROP)
    crop = shape[-1]
    if preprocessing is not None and preprocessing.crop != crop:
        raise InputError(f"its graph takes images of {crop} pixels, and its metadata say {preprocessing.crop}")
    opset = next((opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")), 1)
    translation = translate(model.graph, opset, {name: Activation(INPUT, shape)}, folder)
    _end_with_scores(translation)
    if preprocessing is None:
        convention = convention or ("caffe" if "caffe" in model.producer_name.lower() else "torchvision")
        if convention != "torchvision":
            _read_rgb(translation)
        preprocessing = CONVENTIONS[convention](crop)
    return assemble(translation.rows, translation.parameters, preprocessing, synsets)


def _image_input(graph: onnx.GraphProto, usual: int) -> tuple[str, tuple[int, int, int, int]]:
    """The name of the one input, and its shape (N, 3, S, S): one image, of the `usual` side, where it takes any."""
    fed = fed_inputs(graph)
    if len(fed) != 1:
        raise InputError(f"the graph has {len(fed)} inputs; only one, the image, is supported")
    ((name, shape),) = fed.items()
    sides = {side for side in shape[2:] if side is not None} or {usual}
    if len(shape) != 4 or shape[1] not in (3, None) or len(sides) != 1:
        raise InputError(f"its input {quoted(name)} is {shape}; only square images, (N, 3, S, S), are supported")
    (side,) = sides
    return name, (shape[0] or 1, 3, side, side)


def _end_with_scores(translation: Translation) -> None:
    """Makes a vector of scores that come as an image of one pixel."""
    if len(translation.output_names) != 1:
        raise InputError(f"the graph has {len(translation.output_names)} outputs; only one, the scores, is supported")
    (scores,) = translation.outputs.values()
    if not translation.rows or not isinstance(scores, Activation):
        raise InputError("its output does not depend on the image")
    if len(translation.shapes[scores.row]) == 3 and scores.shape[2:] == (1, 1):
        name = unique_name(f"{scores.row}.scores", translation.shapes)
        translation.rows.append([name, "Flatten", {}, [scores.row]])


def _read_rgb(translation: Translation) -> None:
    """Lets the first convolutions, trained on BGR, read RGB."""
    for name, kind, arguments, inputs in translation.rows:
        if INPUT in inputs:
            if kind != "Conv2d" or arguments["groups"] != 1:
                raise InputError(f"'{name}' reads the image as BGR, and only a convolution of one group can be changed")
            weight = f"{name}.weight"
            translation.parameters[weight] = swap_red_and_blue(translation.parameters[weight])


# -- bytes -----------------------------------------------------------------------------------------------------------


def _parse(data: bytes) -> onnx.ModelProto:
    _check_fields(data, onnx.ModelProto.DESCRIPTOR)
    try:
        return onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise InputError(f"not an ONNX file, damaged, or cut off ({error})") from None


def _check_fields(data: bytes, message: Descriptor) -> None:
    """Refuses `data` of very many fields, or with names that are no text: walks its messages without making any."""
    fields, waiting = 0, [(0, len(data), message)]
    while waiting:
        at, end, message = waiting.pop()
        while at < end:
            fields += 1
            key, at = _varint(data, at)
            if key & 7 == 0:
                _, at = _varint(data, at)
            elif key & 7 == 2:
                size, at = _varint(data, at)
                field = message.fields_by_number.get(key >> 3)
                if field is not None and field.type == FieldDescriptor.TYPE_STRING:
                    _require_text(data[at : at + size])
                elif field is not None and field.message_type is not None:
                    waiting.append((at, min(at + size, end), field.message_type))
                at += size
            else:
                at += {1: 8, 5: 4}.get(key & 7, 0)
            if fields > MOST_FIELDS:
                raise InputError(f"not a network: it consists of more than {MOST_FIELDS} parts")


def _require_text(text: bytes) -> None:
    try:
        text.decode()
    except UnicodeDecodeError:
        raise InputError(f"not an ONNX file, or damaged: a name in it is no text, {text[:40]!r}") from None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where it ends: seven bits a byte, the lowest first."""
    number = 0
    for place, byte in enumerate(data[at : at + 10]):
        number |= (byte & 127) << (7 * place)
        if byte < 128:
            return number, at + place + 1
    raise InputError("not an ONNX file, damaged, or cut off")


def _one_line(text: str) -> str:
    """`text`, which may quote the file, without what would break the line or the terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:500]
