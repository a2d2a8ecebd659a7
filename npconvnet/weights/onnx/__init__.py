"""ONNX, in (`read_onnx`) and out (`write_onnx`)."""

from npconvnet.weights.onnx.reader import read_onnx
from npconvnet.weights.onnx.writer import write_onnx

__all__ = ["read_onnx", "write_onnx"]
