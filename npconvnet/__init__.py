"""npconvnet: a convolutional network whose every forward and backward is written out by hand.

The public names are loaded when they are first used, so that `npconvnet --help` does not wait for NumPy.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "InputError": "npconvnet.errors",
    "MODELS": "npconvnet.models",
    "Network": "npconvnet.network",
    "Preprocessing": "npconvnet.preprocessing",
    "Synset": "npconvnet.synsets",
    "bundled_network": "npconvnet.weights",
    "classify_picture": "npconvnet.prediction",
    "explain": "npconvnet.visualization.saliency",
    "load_network": "npconvnet.weights",
    "open_dataset": "npconvnet.data.ilsvrc",
    "read_image": "npconvnet.data.image",
    "save_network": "npconvnet.weights",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"npconvnet has no '{name}'")
    return getattr(import_module(_HOMES[name]), name)
