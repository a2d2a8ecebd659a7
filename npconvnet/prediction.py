"""From a photograph to named classes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from npconvnet import kernels
from npconvnet.backend import to_device, to_host
from npconvnet.forward_pass import class_scores
from npconvnet.network import Network
from npconvnet.preprocessing import Picture, ViewCount


@dataclass(frozen=True, slots=True)
class Guess:
    """One class and how strongly it is meant: `score` is the unnormalised class score, `probability` its softmax."""

    index: int
    wnid: str
    name: str
    score: float
    probability: float

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def classify_picture(network: Network, picture: Picture, views: ViewCount = 1) -> list[Guess]:
    """Every class of `network` for `picture`, uint8 (H, W, 3) of any size, the best first.

    With ten views, scores and probabilities are averaged over the views.
    """
    scores = class_scores(network, to_device(network.preprocess([picture], views), network.device))
    mean_scores = to_host(scores.mean(axis=0))
    probabilities = to_host(kernels.softmax(scores).mean(axis=0))
    return [
        Guess(
            int(index),
            network.synsets[index].wnid,
            network.synsets[index].names,
            float(mean_scores[index]),
            float(probabilities[index]),
        )
        for index in np.argsort(-probabilities, kind="stable")
    ]
