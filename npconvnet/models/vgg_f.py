"""VGG CNN-F (Chatfield et al. 2014): the network of the paper's authors whose weights are published."""

from npconvnet.models.paper import paper
from npconvnet.network import Network


def vgg_f(classes: int = 1000) -> Network:
    """The paper's table as it was published: 224×224 RGB, LRN on, conv1 rounded down to 54×54."""
    network = paper(classes, lrn=True, rounding="caffe")
    network.model = network.name = "vgg_f"
    network.options = {"classes": classes}
    return network
