"""The Gaussian mixture of colours."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from npconvnet.localization.color_model import (
    LARGEST_SAMPLE,
    REGULARIZATION,
    ColorModel,
    expectation_maximization,
    fit_color_model,
    k_means_plus_plus,
    lloyd,
    maximization,
)


@pytest.fixture
def pixels():
    rng = np.random.default_rng(0)
    spots = [
        rng.normal(mean, 0.05, (200, 3)) @ (np.eye(3) + 0.3) for mean in ([0.1, 0.2, 0.6], [0.5, 0.4, 0.1], [0.3] * 3)
    ]
    return np.concatenate(spots).clip(0, 1)


def test_density_is_that_of_the_mixture(pixels):
    model = fit_color_model(pixels, 3, np.random.default_rng(1))
    density = sum(
        weight * multivariate_normal(mean, covariance).pdf(pixels)
        for weight, mean, covariance in zip(model.weights, model.means, model.covariances, strict=True)
    )
    np.testing.assert_allclose(model.log_density(pixels), np.log(density), rtol=1e-10)
    np.testing.assert_allclose(model.responsibilities(pixels).sum(axis=0), 1)


def test_agrees_with_scikit_learn_from_the_same_start(pixels):
    mixture = pytest.importorskip("sklearn.mixture")
    start = maximization(pixels, np.random.default_rng(2).dirichlet([0.2] * 4, len(pixels)).T)
    theirs = mixture.GaussianMixture(
        4,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=np.linalg.inv(start.covariances),
        reg_covar=REGULARIZATION,
        max_iter=12,
        tol=0,
    )
    with pytest.warns(match="did not converge"):
        theirs.fit(pixels)
    ours = expectation_maximization(pixels, start, 12)
    np.testing.assert_allclose(ours.weights, theirs.weights_, rtol=1e-6)
    np.testing.assert_allclose(ours.means, theirs.means_, rtol=1e-6)
    np.testing.assert_allclose(ours.covariances, theirs.covariances_, rtol=1e-6)
    np.testing.assert_allclose(ours.log_density(pixels), theirs.score_samples(pixels), rtol=1e-6)


def test_em_never_makes_the_pixels_less_likely(pixels):
    model = maximization(pixels, np.random.default_rng(3).dirichlet([1.0] * 5, len(pixels)).T)
    likelihoods = []
    for _ in range(20):
        likelihoods.append(model.log_density(pixels).mean())
        model = expectation_maximization(pixels, model, 1)
    # The regularisation is not a part of the likelihood, so that near the end it may cost a little.
    assert np.diff(likelihoods).min() > -1e-4
    assert likelihoods[-1] > likelihoods[0] + 0.1


def test_finds_the_components_that_made_the_pixels(pixels):
    model = fit_color_model(pixels, 3, np.random.default_rng(4))
    truth = np.array([pixels[:200].mean(axis=0), pixels[200:400].mean(axis=0), pixels[400:].mean(axis=0)])
    distances = np.linalg.norm(truth[:, None] - model.means, axis=-1)
    assert distances.min(axis=1).max() < 0.02
    np.testing.assert_allclose(model.weights, 1 / 3, atol=0.05)


def test_same_seed_same_bits(pixels):
    many = np.tile(pixels, (20, 1))
    assert len(many) > LARGEST_SAMPLE
    a, b, c = (fit_color_model(many, 5, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(a.means, b.means) and np.array_equal(a.covariances, b.covariances)
    assert not np.array_equal(a.means, c.means)


@pytest.mark.parametrize(("colors", "found"), [([(0.2, 0.4, 0.6)], 1), ([(0, 0, 0), (1, 1, 1)], 2)])
def test_no_more_components_than_colors(colors, found):
    pixels = np.repeat(np.array(colors, float), 50, axis=0)
    model = fit_color_model(pixels, 5, np.random.default_rng(0))
    assert len(model.weights) == found
    np.testing.assert_allclose(sorted(model.means.tolist()), colors, atol=1e-12)
    np.testing.assert_allclose(
        model.covariances, np.broadcast_to(REGULARIZATION * np.eye(3), (found, 3, 3)), atol=1e-15
    )


def test_no_pixels_are_refused():
    with pytest.raises(ValueError, match="at least one pixel"):
        fit_color_model(np.empty((0, 3)), 5, np.random.default_rng(0))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(1, 8), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_any_few_pixels_give_a_finite_density(count, components, levels, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, levels, (count, 3)) / max(1, levels - 1)
    model = fit_color_model(pixels, components, rng)
    assert len(model.weights) <= min(components, len(np.unique(pixels, axis=0)))
    assert np.isfinite(model.log_density(np.array([[0.0] * 3, [1.0] * 3, [0.3, 0.9, 0.1]]))).all()
    assert model.weights.sum() == pytest.approx(1)


def test_a_component_without_pixels_keeps_nothing():
    pixels = np.full((10, 3), 0.5)
    model = maximization(pixels, np.eye(2)[:, np.zeros(10, int)])
    assert model.weights[1] < 1e-15
    np.testing.assert_allclose(
        model.log_density(pixels),
        ColorModel(*(f[:1] for f in (model.weights, model.means, model.covariances))).log_density(pixels),
    )


def test_k_means_plus_plus_prefers_far_colors():
    """One far pixel among a thousand is nearly always the second one chosen."""
    pixels = np.concatenate([np.random.default_rng(0).normal(0.1, 0.001, (1000, 3)), [[1.0, 1.0, 1.0]]])
    hits = [(k_means_plus_plus(pixels, 2, np.random.default_rng(seed)) == 1).all(axis=1).any() for seed in range(20)]
    assert sum(hits) == 20


def test_lloyd_moves_means_to_their_pixels_and_leaves_lonely_ones():
    pixels = np.array([[0.0] * 3, [0.2] * 3, [0.8] * 3, [1.0] * 3])
    means = lloyd(pixels, np.array([[0.0] * 3, [1.0] * 3, [9.0] * 3]), 2)
    np.testing.assert_allclose(means[:, 0], [0.1, 0.9, 9.0])
