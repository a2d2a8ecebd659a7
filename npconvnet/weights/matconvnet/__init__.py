"""MatConvNet's .mat files in."""

from npconvnet.weights.matconvnet.reader import read_matconvnet

__all__ = ["read_matconvnet"]
