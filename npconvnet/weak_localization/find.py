"""From a photo to objects with boxes, by a network that was never shown a box."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from npconvnet.localization.graph_cut import CutOptions
from npconvnet.localization.localize import Localization, localize
from npconvnet.network import Network
from npconvnet.preprocessing import Picture
from npconvnet.synsets import Synset
from npconvnet.visualization.saliency import explain_classes


@dataclass(frozen=True, slots=True)
class FoundObject:
    """A class, its score (unnormalised, averaged over ten views), and where it is.

    `saliency` (H, W) and all that `found` holds are in the photo's own pixels.
    """

    index: int
    synset: Synset
    score: float
    saliency: npt.NDArray[np.float32]
    found: Localization

    def __str__(self) -> str:
        x0, y0, x1, y1 = self.found.box
        note = f"  ({self.found.note})" if self.found.note else ""
        return f"{self.score:8.2f}  {self.synset.wnid}  {self.synset.names}  box {x0} {y0} {x1} {y1}{note}"

    def to_json(self) -> dict[str, Any]:
        """Class, score, box as [x0, y0, x1, y1] with both ends inside, and the note where nothing was found."""
        return {
            "index": self.index,
            "wnid": self.synset.wnid,
            "name": self.synset.names,
            "score": self.score,
            "box": list(self.found.box),
            "note": self.found.note,
        }


def find_objects(
    network: Network,
    photo: Picture,
    top: int = 5,
    more: Collection[int] = (),
    options: CutOptions | None = None,
    seed: int = 0,
) -> list[FoundObject]:
    """The objects of the `top` classes of a photo, uint8 (H, W, 3), the best first, and then of the classes `more`."""
    return [
        FoundObject(
            index=saliency.target,
            synset=network.synsets[saliency.target],
            score=saliency.score,
            saliency=saliency.map,
            found=localize(photo, saliency.map, options, seed),
        )
        for saliency in explain_classes(network, photo, top, more)
    ]
