"""Caffe's .caffemodel and .prototxt files in."""

from npconvnet.weights.caffe.reader import read_caffe

__all__ = ["read_caffe"]
