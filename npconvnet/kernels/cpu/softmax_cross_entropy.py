"""Softmax, and the cross-entropy of its probabilities with the true class, averaged over the batch.

    p[n, c] = exp(S[n, c]) / Σ_c' exp(S[n, c'])
    loss    = −(1/N) Σ_n log p[n, label[n]]
    dS      = (p − onehot(label)) / N

The largest score of a row is taken off first, which changes nothing but keeps exp from overflowing.
"""

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cpu.bfloat16 import to_bfloat16


def softmax(scores: Array) -> Array:
    """The probabilities (N, classes) of the `scores` (N, classes)."""
    exponentials = array_module(scores).exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: Array = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def softmax_cross_entropy(
    scores: Array, labels: Array, of: int, dtype: npt.DTypeLike | None = None
) -> tuple[Array, Array]:
    """(loss, dS): () and (N, classes), of `scores` (N, classes) and integer `labels` (N,).

    `of` is the N of the formulas: where these pictures are one part of a larger batch, of so many, then the loss and dS
    are its parts of theirs. dS has the type of the scores, or is words of bfloat16 where `dtype` is uint16.
    """
    xp = array_module(scores)
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_probabilities = shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))
    rows = xp.arange(len(labels))
    loss: Array = -log_probabilities[rows, labels].sum() / of
    d_scores: Array = xp.exp(log_probabilities)
    d_scores[rows, labels] -= 1
    d_scores /= of
    return loss, to_bfloat16(d_scores) if dtype == np.uint16 else d_scores
