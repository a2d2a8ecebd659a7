"""Recipes, and the learning rate over a run: a short linear rise, then half a cosine down to nothing.

    rate(p) = base · min(p / w, (1 + cos(π · (p − w) / (1 − w))) / 2)        p: progress from 0 to 1, w: warm-up

cuda-convnet2 divides its rate in four steps by 250 in all. In a run of a dozen epochs that ends with most of the error
still there; the cosine (Loshchilov & Hutter 2017) goes down as far and wastes no epoch on the way.
"""

import math
from dataclasses import dataclass

_WARM_UP = 0.1

#: cuda-convnet2's layer files train biases at twice the rate of the weights, and without weight decay.
BIAS_RATE = 2.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long, in what pieces and how fast to train. The rate is for weights, at its highest."""

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 5e-4


#: Krizhevsky et al. 2012: 90 epochs in batches of 128 at 0.01.
IMAGENET = Recipe(epochs=90, batch_size=128, learning_rate=0.01)
#: Minutes on two CPU cores: small batches, because many small steps learn more from a few thousand pictures.
TOY = Recipe(epochs=10, batch_size=16, learning_rate=0.01)


def learning_rate(base: float, step: int, total_steps: int) -> float:
    """The rate for the update after `step` updates of `total_steps`; never 0."""
    progress = (step + 0.5) / total_steps
    rise = progress / _WARM_UP
    fall = (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP))) / 2
    return base * min(rise, fall)
