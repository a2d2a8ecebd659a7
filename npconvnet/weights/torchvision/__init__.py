"""State dicts of torchvision's networks, in and out."""

from npconvnet.weights.torchvision.state_dict import read_torchvision, write_torchvision

__all__ = ["read_torchvision", "write_torchvision"]
