"""Launches softmax_cross_entropy.cu: what kernels/cpu/softmax_cross_entropy.py computes.

The loss and its gradient come out of one pass over the scores; a second, tiny launch adds the losses of the images up.
"""

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda.arguments import ANY, require
from npconvnet.kernels.cuda.compile import kernel

SOURCE = "softmax_cross_entropy.cu"
#: Threads of a block: a warp, which has a row.
THREADS = 32


def softmax(scores: Array) -> Array:
    """The probabilities, float32 (N, classes), of the `scores`, float32 (N, classes); TypeError for others."""
    scores = require("softmax", "scores", scores, np.float32, (ANY, ANY))
    xp, (images, classes) = array_module(scores), scores.shape
    probabilities: Array = xp.empty(scores.shape, np.float32)
    if probabilities.size:  # CUDA refuses a launch of no blocks
        kernel(xp, SOURCE, "softmax")((images,), (THREADS,), (scores, probabilities, np.int32(classes)))
    return probabilities


def softmax_cross_entropy(
    scores: Array, labels: Array, of: int, dtype: npt.DTypeLike | None = None
) -> tuple[Array, Array]:
    """(loss, dS): float32 () and (N, classes), of `scores`, float32 (N, classes), and `labels`, int64 (N,).

    dS is float32, or words of bfloat16 where `dtype` is uint16. A label that is no class makes the loss NaN. Raises
    TypeError for other arrays.
    """
    name = "softmax_cross_entropy"
    scores = require(name, "scores", scores, np.float32, (ANY, ANY))
    images, classes = scores.shape
    labels = require(name, "labels", labels, np.int64, (images,))
    in_words = dtype == np.uint16

    xp = array_module(scores)
    losses = xp.empty(images, np.float32)
    d_scores: Array = xp.empty(scores.shape, np.uint16 if in_words else np.float32)
    if images:
        arguments = scores, labels, losses, d_scores, np.int32(classes), np.float32(of)
        kernel(xp, SOURCE, f"{name}_in_words" if in_words else name)((images,), (THREADS,), arguments)
    loss: Array = xp.empty((), np.float32)
    kernel(xp, SOURCE, "sum_of_losses")((1,), (THREADS,), (losses, loss, np.int32(images), np.float32(of)))
    return loss, d_scores
