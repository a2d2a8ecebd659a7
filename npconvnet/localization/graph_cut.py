"""GraphCut colour segmentation: foreground or background for each pixel, by one minimum cut (Boykov and Jolly 2001).

    E(l) = Σ_p −log p(colour_p | l_p)  +  λ Σ_{p,q neighbours, l_p ≠ l_q} exp(−‖I_p − I_q‖² / 2⟨‖ΔI‖²⟩) / |p − q|

over the labellings l that agree with the seeds: pixels whose saliency lies in the upper and in the lower tail of the
map's distribution (Simonyan et al. 2013, section 3.2). The colour models are fitted to the seeds; ⟨‖ΔI‖²⟩ is the mean
over all pairs of neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import maxflow
import numpy as np
import numpy.typing as npt

from npconvnet.errors import InputError
from npconvnet.localization.color_model import fit_color_model
from npconvnet.localization.color_space import rgb_to_lab

FloatArray = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
#: The step (rows, columns) from a pixel to a neighbour, and the weight (H, W) of the edge from each pixel along it.
Edges = dict[tuple[int, int], FloatArray]

#: Each pair of neighbours once: the steps to the right and downwards.
STEPS: dict[int, list[tuple[int, int]]] = {4: [(0, 1), (1, 0)], 8: [(0, 1), (1, 0), (1, 1), (1, -1)]}


@dataclass(frozen=True, slots=True)
class CutOptions:
    """What the paper says of the cut, and our choice for everything that it leaves open, each with the reason."""

    #: The paper's: pixels above this quantile of the saliency map are foreground seeds.
    foreground_quantile: float = 0.95
    #: The paper's: pixels below this quantile are background seeds.
    background_quantile: float = 0.30
    #: Standard deviation of the Gaussian that smooths the map before its quantiles are taken, in shorter sides of the
    #: photo. A gradient is speckled: it vanishes at single pixels in the middle of an object, which would seed the
    #: background there. Networks see the shorter side as some 250 pixels, so that this is about 3 of theirs.
    smoothing: float = 0.012
    #: Standard deviation, in half sides of the photo, of the Gaussian around its middle that the smoothed map is
    #: multiplied by; infinity, the paper's, leaves the map as it is. Photographers aim at their objects, and the map
    #: knows less of the borders, which fewer of the ten views show. From 0.4 to 1 the boxes of photos are about as
    #: good; the narrower it is, the more it misses of the objects that lie aside.
    center_prior: float = 0.8
    #: Gaussians in each colour model: as many as in GrabCut (Rother et al. 2004). 3 to 8 make little difference.
    components: int = 5
    #: λ, in nats: what it costs to part two neighbours of the same colour. Where foreground and background look alike,
    #: the colours of a pixel speak for one or the other by a nat or two; λ outweighs patches of such pixels. From 10 to
    #: 50 it matters little.
    smoothness: float = 50.0
    #: Pixels joined by an edge: 4, or 8 with the diagonals, which measures the length of a slanting outline better but
    #: takes two to three times as long and finds no better boxes.
    neighborhood: Literal[4, 8] = 4
    #: Where colours are modelled and compared: sRGB as it is, or CIE L*a*b* divided by 100. The boxes are as good.
    color_space: Literal["rgb", "lab"] = "rgb"
    #: Cuts; before each one after the first the colour models are fitted again, to the last labelling, as GrabCut does.
    #: 1 is the paper's.
    iterations: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.background_quantile <= self.foreground_quantile <= 1:
            raise InputError("0 <= background_quantile <= foreground_quantile <= 1 is required")
        if self.neighborhood not in STEPS or self.color_space not in ("rgb", "lab"):
            raise InputError("neighborhood is 4 or 8, and color_space 'rgb' or 'lab'")
        if not self.center_prior > 0:
            raise InputError(f"a center prior of {self.center_prior} is none; give a positive number, or inf for none")
        if not (0 <= self.smoothing < math.inf and 0 <= self.smoothness < math.inf):
            raise InputError("smoothing and smoothness have to be finite, and not negative")
        if min(self.components, self.iterations) < 1:
            raise InputError("components and iterations begin at 1")


def seeds(saliency: FloatArray, options: CutOptions) -> tuple[Mask, Mask]:
    """The foreground and the background seeds (H, W) of a saliency map (H, W) that is not the same everywhere.

    Where many pixels share one value, as the zeros of a sparse map do, a quantile cannot part them: then those that
    are not background are foreground, and both have a pixel at least.
    """
    low, high = np.quantile(saliency, [options.background_quantile, options.foreground_quantile])
    background = saliency <= low if low < saliency.max() else saliency < low
    return (saliency >= high) & ~background, background


def segment(
    image: FloatArray, foreground_seeds: Mask, background_seeds: Mask, options: CutOptions, rng: np.random.Generator
) -> Mask:
    """The foreground (H, W) of an RGB image (H, W, 3) on the scale 0–1, grown from its seeds (H, W).

    The seeds keep their labels, so that the foreground is neither empty nor everything. Raises ValueError where either
    has no pixel.
    """
    colors = image if options.color_space == "rgb" else rgb_to_lab(image) / 100  # L* from 0 to 1
    edges = contrast_edges(colors, options)
    foreground, background = foreground_seeds, background_seeds
    for _ in range(options.iterations):
        foreground_cost = color_cost(colors, foreground, options, rng)
        background_cost = color_cost(colors, background, options, rng)
        foreground = cut_with_seeds(foreground_cost, background_cost, foreground_seeds, background_seeds, edges)
        background = ~foreground
    return foreground


def color_cost(colors: FloatArray, region: Mask, options: CutOptions, rng: np.random.Generator) -> FloatArray:
    """−log p (H, W) of each of `colors` (H, W, 3) under the colour model of the pixels in `region` (H, W)."""
    model = fit_color_model(colors[region], options.components, rng)
    return -model.log_density(colors.reshape(-1, 3)).reshape(region.shape)


def contrast_edges(colors: FloatArray, options: CutOptions) -> Edges:
    """The edges between neighbours of an image (H, W, 3), light where its colours change; 0 out of the image."""
    squared = {step: _squared_differences(colors, step) for step in STEPS[options.neighborhood]}
    pairs = sum(int(np.isfinite(differences).sum()) for differences in squared.values())
    mean = sum(float(differences[np.isfinite(differences)].sum()) for differences in squared.values()) / max(pairs, 1)
    scale = 2 * mean or 1.0  # no contrast anywhere: every edge weighs the same
    return {
        step: options.smoothness * np.exp(-differences / scale) / np.hypot(*step)
        for step, differences in squared.items()
    }


def cut_with_seeds(
    foreground_cost: FloatArray, background_cost: FloatArray, foreground: Mask, background: Mask, edges: Edges
) -> Mask:
    """The foreground (H, W) of least energy in which the seeds `foreground` and `background` (H, W) keep their labels.

    A pixel's cost is what its being foreground, or background, adds to the energy; it may be negative.
    """
    # Boykov and Jolly's K: more than any seed can gain by crossing over. The part that both costs share changes nothing
    # about which cut is least, and capacities are not negative.
    firmly = 1 + 2 * sum(weights.max() for weights in edges.values())
    shared = np.minimum(foreground_cost, background_cost)
    to_source = np.where(foreground, firmly, np.where(background, 0, background_cost - shared))
    to_sink = np.where(background, firmly, np.where(foreground, 0, foreground_cost - shared))
    return minimum_cut(to_source, to_sink, edges)[0]


def minimum_cut(source_capacity: FloatArray, sink_capacity: FloatArray, edges: Edges) -> tuple[Mask, float]:
    """The source's side (H, W) of a minimum cut of a grid, and the cut's capacity (Boykov and Kolmogorov 2004).

    Each pixel is joined to the source and to the sink with the capacities given, (H, W), and to its neighbours by
    `edges`, in both directions; an edge that leads out of the grid is left out. Nothing may be negative. Of several
    minimum cuts it is the one with the largest source's side.
    """
    graph = maxflow.GraphFloat(source_capacity.size, 2 * len(edges) * source_capacity.size)
    nodes = graph.add_grid_nodes(source_capacity.shape)
    graph.add_grid_tedges(nodes, source_capacity, sink_capacity)
    for (down, right), weights in edges.items():
        structure = np.zeros((3, 3))
        structure[1 + down, 1 + right] = 1
        graph.add_grid_edges(nodes, weights, structure, symmetric=True)
    capacity = graph.maxflow()
    return ~graph.get_grid_segments(nodes), float(capacity)


def _squared_differences(colors: FloatArray, step: tuple[int, int]) -> FloatArray:
    """‖I_p − I_q‖² (H, W) between each pixel p and the one a `step` away; infinite where that is out of the image."""
    (height, width, _), (down, right) = colors.shape, step
    here = np.s_[: height - down, max(0, -right) : width - max(0, right)]
    there = np.s_[down:, max(0, right) : width + min(0, right)]
    squared = np.full((height, width), np.inf)
    squared[here] = ((colors[there] - colors[here]) ** 2).sum(axis=-1)
    return squared
