"""Top-1 and top-5 error, by one view a picture or by the ten of Krizhevsky et al. 2012."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from npconvnet import kernels
from npconvnet.backend import Array, to_device, to_host
from npconvnet.data.batch import Batch
from npconvnet.data.ilsvrc import Dataset, Example
from npconvnet.data.opening import Data
from npconvnet.errors import InputError
from npconvnet.forward_pass import class_scores
from npconvnet.network import Network
from npconvnet.preprocessing import ViewCount
from npconvnet.training.distributed.ranks import ALONE, Ranks


@dataclass(frozen=True, slots=True)
class Errors:
    """Of a number of `pictures`: the share (0 to 1) whose class is not among the 1 or 5 best, and the mean loss."""

    top1: float
    top5: float
    loss: float
    pictures: int

    def to_json(self) -> dict[str, Any]:
        """The fields by name, NaN as None."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


def evaluate(network: Network, batches: Iterable[Batch], views: ViewCount = 1, ranks: Ranks = ALONE) -> Errors:
    """The errors of `network` over `batches`; with ten views the probabilities of the views are averaged.

    Where several `ranks` have a part of the batches each, all of them get the errors over all batches.
    Where there are fewer than five classes, top-5 is right every time. With no picture at all the errors are NaN.
    """
    wrong1 = wrong5 = loss = count = 0.0
    for batch in batches:
        if not len(batch.labels):
            continue
        probabilities = to_host(class_probabilities(network, to_device(batch.squares, network.device), views))
        guesses = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
        right = guesses == batch.labels[:, None]
        wrong1 += float((~right[:, 0]).sum())
        wrong5 += float((~right.any(axis=1)).sum())
        of_truth = probabilities[np.arange(len(batch.labels)), batch.labels]
        loss -= float(np.log(np.maximum(of_truth, np.finfo(np.float32).tiny)).sum())
        count += len(batch.labels)
    wrong1, wrong5, loss, count = ranks.sum(wrong1, wrong5, loss, count)
    if not count:
        return Errors(np.nan, np.nan, np.nan, 0)
    return Errors(wrong1 / count, wrong5 / count, loss / count, int(count))


def class_probabilities(network: Network, squares: Array, views: ViewCount) -> Array:
    """(N, classes), averaged over the views of each of the pictures `squares`, uint8 (N, resize, resize, 3)."""
    scores = class_scores(network, squares, lambda piece: network.preprocessing.views(piece, views))
    mean: Array = kernels.softmax(scores).reshape(len(squares), views, -1).mean(axis=1)
    return mean


def labelled_for(network: Network, dataset: Dataset) -> list[Example]:
    """The validation images of `dataset`, labelled by the places of their wnids among the classes of `network`.

    Raises InputError where the network does not know a class of the data set.
    """
    places = places_of_classes(network, dataset).tolist()
    return [replace(example, label=places[example.label]) for example in dataset.validation]


def places_of_classes(network: Network, data: Dataset | Data) -> npt.NDArray[np.int64]:
    """For each label of `data`, the place of its wnid among the classes of `network`; InputError as above."""
    place = {synset.wnid: index for index, synset in enumerate(network.synsets)}
    unknown = [synset.wnid for synset in data.synsets if synset.wnid not in place]
    if unknown:
        raise InputError(
            f"{data.root}: {len(unknown)} of its {len(data.synsets)} classes, such as {unknown[0]}, are not "
            f"among the {len(place)} that the network was trained on; give the data set that belongs to the weights"
        )
    return np.array([place[synset.wnid] for synset in data.synsets], np.int64)
