"""Softmax, and the cross-entropy of its probabilities with the true class, averaged over the batch.

    p[n, c] = exp(S[n, c]) / Σ_c' exp(S[n, c'])
    loss    = −(1/N) Σ_n log p[n, label[n]]
    dS      = (p − onehot(label)) / N

The largest score of a row is taken off first, which changes nothing but keeps exp from overflowing.
"""

from npconvnet.backend import Array, array_module


def softmax(scores: Array) -> Array:
    """The probabilities (N, classes) of the `scores` (N, classes)."""
    exponentials = array_module(scores).exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: Array = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def softmax_cross_entropy_forward(scores: Array, labels: Array) -> tuple[Array, Array]:
    """(loss, probabilities): a scalar and (N, classes), of `scores` (N, classes) and integer `labels` (N,)."""
    xp = array_module(scores)
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_sum = xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))
    log_probabilities = shifted - log_sum
    loss = -log_probabilities[xp.arange(len(labels)), labels].mean()
    return loss, xp.exp(log_probabilities)


def softmax_cross_entropy_backward(probabilities: Array, labels: Array) -> Array:
    """dS (N, classes) of the mean loss, from the `probabilities` of the forward."""
    xp = array_module(probabilities)
    d_scores: Array = probabilities.copy()
    d_scores[xp.arange(len(labels)), labels] -= 1
    d_scores /= len(labels)
    return d_scores
