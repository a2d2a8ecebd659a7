"""Weight files: parameters together with their architecture, preprocessing and class names."""

from npconvnet.weights.native import bundled_network, load_network, read_file, save_network, write_file

__all__ = ["bundled_network", "load_network", "read_file", "save_network", "write_file"]
