"""What every competitor of bench/train_step.py does, on either device."""

from __future__ import annotations

from dataclasses import dataclass

import click
import numpy as np

from npconvnet.backend import Array, Device
from npconvnet.errors import InputError
from npconvnet.models import MODELS
from npconvnet.network import Network

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
#: Small: however many steps are timed, the network stays near its beginning and its numbers ordinary.
LEARNING_RATE = 1e-3


@dataclass(frozen=True, slots=True)
class Workload:
    """What every competitor does: a training step or, in `inference`, the class scores; None leaves it its threads."""

    model: str
    lrn: bool
    batch_size: int
    device: Device
    inference: bool
    threads: int | None

    def network(self) -> Network:
        """The network with its initial weights; the same ones every time."""
        network = MODELS[self.model](**({} if self.lrn else {"lrn": False}))
        network.initialize(np.random.default_rng(0))
        return network

    def batch(self, network: Network) -> tuple[Array, Array]:
        """Random images and labels; the same ones every time."""
        rng = np.random.default_rng(1)
        images = rng.standard_normal((self.batch_size, *network.shapes["input"]), np.float32)
        return images, rng.integers(0, network.shapes[network.last][0], self.batch_size)


def read_batch_sizes(_context: click.Context, _option: click.Parameter, value: str) -> list[int]:
    """The whole numbers in `value`, separated by commas."""
    sizes = [int(part) for part in value.split(",") if part.strip().isdecimal()]
    if len(sizes) != value.count(",") + 1 or min(sizes) < 1:
        raise InputError(f"--batch-size {value}: give whole numbers from 1, separated by commas, such as 16,64")
    return sizes
