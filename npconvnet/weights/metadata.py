"""What belongs to a network beside its parameters, as texts by name: for files of others that have room for those.

"npconvnet.network" is JSON with the model's name, the preprocessing and the names of the classes. Where the mean is an
image, it stands under "npconvnet.mean": float32, little-endian, (S, S, 3) in RGB, as base64.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from npconvnet.network import Network
from npconvnet.preprocessing import Preprocessing
from npconvnet.synsets import Synset

NETWORK, MEAN = "npconvnet.network", "npconvnet.mean"


def to_metadata(network: Network) -> dict[str, str]:
    """The texts of `network`."""
    header = {
        "model": network.model,
        "preprocessing": network.preprocessing.to_json(),
        "synsets": [[synset.wnid, synset.names] for synset in network.synsets],
    }
    metadata = {NETWORK: json.dumps(header, ensure_ascii=False)}
    if network.preprocessing.mean_image is not None:
        metadata[MEAN] = base64.b64encode(network.preprocessing.mean_image.astype("<f4").tobytes()).decode()
    return metadata


class Described(NamedTuple):
    """What the metadata of a file say of its network."""

    model: str
    preprocessing: Preprocessing
    synsets: tuple[Synset, ...]


def from_metadata(metadata: Mapping[str, str]) -> Described | None:
    """The inverse of `to_metadata`; None where there is nothing of npconvnet. Raises ValueError for anything else."""
    if NETWORK not in metadata:
        return None
    try:
        header = json.loads(metadata[NETWORK])
        fields = header["preprocessing"]
        mean = _mean_image(metadata[MEAN], fields["crop"]) if MEAN in metadata else None
        synsets = tuple(Synset(str(wnid), str(names)) for wnid, names in header["synsets"])
        return Described(str(header["model"]), Preprocessing.from_json(fields, mean), synsets)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"its metadata are not what npconvnet writes ({error!r:.200})") from None


def _mean_image(text: str, crop: int) -> npt.NDArray[np.float32]:
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<f4").reshape(crop, crop, 3)
    except binascii.Error as error:
        raise ValueError(f"the mean image is not base64: {error}") from None
