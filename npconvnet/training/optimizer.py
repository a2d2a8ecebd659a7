"""SGD over all parameters of a network; the arithmetic of one is in kernels/cpu/sgd.py."""

from collections.abc import Mapping

from npconvnet import kernels
from npconvnet.backend import Array, array_module
from npconvnet.network import Network
from npconvnet.training.schedule import BIAS_RATE


class SGD:
    """Momentum and weight decay; `velocities` by parameter name, on the device of the network."""

    def __init__(self, network: Network, momentum: float, weight_decay: float) -> None:
        self.network, self.momentum, self.weight_decay = network, momentum, weight_decay
        self.velocities = {name: array_module(p).zeros_like(p) for name, p in network.parameters.items()}

    def update(self, gradients: Mapping[str, Array], learning_rate: float) -> None:
        """Moves every parameter one step: weights at `learning_rate` with decay, biases at twice that without."""
        for name, parameter in self.network.parameters.items():
            is_bias = name.endswith(".bias")
            kernels.sgd_update(
                parameter,
                self.velocities[name],
                gradients[name],
                learning_rate * (BIAS_RATE if is_bias else 1),
                self.momentum,
                0.0 if is_bias else self.weight_decay,
            )
