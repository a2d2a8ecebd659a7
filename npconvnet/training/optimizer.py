"""SGD over all parameters of a network; the arithmetic of one is in kernels/cpu/sgd.py, on a GPU of all in sgd.cu."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from npconvnet import kernels
from npconvnet.backend import Array, array_module, module_of
from npconvnet.kernels.cuda.sgd import ParameterUpdate, sgd_update_all
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

    def update(
        self, gradients: Mapping[str, Array], learning_rate: float | Array, copies: Mapping[str, Array] | None = None
    ) -> None:
        """Moves every parameter one step: weights at `learning_rate` with decay, biases at twice that without.

        On a GPU the rate may be an array of one there, and `copies`, words of bfloat16 by parameter, get the new
        weights.
        """
        if self.network.device == "gpu":
            self._update_at_once(gradients, learning_rate, copies or {})
        else:
            self._update_in_parts(gradients, float(learning_rate))

    def _update_at_once(
        self, gradients: Mapping[str, Array], learning_rate: float | Array, copies: Mapping[str, Array]
    ) -> None:
        rate: Any = learning_rate
        if isinstance(learning_rate, float):
            rate = module_of("gpu").full(1, learning_rate, np.float32)
        updates = [
            ParameterUpdate(w, self.velocities[name], gradients[name], copies.get(name), *self._recipe(name))
            for name, w in self.network.parameters.items()
        ]
        sgd_update_all(updates, rate, self.momentum)

    def _update_in_parts(self, gradients: Mapping[str, Array], rate: float) -> None:
        def update(name_and_part: tuple[str, slice]) -> None:
            name, part = name_and_part
            arrays = (self.network.parameters[name], self.velocities[name], gradients[name])
            w, velocity, dw = (array.reshape(-1)[part] for array in arrays)
            factor, decay = self._recipe(name)
            kernels.sgd_update(w, velocity, dw, factor * rate, self.momentum, decay)

        in_parallel(update, self._parts())

    def _recipe(self, name: str) -> tuple[float, float]:
        """(what the learning rate is multiplied by, weight decay) of a parameter."""
        return (BIAS_RATE, 0.0) if name.endswith(".bias") else (1.0, self.weight_decay)

    def _parts(self) -> Iterator[tuple[str, slice]]:
        for name, parameter in self.network.parameters.items():
            for start in range(0, parameter.size, AT_A_TIME):
                yield name, slice(start, start + AT_A_TIME)
