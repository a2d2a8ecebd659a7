"""The colour model of a region: a mixture of Gaussians over its pixels' colours, fitted by EM.

    p(x) = Σ_k w_k N(x; μ_k, Σ_k)

    E:  r_nk = w_k N(x_n; μ_k, Σ_k) / p(x_n)
    M:  w_k = mean_n r_nk     μ_k = Σ_n r_nk x_n / Σ_n r_nk     Σ_k = Σ_n r_nk (x_n − μ_k)(x_n − μ_k)ᵀ / Σ_n r_nk + ε I

Colours are triples on the scale 0–1. Bishop, Pattern Recognition and Machine Learning (2006), section 9.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

#: ε, added to each variance: no component becomes narrower than a standard deviation of 0.01, 2.5 grey levels of 255,
#: which is what noise and JPEG make of a single colour. So a component may stand on one pixel, or on one colour.
REGULARIZATION = 1e-4
#: More pixels than this are thinned out at random before a fit; a few thousand already fix 5 means and covariances.
LARGEST_SAMPLE = 8192
LLOYD_STEPS = 5
EM_ITERATIONS = 15


@dataclass(frozen=True, slots=True)
class ColorModel:
    """A mixture of K Gaussians: `weights` (K,), `means` (K, 3) and `covariances` (K, 3, 3), on the scale 0–1."""

    weights: FloatArray
    means: FloatArray
    covariances: FloatArray

    def log_density(self, pixels: FloatArray) -> FloatArray:
        """log p(x), natural, (N,), of `pixels` (N, 3) on the scale 0–1."""
        return _log_sum_exp(self._log_joint(pixels))

    def responsibilities(self, pixels: FloatArray) -> FloatArray:
        """r (K, N): how probable it is that each component made each of `pixels` (N, 3); the columns add up to 1."""
        joint = self._log_joint(pixels)
        responsibilities: FloatArray = np.exp(joint - _log_sum_exp(joint))
        return responsibilities

    def _log_joint(self, pixels: FloatArray) -> FloatArray:
        """log(w_k N(x_n; μ_k, Σ_k)), (K, N)."""
        joint = np.empty((len(self.weights), len(pixels)))
        for k, (weight, mean, covariance) in enumerate(zip(self.weights, self.means, self.covariances, strict=True)):
            # With Σ = LLᵀ, the squared Mahalanobis distance is that of L⁻¹(x − μ), and log √|Σ| the sum of log diag L.
            factor = np.linalg.cholesky(covariance)
            # einsum, for BLAS would set all its threads on a product so thin, and wait for them.
            whitened = np.einsum("dc,nc->dn", np.linalg.inv(factor), pixels - mean)
            log_normalizer = np.log(np.diag(factor)).sum() + 1.5 * np.log(2 * np.pi)
            joint[k] = np.log(weight) - log_normalizer - (whitened**2).sum(axis=0) / 2
        return joint


def fit_color_model(pixels: FloatArray, components: int, rng: np.random.Generator) -> ColorModel:
    """The colour model of `pixels` (N, 3) on the scale 0–1; the same generator state gives the same bits.

    k-means++ and a few steps of Lloyd's algorithm make the start of a fixed number of EM iterations. There are at most
    `components` Gaussians: as many as there are distinct colours where those are fewer. More than LARGEST_SAMPLE pixels
    are thinned out at random first. Raises ValueError without pixels.
    """
    if len(pixels) == 0:
        raise ValueError("a colour model needs at least one pixel")
    if len(pixels) > LARGEST_SAMPLE:
        pixels = pixels[rng.choice(len(pixels), LARGEST_SAMPLE, replace=False)]
    means = lloyd(pixels, k_means_plus_plus(pixels, components, rng), LLOYD_STEPS)
    nearest = _squared_distances(pixels, means).argmin(axis=1)
    start = maximization(pixels, np.eye(len(means))[:, nearest])
    return expectation_maximization(pixels, start, EM_ITERATIONS)


def expectation_maximization(pixels: FloatArray, model: ColorModel, iterations: int) -> ColorModel:
    """`model` after so many EM iterations on `pixels` (N, 3)."""
    for _ in range(iterations):
        model = maximization(pixels, model.responsibilities(pixels))
    return model


def maximization(pixels: FloatArray, responsibilities: FloatArray) -> ColorModel:
    """The M step: the mixture that fits `pixels` (N, 3) best when component k made the part r_nk (K, N) of pixel n."""
    # A component that lost all its pixels keeps a vanishing weight instead of dividing by zero.
    counts = responsibilities.sum(axis=1) + 10 * np.finfo(np.float64).eps
    means = responsibilities @ pixels / counts[:, None]
    covariances = np.empty((len(counts), 3, 3))
    for k, mean in enumerate(means):
        centred = pixels - mean
        covariances[k] = (responsibilities[k, :, None] * centred).T @ centred / counts[k]
    return ColorModel(counts / counts.sum(), means, covariances + REGULARIZATION * np.eye(3))


def k_means_plus_plus(pixels: FloatArray, components: int, rng: np.random.Generator) -> FloatArray:
    """Up to `components` distinct colours (K, 3) of `pixels` (N, 3), far from each other: the start of k-means.

    The first is drawn uniformly, each further one with a probability proportional to its squared distance from the
    nearest one so far (Arthur and Vassilvitskii 2007).
    """
    chosen = [pixels[rng.integers(len(pixels))]]
    squared = _squared_distances(pixels, chosen[0][None])[:, 0]
    while len(chosen) < components and squared.any():
        chosen.append(pixels[rng.choice(len(pixels), p=squared / squared.sum())])
        squared = np.minimum(squared, _squared_distances(pixels, chosen[-1][None])[:, 0])
    return np.array(chosen)


def lloyd(pixels: FloatArray, means: FloatArray, steps: int) -> FloatArray:
    """`means` (K, 3) after so many steps of k-means; one that no pixel is nearest to stays where it is."""
    for _ in range(steps):
        nearest = np.eye(len(means))[_squared_distances(pixels, means).argmin(axis=1)]  # (N, K)
        counts = nearest.sum(axis=0)[:, None]
        means = np.where(counts > 0, nearest.T @ pixels / np.maximum(counts, 1), means)
    return means


def _squared_distances(pixels: FloatArray, means: FloatArray) -> FloatArray:
    """(N, K); the differences are taken before squaring, so that equal colours are exactly 0 apart."""
    squared: FloatArray = ((pixels[:, None] - means) ** 2).sum(axis=-1)
    return squared


def _log_sum_exp(x: FloatArray) -> FloatArray:
    """log Σ_k exp(x_kn), (N,), of `x` (K, N), without overflow."""
    largest = x.max(axis=0)
    total: FloatArray = largest + np.log(np.exp(x - largest).sum(axis=0))
    return total
