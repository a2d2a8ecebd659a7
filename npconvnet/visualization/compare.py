"""How gradient, DeconvNet and guided backpropagation part on the way down (Simonyan et al. 2013, section 4).

Everything between two ReLUs is the same under the three rules, so each ReLU is where they part. With y what it put out
and R what arrives at it from above (in the paper X_n and R_{n+1}), it passes on

    gradient: R where y > 0        DeconvNet: R where R > 0        guided: R where both

`compare` sends the same unit down under each rule and measures at every ReLU how far apart the three have come. All
statistics are in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from npconvnet import kernels
from npconvnet.backend import Array, to_host
from npconvnet.kernels.cpu.relu import ReLURule
from npconvnet.layers import ReLU
from npconvnet.network import INPUT, Network
from npconvnet.parallel import one_blas_thread
from npconvnet.visualization.deconvnet import RULES, Unit

#: Each two of the rules.
PAIRS = tuple(combinations(RULES, 2))


@dataclass(frozen=True, slots=True)
class Row:
    """What came of the three reconstructions at one ReLU. NaN stands for a share of nothing, or an angle with it.

    `cosines`: between each two of them, in the order of PAIRS, just below the ReLU: what it passed on.
    `disagreement`: the share of units at which exactly one of y > 0 and R > 0 holds, R being DeconvNet's; counted among
    the units that DeconvNet's signal reaches (R ≠ 0), since outside of the receptive field nothing passes anyway.
    `energy_passed`: ‖passed on‖² / ‖arrived‖² under each rule.
    """

    layer: str
    cosines: tuple[float, ...]
    disagreement: float
    energy_passed: dict[ReLURule, float]

    def to_json(self) -> dict[str, Any]:
        """The fields by name, the cosines by their pair; null for NaN."""
        return {
            "layer": self.layer,
            "cosines": {f"{a}-{b}": _or_none(c) for (a, b), c in zip(PAIRS, self.cosines, strict=True)},
            "disagreement": _or_none(self.disagreement),
            "energy_passed": {rule: _or_none(energy) for rule, energy in self.energy_passed.items()},
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """One unit, whose value was `activation`, sent down to the image under the three rules.

    `rows`: every ReLU that a signal reached, from the top down, and in the end the image ("input"), which has cosines
    only. `reconstructions`: what reached the image, (H, W, 3), by rule.
    """

    unit: Unit
    activation: float
    rows: tuple[Row, ...]
    reconstructions: dict[ReLURule, npt.NDArray[np.float64]]

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures."""
        rows = [row.to_json() for row in self.rows]
        return {"unit": asdict(self.unit), "activation": self.activation, "rows": rows}

    def table(self) -> str:
        """The rows as text."""
        width = max(24, *(len(row.layer) + 1 for row in self.rows), 0)
        lines = [f"{'':<{width}}{'cosine between':^33}{'masks':>10}  {'energy passed on':^33}"]
        pairs = "".join(f"{a[:4]}-{b[:4]:<6}".rjust(11) for a, b in PAIRS)
        lines.append(f"{'':<{width}}{pairs}{'disagree':>10}  " + "".join(f"{rule:>11}" for rule in RULES))
        for row in self.rows:
            cosines = "".join(f"{cosine:11.3f}" for cosine in row.cosines)
            energy = "".join(f"{row.energy_passed[rule]:11.3f}" for rule in RULES)
            lines.append(f"{row.layer:<{width}}{cosines}{row.disagreement:10.1%}  {energy}")
        return "\n".join(lines).replace("nan%", "   -").replace("nan", "  -")


@one_blas_thread()
def compare(network: Network, x: Array, unit: Unit) -> Comparison:
    """Sends `unit` back to one preprocessed image `x` (1, H, W, 3) under each of the three rules.

    Raises ValueError for a layer, channel or position that does not exist.
    """
    relus = [node.name for node in network.nodes if isinstance(node.layer, ReLU)]
    activation, trace = network.forward(x, until=unit.layer, keep=relus)
    dy = unit.derivative(activation)
    arrived = {
        rule: network.backward(trace, dy, relu_rule=rule, parameter_gradients=False, keep=[INPUT, *relus])[1]
        for rule in RULES
    }
    reconstructions = {rule: _float64(arrived[rule][INPUT][0]) for rule in RULES}
    rows = [
        _at_relu(name, trace.kept[name], {rule: arrived[rule][name] for rule in RULES})
        for name in reversed(relus)
        if any(name in arrived[rule] and arrived[rule][name].any() for rule in RULES)
    ]
    image = Row(INPUT, _cosines(reconstructions), math.nan, dict.fromkeys(RULES, math.nan))
    return Comparison(unit, unit.value(activation), (*rows, image), reconstructions)


def _at_relu(name: str, y: Array, arrived: Mapping[ReLURule, Array]) -> Row:
    """The row of a ReLU whose output was `y`. Where other layers read its input too, only its own part counts."""
    passed = {rule: _float64(kernels.relu_backward(arrived[rule], y, rule)) for rule in RULES}
    r = arrived["deconvnet"]
    reached = r != 0
    disagreeing = reached & ((y > 0) != (r > 0))
    return Row(
        layer=name,
        cosines=_cosines(passed),
        disagreement=_ratio(float(disagreeing.sum()), float(reached.sum())),
        energy_passed={rule: _ratio(_energy(passed[rule]), _energy(_float64(arrived[rule]))) for rule in RULES},
    )


def _cosines(vectors: Mapping[ReLURule, npt.NDArray[np.float64]]) -> tuple[float, ...]:
    return tuple(
        _ratio(float(np.vdot(vectors[a], vectors[b])), math.sqrt(_energy(vectors[a]) * _energy(vectors[b])))
        for a, b in PAIRS
    )


def _energy(vector: npt.NDArray[np.float64]) -> float:
    return float(np.vdot(vector, vector))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _or_none(number: float) -> float | None:
    return None if math.isnan(number) else number


def _float64(array: Array) -> npt.NDArray[np.float64]:
    return to_host(array).astype(np.float64)
