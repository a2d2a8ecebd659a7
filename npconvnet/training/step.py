"""One training step up to the update: forward, loss, backward."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from npconvnet import kernels
from npconvnet.backend import Array
from npconvnet.forward_pass import ForwardPass
from npconvnet.layers import Gradients
from npconvnet.network import Network


def loss_and_gradients(
    network: Network,
    x: Array,
    labels: Array,
    rng: np.random.Generator | None = None,
    into: Mapping[str, Array] | None = None,
) -> tuple[float, Gradients]:
    """The mean cross-entropy over a batch `x` (N, H, W, 3) with its `labels` (N,), and its gradients by parameter.

    `rng` is for dropout; without it nothing is dropped. The gradients of the step before, given as `into`, may be
    written over.
    """
    run = ForwardPass(network, x, rng)
    loss, probabilities = kernels.softmax_cross_entropy_forward(run.scores, labels)
    d_scores = kernels.softmax_cross_entropy_backward(probabilities, labels)
    _, gradients = run.backward(d_scores, input_gradient=False, into=into)
    return float(loss), gradients
