"""Weight files: parameters together with their architecture, preprocessing and class names."""

from npconvnet.weights.native import bundled_network, read_file, save_network, write_file
from npconvnet.weights.opening import FORMATS, load_network

__all__ = ["FORMATS", "bundled_network", "load_network", "read_file", "save_network", "write_file"]
