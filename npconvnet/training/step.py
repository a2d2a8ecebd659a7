"""One training step up to the update: forward, loss, backward."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from npconvnet import kernels
from npconvnet.backend import Array
from npconvnet.layers import Gradients
from npconvnet.network import Network
from npconvnet.parallel import in_halves


def loss_and_gradients(
    network: Network, x: Array, labels: Array, dropout: Callable[[int], np.random.Generator] | None = None
) -> tuple[float, Gradients]:
    """The mean cross-entropy over a batch `x` (N, H, W, 3) with its `labels` (N,), and its gradients by parameter.

    `dropout` gives the generator for each half of the batch; without it nothing is dropped.
    """

    def half(number: int, x: Array, labels: Array) -> tuple[float, Gradients]:
        scores, trace = network.forward(x, rng=dropout(number) if dropout else None)
        loss, probabilities = kernels.softmax_cross_entropy_forward(scores, labels)
        d_scores = kernels.softmax_cross_entropy_backward(probabilities, labels)
        d_scores *= len(labels) / count  # the mean is over the batch, not over the half
        _, gradients = network.backward(trace, d_scores, input_gradient=False)
        return float(loss) * len(labels) / count, gradients

    count = len(labels)
    (loss, gradients), *others = in_halves(half, x, labels)
    for other_loss, other_gradients in others:
        loss += other_loss
        for name, gradient in other_gradients.items():
            gradients[name] += gradient
    return loss, gradients
