"""SGD over all parameters of a network; the arithmetic of one is in kernels/cpu/sgd.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from npconvnet import kernels
from npconvnet.backend import Array, array_module, is_on_gpu
from npconvnet.network import Network
from npconvnet.parallel import in_parallel
from npconvnet.training.schedule import BIAS_RATE

#: Numbers of a parameter that are updated at a time on the CPU: few enough for the cache, where each is read thrice.
AT_A_TIME = 2**18


class SGD:
    """Momentum and weight decay; `velocities` by parameter name, on the device of the network."""

    def __init__(self, network: Network, momentum: float, weight_decay: float) -> None:
        self.network, self.momentum, self.weight_decay = network, momentum, weight_decay
        self.velocities = {name: array_module(p).zeros_like(p) for name, p in network.parameters.items()}

    def update(self, gradients: Mapping[str, Array], learning_rate: float) -> None:
        """Moves every parameter one step: weights at `learning_rate` with decay, biases at twice that without."""

        def update(name_and_part: tuple[str, slice]) -> None:
            name, part = name_and_part
            arrays = (self.network.parameters[name], self.velocities[name], gradients[name])
            w, velocity, dw = (array.reshape(-1)[part] for array in arrays)
            is_bias = name.endswith(".bias")
            rate, decay = (BIAS_RATE * learning_rate, 0.0) if is_bias else (learning_rate, self.weight_decay)
            kernels.sgd_update(w, velocity, dw, rate, self.momentum, decay)

        if self.network.device == "gpu":  # other threads don't know which GPU is theirs, and there one suffices
            for part in self._parts():
                update(part)
        else:
            in_parallel(update, self._parts())

    def _parts(self) -> Iterator[tuple[str, slice]]:
        for name, parameter in self.network.parameters.items():
            size = parameter.size if is_on_gpu(parameter) else AT_A_TIME
            for start in range(0, parameter.size, size):
                yield name, slice(start, start + size)
