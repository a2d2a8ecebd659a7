"""Stochastic gradient descent with momentum and weight decay (Krizhevsky et al. 2012, section 5).

    v ← momentum · v − learning_rate · (dw + weight_decay · w)
    w ← w + v

Both are updated in place.
"""

from npconvnet.backend import Array


def sgd_update(
    w: Array, velocity: Array, dw: Array, learning_rate: float, momentum: float, weight_decay: float
) -> None:
    """Moves `w` one step and `velocity` with it; `dw` is left as it is. All of one shape."""
    velocity *= momentum
    velocity -= learning_rate * dw
    if weight_decay:
        velocity -= (learning_rate * weight_decay) * w
    w += velocity
