"""The architectures: one a file, each a table of layers. `MODELS[name](classes=...)` makes the network."""

from collections.abc import Callable, Mapping
from typing import Any

from npconvnet.models.alexnet import alexnet
from npconvnet.models.graph import graph
from npconvnet.models.paper import paper
from npconvnet.models.squeezenet import squeezenet
from npconvnet.models.tiny import tiny
from npconvnet.models.vgg16 import vgg16
from npconvnet.models.vgg_f import vgg_f
from npconvnet.network import Network

MODELS: dict[str, Callable[..., Network]] = {
    "paper": paper,
    "vgg_f": vgg_f,
    "alexnet": alexnet,
    "vgg16": vgg16,
    "squeezenet": squeezenet,
    "tiny": tiny,
}


def make_again(model: str, options: Mapping[str, Any]) -> Network:
    """The architecture of a network whose `model` and `options` these are, without its parameters.

    Raises KeyError, TypeError or ValueError where there is no such architecture.
    """
    return {**MODELS, "graph": graph}[model](**options)
