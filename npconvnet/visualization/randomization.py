"""Does a map look at the class and at the weights at all? Sanity checks by randomisation (Adebayo et al. 2018).

Cascading randomisation: from the last layer down, the parameters of one layer after the other are drawn anew, and after
each the map of a class is compared with the trained network's map of that class. A map of what the network has learnt
has to change. Before the cascade, the trained network's map of another class is compared in the same way.

The measure is Spearman's rank correlation of the maps of magnitudes, one of Adebayo's: it needs no common scale. A map
that is 0 everywhere has none. Such maps can occur where a ReLU stands behind the layer of the classes, as it does in
SqueezeNet: closed for a class everywhere, it sends no gradient back. That correlation is undefined, not 0: such runs
are left out of the mean, and counted.

Observed with the bundled SqueezeNet on assets/chelsea.jpg (mean of three runs, seed 0):

                            gradient   deconvnet   guided
    another class              0.617       0.998    0.985
    conv10 randomised          0.592       0.998    0.975
    fire6 to conv10            0.556       0.909    0.965
    every layer                0.412       0.546    0.600

The maps of DeconvNet and guided backpropagation hardly depend on the class or the upper weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from npconvnet.backend import Array, to_host
from npconvnet.errors import InputError
from npconvnet.kernels.cpu.relu import ReLURule
from npconvnet.network import Network
from npconvnet.parallel import one_blas_thread
from npconvnet.randomness import Purpose, generator
from npconvnet.visualization.deconvnet import RULES
from npconvnet.visualization.saliency import saliency_map, score_of

#: A map (H, W) by rule.
Maps = dict[ReLURule, npt.NDArray[np.float32]]
#: The first stage of every run.
OTHER_CLASS = "another class"
#: Averages are over so many runs.
RUNS = 3


@dataclass(frozen=True, slots=True)
class SanityCheck:
    """What became of the maps of one class.

    `stages`: another class, then the layers in the order in which they were randomised. `correlations` (runs, stages)
    by rule: with the trained network's map, NaN where undefined. `maps` (1 + stages, H, W) by rule: the trained
    network's map, and those of the first run.
    """

    stages: tuple[str, ...]
    correlations: dict[ReLURule, npt.NDArray[np.float64]]
    maps: dict[ReLURule, npt.NDArray[np.float32]]

    def mean(self, rule: ReLURule) -> npt.NDArray[np.float64]:
        """The correlation at each stage, averaged over the runs where it is defined; NaN where it is in none."""
        defined = ~np.isnan(self.correlations[rule])
        total = np.where(defined, self.correlations[rule], 0).sum(axis=0)
        return np.where(defined.any(axis=0), total / np.maximum(defined.sum(axis=0), 1), math.nan)

    def table(self) -> str:
        """The mean correlation at each stage and under each rule, as text; last, how often it was undefined."""
        runs = len(self.correlations["gradient"])
        width = max(24, *(len(stage) + 1 for stage in self.stages))
        lines = [
            f"rank correlation with the trained network's map, mean of {runs} runs",
            f"{'randomised down to':<{width}}" + "".join(f"{rule:>11}" for rule in RULES),
        ]
        for stage, *means in zip(self.stages, *map(self.mean, RULES), strict=True):
            lines.append(f"{stage:<{width}}" + "".join(f"{mean:11.3f}" for mean in means).replace("nan", "  -"))
        undefined = [int(np.isnan(self.correlations[rule]).sum()) for rule in RULES]
        if any(undefined):
            lines.append(f"{'maps that were all zero':<{width}}" + "".join(f"{count:>11}" for count in undefined))
        return "\n".join(lines)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Everything by name, for a file: `stages`, and for each rule RULE_correlations and RULE_maps."""
        correlations = {f"{rule}_correlations": values for rule, values in self.correlations.items()}
        maps = {f"{rule}_maps": values for rule, values in self.maps.items()}
        return {"stages": np.array(self.stages), **correlations, **maps}


def stage_names(network: Network) -> tuple[str, ...]:
    """The stages of one run: another class, and the layers with parameters, the last first."""
    return OTHER_CLASS, *(node.name for node in reversed(network.nodes) if node.layer.parameters)


def randomize(network: Network, x: Array, target: int, rng: np.random.Generator) -> Iterator[Maps]:
    """One run: the maps of a preprocessed image `x` (1, H, W, 3) at each of the `stage_names`, one after the other.

    The other class is drawn from `rng`, and so are the parameters, by He's rule. `network` stays as it is.
    Raises InputError for a network of one class.
    """
    classes = len(network.synsets)
    if classes == 1:
        raise InputError(f"{network.name} knows one class only; the check compares it with another")
    yield class_maps(network, x, (target + int(rng.integers(1, classes))) % classes)
    network = copy.deepcopy(network)
    for node in reversed(network.nodes):
        if node.layer.parameters:
            node.layer.initialize(rng)
            yield class_maps(network, x, target)


def randomize_often(network: Network, x: Array, target: int, seed: int) -> Iterator[Maps]:
    """The maps of RUNS runs, each with a generator of its own, one after the other."""
    for run in range(RUNS):
        yield from randomize(network, x, target, generator(seed, Purpose.INITIALIZE, run))


def summarize(stages: tuple[str, ...], trained: Maps, randomized: Iterable[Maps]) -> SanityCheck:
    """Compares the maps of whole runs, `randomized`, with those of the `trained` network."""
    first_run: list[Maps] = [trained]
    correlations: dict[ReLURule, list[float]] = {rule: [] for rule in RULES}
    for maps in randomized:
        if len(first_run) <= len(stages):
            first_run.append(maps)
        for rule in RULES:
            correlations[rule].append(rank_correlation(trained[rule], maps[rule]))
    return SanityCheck(
        stages,
        {rule: np.reshape(correlations[rule], (-1, len(stages))) for rule in RULES},
        {rule: np.stack([maps[rule] for maps in first_run]) for rule in RULES},
    )


def class_maps(network: Network, x: Array, target: int) -> Maps:
    """The map of a class under each rule: the maximum magnitude over the colours, for an image `x` (1, H, W, 3)."""
    scores, trace = network.forward(x)
    maps: Maps = {}
    for rule in RULES:
        dx, _ = network.backward(trace, score_of(target)(scores), relu_rule=rule, parameter_gradients=False)
        assert dx is not None  # it was not declined
        maps[rule] = to_host(saliency_map(dx)[0])
    return maps


@one_blas_thread()
def rank_correlation(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Spearman's rank correlation of two maps of one shape; equals share a rank. NaN where one has no ranks."""
    if a.min() == a.max() or b.min() == b.max():
        return math.nan
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
