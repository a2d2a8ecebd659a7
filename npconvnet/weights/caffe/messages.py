"""The part of Caffe's message definition that says what a network is, and the reading of files that hold such messages.

Names, types, numbers and defaults are those of src/caffe/proto/caffe.proto in github.com/BVLC/caffe, and the fields are
written as they are there. What is left out is skipped by the parsers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from google.protobuf.message import DecodeError

from npconvnet.errors import InputError
from npconvnet.weights.imported import read_contents

#: A message of a definition that is made at run time: the type checker can't know its fields.
Message: TypeAlias = Any

MESSAGES = {
    "NetParameter": [
        "optional string name = 1",
        "repeated string input = 3",
        "repeated BlobShape input_shape = 8",
        "repeated int32 input_dim = 4",
        "repeated LayerParameter layer = 100",
        "repeated V1LayerParameter layers = 2",
    ],
    "BlobShape": ["repeated int64 dim = 1 [packed = true]"],
    "BlobProto": [
        "optional BlobShape shape = 7",
        "repeated float data = 5 [packed = true]",
        "repeated double double_data = 8 [packed = true]",
        "optional int32 num = 1",
        "optional int32 channels = 2",
        "optional int32 height = 3",
        "optional int32 width = 4",
    ],
    "NetStateRule": [
        "optional Phase phase = 1",
        "optional int32 min_level = 2",
        "optional int32 max_level = 3",
        "repeated string stage = 4",
    ],
    "LayerParameter": [
        "optional string name = 1",
        "optional string type = 2",
        "repeated string bottom = 3",
        "repeated string top = 4",
        "repeated BlobProto blobs = 7",
        "repeated NetStateRule include = 8",
        "repeated NetStateRule exclude = 9",
        "optional TransformationParameter transform_param = 100",
        "optional ConcatParameter concat_param = 104",
        "optional ConvolutionParameter convolution_param = 106",
        "optional DropoutParameter dropout_param = 108",
        "optional EltwiseParameter eltwise_param = 110",
        "optional FlattenParameter flatten_param = 135",
        "optional InnerProductParameter inner_product_param = 117",
        "optional InputParameter input_param = 143",
        "optional LRNParameter lrn_param = 118",
        "optional PoolingParameter pooling_param = 121",
        "optional ReLUParameter relu_param = 123",
    ],
    "V1LayerParameter": [
        "repeated string bottom = 2",
        "repeated string top = 3",
        "optional string name = 4",
        "repeated NetStateRule include = 32",
        "repeated NetStateRule exclude = 33",
        "optional V1LayerParameter.LayerType type = 5",
        "repeated BlobProto blobs = 6",
        "optional ConcatParameter concat_param = 9",
        "optional ConvolutionParameter convolution_param = 10",
        "optional DropoutParameter dropout_param = 12",
        "optional EltwiseParameter eltwise_param = 24",
        "optional InnerProductParameter inner_product_param = 17",
        "optional LRNParameter lrn_param = 18",
        "optional PoolingParameter pooling_param = 19",
        "optional ReLUParameter relu_param = 30",
        "optional TransformationParameter transform_param = 36",
        "optional V0LayerParameter layer = 1",
    ],
    "V0LayerParameter": ["optional string name = 1"],
    "TransformationParameter": [
        "optional float scale = 1 [default = 1]",
        "optional uint32 crop_size = 3 [default = 0]",
        "repeated float mean_value = 5",
    ],
    "InputParameter": ["repeated BlobShape shape = 1"],
    "ConcatParameter": [
        "optional int32 axis = 2 [default = 1]",
        "optional uint32 concat_dim = 1 [default = 1]",
    ],
    "ConvolutionParameter": [
        "optional uint32 num_output = 1",
        "optional bool bias_term = 2 [default = true]",
        "repeated uint32 pad = 3",
        "repeated uint32 kernel_size = 4",
        "repeated uint32 stride = 6",
        "repeated uint32 dilation = 18",
        "optional uint32 pad_h = 9 [default = 0]",
        "optional uint32 pad_w = 10 [default = 0]",
        "optional uint32 kernel_h = 11",
        "optional uint32 kernel_w = 12",
        "optional uint32 stride_h = 13",
        "optional uint32 stride_w = 14",
        "optional uint32 group = 5 [default = 1]",
        "optional int32 axis = 16 [default = 1]",
    ],
    "DropoutParameter": ["optional float dropout_ratio = 1 [default = 0.5]"],
    "EltwiseParameter": [
        "optional EltwiseParameter.EltwiseOp operation = 1 [default = SUM]",
        "repeated float coeff = 2",
    ],
    "FlattenParameter": [
        "optional int32 axis = 1 [default = 1]",
        "optional int32 end_axis = 2 [default = -1]",
    ],
    "InnerProductParameter": [
        "optional uint32 num_output = 1",
        "optional bool bias_term = 2 [default = true]",
        "optional int32 axis = 5 [default = 1]",
        "optional bool transpose = 6 [default = false]",
    ],
    "LRNParameter": [
        "optional uint32 local_size = 1 [default = 5]",
        "optional float alpha = 2 [default = 1.]",
        "optional float beta = 3 [default = 0.75]",
        "optional LRNParameter.NormRegion norm_region = 4 [default = ACROSS_CHANNELS]",
        "optional float k = 5 [default = 1.]",
    ],
    "PoolingParameter": [
        "optional PoolingParameter.PoolMethod pool = 1 [default = MAX]",
        "optional uint32 pad = 4 [default = 0]",
        "optional uint32 pad_h = 9 [default = 0]",
        "optional uint32 pad_w = 10 [default = 0]",
        "optional uint32 kernel_size = 2",
        "optional uint32 kernel_h = 5",
        "optional uint32 kernel_w = 6",
        "optional uint32 stride = 3 [default = 1]",
        "optional uint32 stride_h = 7",
        "optional uint32 stride_w = 8",
        "optional bool global_pooling = 12 [default = false]",
        "optional PoolingParameter.RoundMode round_mode = 13 [default = CEIL]",
    ],
    "ReLUParameter": ["optional float negative_slope = 1 [default = 0]"],
}

ENUMS = {
    "Phase": {"TRAIN": 0, "TEST": 1},
    "EltwiseParameter.EltwiseOp": {"PROD": 0, "SUM": 1, "MAX": 2},
    "LRNParameter.NormRegion": {"ACROSS_CHANNELS": 0, "WITHIN_CHANNEL": 1},
    "PoolingParameter.PoolMethod": {"MAX": 0, "AVE": 1, "STOCHASTIC": 2},
    "PoolingParameter.RoundMode": {"CEIL": 0, "FLOOR": 1},
    "V1LayerParameter.LayerType": {
        "NONE": 0,
        "ABSVAL": 35,
        "ACCURACY": 1,
        "ARGMAX": 30,
        "BNLL": 2,
        "CONCAT": 3,
        "CONTRASTIVE_LOSS": 37,
        "CONVOLUTION": 4,
        "DATA": 5,
        "DECONVOLUTION": 39,
        "DROPOUT": 6,
        "DUMMY_DATA": 32,
        "EUCLIDEAN_LOSS": 7,
        "ELTWISE": 25,
        "EXP": 38,
        "FLATTEN": 8,
        "HDF5_DATA": 9,
        "HDF5_OUTPUT": 10,
        "HINGE_LOSS": 28,
        "IM2COL": 11,
        "IMAGE_DATA": 12,
        "INFOGAIN_LOSS": 13,
        "INNER_PRODUCT": 14,
        "LRN": 15,
        "MEMORY_DATA": 29,
        "MULTINOMIAL_LOGISTIC_LOSS": 16,
        "MVN": 34,
        "POOLING": 17,
        "POWER": 26,
        "RELU": 18,
        "SIGMOID": 19,
        "SIGMOID_CROSS_ENTROPY_LOSS": 27,
        "SILENCE": 36,
        "SOFTMAX": 20,
        "SOFTMAX_LOSS": 21,
        "SPLIT": 22,
        "SLICE": 33,
        "TANH": 23,
        "WINDOW_DATA": 24,
        "THRESHOLD": 31,
    },
}

_FIELD = re.compile(
    r"(?P<label>optional|repeated) (?P<type>[\w.]+) (?P<name>\w+) = (?P<number>\d+)"
    r"(?: \[(?:packed = (?P<packed>true)|default = (?P<default>\S+))\])?"
)


def _message_classes() -> dict[str, Message]:
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    messages = {name: file.message_type.add(name=name) for name in MESSAGES}
    for name, fields in MESSAGES.items():
        messages[name].field.extend(_field(text) for text in fields)
    for path, numbers in ENUMS.items():
        message, _, name = path.rpartition(".")
        enum = (messages[message] if message else file).enum_type.add(name=name)
        for value, number in numbers.items():
            enum.value.add(name=value, number=number)
    # A pool of its own, so that a program that has Caffe's definition too can go on using that.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in MESSAGES}


def _field(text: str) -> FieldDescriptorProto:
    match = _FIELD.fullmatch(text)
    if match is None:
        raise ValueError(f"not a field: {text}")
    label, kind, name, number, packed, default = match.groups()
    field = FieldDescriptorProto(name=name, number=int(number))
    field.label = FieldDescriptorProto.Label.Value(f"LABEL_{label.upper()}")
    if kind in MESSAGES or kind in ENUMS:
        field.type_name = f".caffe.{kind}"
    else:
        field.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    if packed:
        field.options.packed = True
    if default:
        field.default_value = default
    return field


#: The classes of the messages, by their names.
CLASSES = _message_classes()


def enum_name(message: Message, field: str) -> str:
    """The name of the value that the enum `field` of `message` has."""
    values = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number
    name: str = values[getattr(message, field)].name
    return name


# -- files -----------------------------------------------------------------------------------------------------------

#: A message can be no larger.
LARGEST_FILE = (1 << 31) - 1
#: The description of the largest network takes some hundred KiB; what more there is in a file is weights.
LARGEST_DESCRIPTION = 1 << 20


def read_binary(path: Path) -> Message:
    """The NetParameter in the .caffemodel `path`; raises InputError where it holds none, or is damaged or cut off."""
    contents = read_contents(path, LARGEST_FILE)
    try:
        if _description_size(contents) > LARGEST_DESCRIPTION:
            raise InputError(f"{path}: its layers take more than {LARGEST_DESCRIPTION >> 10} KiB without their weights")
        return CLASSES["NetParameter"].FromString(contents)
    except (DecodeError, IndexError) as error:
        raise InputError(f"{path}: not a .caffemodel, or damaged or cut off") from error


def read_text(path: Path) -> Message:
    """The NetParameter in the .prototxt `path`; raises InputError where it holds none."""
    contents = read_contents(path, LARGEST_DESCRIPTION)
    try:
        return text_format.Parse(contents.decode(), CLASSES["NetParameter"](), allow_unknown_field=True)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a .prototxt, which is a text file") from error
    except text_format.ParseError as error:
        # The error says where, then shows the line, then says why.
        why = str(error).rpartition("': ")[2][:200]
        why = "".join(letter if letter.isprintable() else "?" for letter in why)
        raise InputError(f"{path}: not the .prototxt of a network (line {error.GetLine()}: {why})") from error
    except RecursionError as error:
        raise InputError(f"{path}: not the .prototxt of a network (its messages are nested too deeply)") from error


#: Where the weights are: (message, number of the field) to the message in that field, or to None, which is numbers.
_WAY_TO_WEIGHTS = {
    ("NetParameter", 100): "LayerParameter",
    ("NetParameter", 2): "V1LayerParameter",
    ("LayerParameter", 7): "BlobProto",
    ("V1LayerParameter", 6): "BlobProto",
    ("V1LayerParameter", 1): "V0LayerParameter",
    ("V0LayerParameter", 50): "BlobProto",
    ("BlobProto", 5): None,
    ("BlobProto", 6): None,
    ("BlobProto", 8): None,
    ("BlobProto", 9): None,
}


def _description_size(contents: bytes) -> int:
    """How many bytes of a NetParameter are not weights; counts no further than what is too many.

    A parser makes up to fifty bytes of each of them, because it makes an object of each message, however short. Raises
    IndexError where the bytes end too early, and DecodeError where they are no message.
    """
    size = 0
    pending = [("NetParameter", 0, len(contents))]
    while pending:
        message, position, end = pending.pop()
        while position < end and size <= LARGEST_DESCRIPTION:
            start = position
            key, position = _varint(contents, position)
            number, wire_type = key >> 3, key & 7
            length = 0
            if wire_type == 2:
                length, position = _varint(contents, position)
                if (message, number) in _WAY_TO_WEIGHTS:
                    size -= length
                    if inside := _WAY_TO_WEIGHTS[message, number]:
                        pending.append((inside, position, position + length))
            elif wire_type in _LENGTHS:
                length = _LENGTHS[wire_type]
            elif wire_type == 0:
                _, position = _varint(contents, position)
            else:
                raise DecodeError(f"a field of type {wire_type}")
            position += length
            size += position - start
        if position > end:
            raise IndexError("a message ends in the middle of a field")
    return size


#: Of numbers of a fixed length, in bytes.
_LENGTHS = {1: 8, 5: 4}


def _varint(contents: bytes, position: int) -> tuple[int, int]:
    """(number, position after it): seven bits a byte, the lowest first, and the eighth set while there are more."""
    number = shift = 0
    while True:
        byte = contents[position]
        position += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, position
        if shift >= 70:
            raise DecodeError("a number of more than ten bytes")
