"""The architectures: one a file, each a table of layers. `MODELS[name](classes=...)` makes the network."""

from collections.abc import Callable

from npconvnet.models.alexnet import alexnet
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
