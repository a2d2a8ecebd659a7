"""The architectures: one a file, each a table of layers. `MODELS[name](classes=...)` makes the network."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from npconvnet.models.alexnet import alexnet
from npconvnet.models.alexnet_owt import alexnet_owt
from npconvnet.models.graph import graph
from npconvnet.models.paper import paper
from npconvnet.models.squeezenet import VERSIONS, squeezenet
from npconvnet.models.tiny import tiny
from npconvnet.models.vgg import CONVOLUTIONS, vgg
from npconvnet.models.vgg_f import vgg_f
from npconvnet.network import Network

MODELS: dict[str, Callable[..., Network]] = {
    "paper": paper,
    "vgg_f": vgg_f,
    "alexnet": alexnet,
    "alexnet_owt": alexnet_owt,
    **{model: partial(vgg, model) for model in CONVOLUTIONS},
    **{model: partial(squeezenet, model) for model in VERSIONS},
    "tiny": tiny,
}


def make_again(model: str, options: Mapping[str, Any]) -> Network:
    """The architecture of a network whose `model` and `options` these are, without its parameters.

    Raises KeyError, TypeError or ValueError where there is no such architecture.
    """
    return {**MODELS, "graph": graph}[model](**options)
