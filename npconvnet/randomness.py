"""One generator for each random choice of a run, made from the seed, what it is for, and where the run stands.

So nothing random depends on what was drawn before: an interrupted run goes on with the same bits, and an image is
cropped and coloured in the same way whichever batch or process it falls to.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a generator is for. The numbers are part of every run's random state: never renumber."""

    INITIALIZE = 0
    SHUFFLE = 1
    AUGMENT = 2
    DROPOUT = 3


def generator(seed: int, purpose: Purpose, *position: int) -> np.random.Generator:
    """The generator for `purpose` at `position`, such as (epoch, image); all numbers are non-negative."""
    return np.random.default_rng([seed, purpose, *position])
