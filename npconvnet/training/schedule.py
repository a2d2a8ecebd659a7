"""Recipes, and the learning rate over a run: cuda-convnet2's ImageNet schedule, "divided in steps by 250 in all".

rate(progress) = base / 250^(⌊progress · steps⌋ / (steps − 1))        progress from 0 to 1, four steps
"""

from dataclasses import dataclass

_STEPS = 4
_TOTAL_DIVISION = 250.0

#: cuda-convnet2's layer files train biases at twice the rate of the weights, and without weight decay.
BIAS_RATE = 2.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long, in what pieces and how fast to train. The rate is for weights, at the start."""

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 5e-4


#: Krizhevsky et al. 2012: 90 epochs in batches of 128 at 0.01.
IMAGENET = Recipe(epochs=90, batch_size=128, learning_rate=0.01)
#: Minutes on two CPU cores.
TOY = Recipe(epochs=12, batch_size=32, learning_rate=0.02)


def learning_rate(base: float, step: int, total_steps: int) -> float:
    """The rate for the update after `step` updates of `total_steps`."""
    stage = min(step * _STEPS // total_steps, _STEPS - 1)
    return float(base / _TOTAL_DIVISION ** (stage / (_STEPS - 1)))
