"""The minimum cut against SciPy's maximum flow and against every labelling; edges, seeds and options."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from npconvnet.localization.graph_cut import (
    STEPS,
    CutOptions,
    contrast_edges,
    cut_with_seeds,
    minimum_cut,
    seeds,
    segment,
)


def random_grid(rng, shape, neighborhood, largest=20):
    source, sink = rng.integers(0, largest, (2, *shape)).astype(float)
    return source, sink, {step: rng.integers(0, largest, shape).astype(float) for step in STEPS[neighborhood]}


def links(shape, edges):
    """(p, q, weight) of each edge inside the grid, p and q in scan order."""
    height, width = shape
    for (down, right), weights in edges.items():
        for y, x in np.ndindex(height, width):
            if y + down < height and 0 <= x + right < width:
                yield y * width + x, (y + down) * width + x + right, weights[y, x]


def energy(labels, source, sink, edges):
    """The capacity of the cut with the pixels `labels` (H, W) on the source's side."""
    flat = labels.ravel()
    parted = sum(weight for p, q, weight in links(labels.shape, edges) if flat[p] != flat[q])
    return source[~labels].sum() + sink[labels].sum() + parted


@pytest.mark.parametrize("neighborhood", [4, 8])
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (5, 1), (7, 9)])
@pytest.mark.parametrize("seed", range(5))
def test_capacity_is_the_maximum_flow_of_scipy(shape, neighborhood, seed):
    source, sink, edges = random_grid(np.random.default_rng(seed), shape, neighborhood)
    size = source.size
    capacities = np.zeros((size + 2, size + 2), np.int32)
    capacities[size, :size], capacities[:size, size + 1] = source.ravel(), sink.ravel()
    for p, q, weight in links(shape, edges):
        capacities[p, q] += int(weight)
        capacities[q, p] += int(weight)
    labels, capacity = minimum_cut(source, sink, edges)
    assert capacity == maximum_flow(csr_array(capacities), size, size + 1).flow_value
    assert energy(labels, source, sink, edges) == capacity


@pytest.mark.parametrize("neighborhood", [4, 8])
@pytest.mark.parametrize("seed", range(5))
def test_no_labelling_has_less_energy(neighborhood, seed):
    source, sink, edges = random_grid(np.random.default_rng(seed), (3, 3), neighborhood)
    labels, capacity = minimum_cut(source, sink, edges)
    every = [np.array(bits).reshape(3, 3) for bits in product([False, True], repeat=9)]
    energies = [energy(labelling, source, sink, edges) for labelling in every]
    assert energy(labels, source, sink, edges) == capacity == min(energies)


def test_of_several_minimum_cuts_the_one_with_most_foreground():
    labels, capacity = minimum_cut(np.array([[5.0, 0, 0]]), np.array([[0.0, 0, 5]]), {(0, 1): np.array([[2.0, 2, 9]])})
    assert capacity == 2
    assert labels.tolist() == [[True, True, False]]


@pytest.mark.parametrize("seed", range(5))
def test_seeds_hold_and_the_rest_is_the_best_there_is(seed):
    """Costs of any sign, among all labellings of the pixels that are not seeds."""
    rng = np.random.default_rng(seed)
    foreground_cost, background_cost = rng.normal(0, 3, (2, 3, 3))
    edges = {step: rng.random((3, 3)) * 4 for step in STEPS[8]}
    foreground, background = np.zeros((2, 3, 3), bool)
    foreground[0, 0] = background[2, 2] = True
    foreground_cost[0, 0] = background_cost[2, 2] = 1000  # in vain
    found = cut_with_seeds(foreground_cost, background_cost, foreground, background, edges)
    every = [
        labels
        for bits in product([False, True], repeat=9)
        if (labels := np.array(bits).reshape(3, 3))[0, 0] and not labels[2, 2]
    ]
    energies = [energy(labels, background_cost, foreground_cost, edges) for labels in every]
    assert np.array_equal(found, every[int(np.argmin(energies))])


def test_edges_are_the_formula():
    colors = np.array([[[0, 0, 0], [0, 0, 0.2]], [[0, 0.4, 0], [0, 0, 0]]])
    edges = contrast_edges(colors, CutOptions(smoothness=3, neighborhood=8))
    # ‖ΔI‖²: right 0.04, 0.16; down 0.16, 0.04; to the right and down 0; to the left and down 0.2. Their mean is 0.1.
    assert edges[0, 1][:, 0] == pytest.approx(3 * np.exp([-0.2, -0.8]))
    assert edges[1, 0][0] == pytest.approx(3 * np.exp([-0.8, -0.2]))
    assert edges[1, 1][0, 0] == pytest.approx(3 / np.sqrt(2))
    assert edges[1, -1][0, 1] == pytest.approx(3 / np.sqrt(2) * np.exp(-1))
    assert [
        edges[step][at] for step, at in (((0, 1), (0, 1)), ((1, 0), (1, 0)), ((1, 1), (0, 1)), ((1, -1), (0, 0)))
    ] == [0] * 4


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 3)])
@pytest.mark.parametrize("neighborhood", [4, 8])
def test_edges_of_a_flat_image_all_weigh_the_same(shape, neighborhood):
    edges = contrast_edges(np.full((*shape, 3), 0.3), CutOptions(smoothness=2, neighborhood=neighborhood))
    for p, q, weight in links(shape, edges):
        (y0, x0), (y1, x1) = divmod(p, shape[1]), divmod(q, shape[1])
        assert weight == pytest.approx(2 / np.hypot(y1 - y0, x1 - x0))


def test_seeds_are_the_tails_of_the_map():
    saliency = np.random.default_rng(0).permutation(1000).reshape(20, 50).astype(float)
    foreground, background = seeds(saliency, CutOptions())
    assert foreground.sum() == 50 and saliency[foreground].min() == 950
    assert background.sum() == 300 and saliency[background].max() == 299


@pytest.mark.parametrize(
    ("ones", "expected"),
    [(1, (1, 99)), (50, (50, 50)), (99, (99, 1))],
    ids=["nearly all zero", "half", "nearly all one"],
)
def test_seeds_of_a_map_with_two_values_part_them(ones, expected):
    saliency = (np.arange(100) < ones).astype(float).reshape(10, 10)
    foreground, background = seeds(saliency, CutOptions())
    assert (foreground.sum(), background.sum()) == expected
    assert saliency[foreground].all() and not saliency[background].any()


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=40).filter(lambda values: min(values) < max(values)))
def test_seeds_of_any_map_that_is_not_flat_are_both_there_and_apart(values):
    foreground, background = seeds(np.array([values], float), CutOptions())
    assert foreground.any() and background.any() and not (foreground & background).any()


@pytest.fixture
def disc():
    """A noisy orange disc on noisy blue; three seeds inside and the border outside."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:40, :50]
    inside = (y - 18) ** 2 + (x - 27) ** 2 < 12**2
    image = np.where(inside[..., None], [0.9, 0.5, 0.2], [0.2, 0.4, 0.7]) + rng.normal(0, 0.15, (40, 50, 3))
    foreground, background = np.zeros((2, 40, 50), bool)
    foreground[12:24, 20:30:3] = True
    background[:3] = background[:, :3] = True
    return image.clip(0, 1), foreground, background, inside


@pytest.mark.parametrize("neighborhood", [4, 8])
@pytest.mark.parametrize("color_space", ["rgb", "lab"])
@pytest.mark.parametrize("iterations", [1, 3])
def test_segments_a_disc(disc, neighborhood, color_space, iterations):
    image, foreground, background, inside = disc
    options = CutOptions(neighborhood=neighborhood, color_space=color_space, iterations=iterations)
    found = segment(image, foreground, background, options, np.random.default_rng(0))
    assert (found == inside).mean() > 0.97
    assert found[foreground].all() and not found[background].any()


def test_same_seed_same_bits(disc):
    image, foreground, background, _ = disc
    a, b = (segment(image, foreground, background, CutOptions(), np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(a, b)


@pytest.mark.parametrize(
    "wrong",
    [
        {"foreground_quantile": 0.2},
        {"background_quantile": -0.1},
        {"foreground_quantile": 1.5},
        {"smoothing": -1},
        {"center_prior": 0},
        {"center_prior": float("nan")},
        {"smoothness": -1},
        {"components": 0},
        {"iterations": 0},
        {"neighborhood": 6},
        {"color_space": "hsv"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError):
        CutOptions(**wrong)
