"""One training step up to the update: forward, loss, backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from npconvnet import kernels
from npconvnet.backend import Array
from npconvnet.forward_pass import ForwardPass
from npconvnet.layers import Gradients
from npconvnet.network import Network
from npconvnet.randomness import Chances


def loss_and_gradients(
    network: Network,
    x: Array,
    labels: Array,
    chances: Chances | None = None,
    into: Mapping[str, Array] | None = None,
    of: int | None = None,
    ready: Callable[[Gradients], None] | None = None,
) -> tuple[Array, Gradients]:
    """The mean cross-entropy over a batch `x` (N, H, W, 3) with its `labels` (N,), and its gradients by parameter.

    The loss is an array () on the device, which nobody has waited for. `chances`, those of the N images, are for
    dropout; without them nothing is dropped. The gradients of the step before, given as `into`, may be written over.
    Where `x` is one part of a larger batch, `of` so many images, the loss and the gradients are its parts of theirs:
    those of all parts add up to the mean. `ready` is called with gradients as soon as they are done.
    """
    run = ForwardPass(network, x, chances)
    dtype = np.uint16 if network.precision == "bfloat16" else None
    loss, d_scores = kernels.softmax_cross_entropy(run.scores, labels, of or len(labels), dtype)
    _, gradients = run.backward(d_scores, input_gradient=False, into=into, ready=ready)
    return loss, gradients
