"""Image-specific class saliency: which pixels the score of a class depends on (Simonyan et al. 2013, section 3).

    w = ∂S_c / ∂I at the image I₀          M_ij = max_c |w_ijc|, averaged over ten cropped and reflected sub-images

S_c is the unnormalised class score. The same backward gives the signed gradient w itself, gradient × input, SmoothGrad
and integrated gradients; under another ReLU rule it gives the maps of DeconvNet and of guided backpropagation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from npconvnet import kernels
from npconvnet.backend import Array, array_module, to_device, to_host
from npconvnet.forward_pass import ForwardPass
from npconvnet.kernels.cpu.relu import ReLURule
from npconvnet.network import Network
from npconvnet.preprocessing import Picture, ViewCount
from npconvnet.visualization.sub_images import SubImages, cut

#: One class for all images of a batch, or one for each.
Targets = int | Sequence[int] | npt.NDArray[np.integer[Any]]
#: From the class scores (N, classes) to the derivative of what is explained with respect to them.
Objective = Callable[[Array], Array]


def image_gradients(
    network: Network, x: Array, objective: Objective, rule: ReLURule = "gradient"
) -> tuple[Array, Array]:
    """The derivative (N, H, W, 3) of an objective on the scores with respect to the images `x`, and the scores.

    Under another `rule` than "gradient" it is that rule's reconstruction.
    """
    run = ForwardPass(network, x)
    return _sent_back(run, objective(run.scores), rule), run.scores


def class_gradients(network: Network, x: Array, targets: Targets, rule: ReLURule = "gradient") -> tuple[Array, Array]:
    """The derivative (N, H, W, 3) of the class score of each image's target with respect to `x`, and these scores (N,).

    As `image_gradients` of `score_of(targets)`, without computing the scores of other classes where the network lets
    it. Raises ValueError for a class that does not exist.
    """
    alone, objective = score_alone(network, targets)
    gradients, scores = image_gradients(alone, x, objective, rule)
    return gradients, scores[objective(scores) > 0]  # one in each row


def score_alone(network: Network, targets: Targets) -> tuple[Network, Objective]:
    """The network for the classes that `targets` are, and no others; and on its scores the `score_of(targets)`.

    Raises ValueError for a class that does not exist.
    """
    classes, places = np.unique(targets, return_inverse=True)
    return network.for_classes(classes.tolist()), score_of(places)


def score_of(targets: Targets) -> Objective:
    """The class score S_c: its derivative is 1 for the target, 0 for the other classes; one target, or one an image."""

    def derivative(scores: Array) -> Array:
        classes = np.arange(scores.shape[1])
        one_hot = np.broadcast_to(classes, scores.shape) == np.reshape(targets, (-1, 1))
        d_scores: Array = array_module(scores).asarray(one_hot.astype(scores.dtype))
        return d_scores

    return derivative


def saliency_map(gradients: Array) -> Array:
    """M (N, H, W), the maximum magnitude over the colour channels, of `gradients` (N, H, W, 3) (section 3.1)."""
    largest: Array = abs(gradients).max(axis=-1)
    return largest


def gradient_times_input(gradients: Array, x: Array) -> Array:
    """(N, H, W, 3): the first-order part that each number of the input has in the score."""
    product: Array = gradients * x
    return product


def smooth_grad(network: Network, x: Array, targets: Targets, noise: Array) -> Array:
    """SmoothGrad (Smilkov et al. 2017): the signed gradient (N, H, W, 3), averaged over images with noise added.

    `noise` (samples, N, H, W, 3); the authors draw some 50 samples with a standard deviation of 10% to 20% of the range
    of the input.
    """
    alone, objective = score_alone(network, targets)
    mean: Array = array_module(x).zeros_like(x)
    for sample in noise:
        mean += image_gradients(alone, x + sample, objective)[0]
    mean /= len(noise)
    return mean


def integrated_gradients(
    network: Network, x: Array, targets: Targets, baseline: Array | float = 0.0, steps: int = 50
) -> Array:
    """Integrated gradients (Sundararajan et al. 2017): (N, H, W, 3), summing to the rise of the score from `baseline`.

    The gradient is averaged along the straight line from `baseline` (zero is the mean colour) to `x`, by Gauss and
    Legendre's quadrature with `steps` points, and multiplied by the way gone.
    """
    alone, objective = score_alone(network, targets)
    points, weights = np.polynomial.legendre.leggauss(steps)
    way = x - baseline
    mean: Array = array_module(x).zeros_like(x)
    for place, weight in zip((points + 1) / 2, weights / 2, strict=True):
        on_the_way = baseline + float(place) * way
        mean += float(weight) * image_gradients(alone, on_the_way, objective)[0]
    mean *= way
    return mean


@dataclass(frozen=True, slots=True)
class Saliency:
    """What the pixels of one photo mean for one class.

    `map` (H, W) in the photo's own pixels; for each view the preprocessed `inputs` (views, h, w, 3), the raw
    `gradients` in the same shape, and the `scores` (views, classes).
    """

    target: int
    map: npt.NDArray[np.float32]
    inputs: npt.NDArray[np.float32]
    gradients: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]

    @property
    def score(self) -> float:
        """The class score of the target, averaged over the views."""
        return float(self.scores[:, self.target].mean())

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The fields by name, as arrays."""
        return {name: np.asarray(value) for name, value in asdict(self).items()}


def explain(
    network: Network,
    photos: Sequence[Picture],
    target: int | None = None,
    views: ViewCount = 10,
    rule: ReLURule = "gradient",
) -> list[Saliency]:
    """The saliency of `photos`, uint8 (H, W, 3) of any sizes, in one batch, for the class `target`.

    Without a target it is the top-1 class of each photo, by the softmax averaged over the views: no label is used.
    """
    sub_images = [cut(photo, network.preprocessing, views) for photo in photos]
    run = ForwardPass(network, _batch(network, sub_images))
    targets = [ranked[0] for ranked in _ranking(run.scores, views)] if target is None else [target] * len(photos)
    return _saliency(run, sub_images, targets, rule)


def explain_classes(
    network: Network, photo: Picture, top: int, more: Collection[int] = (), views: ViewCount = 10
) -> list[Saliency]:
    """The saliency of one photo for its `top` classes, the best first, and for the classes `more` if not among them."""
    sub_images = [cut(photo, network.preprocessing, views)]
    run = ForwardPass(network, _batch(network, sub_images))
    best = _ranking(run.scores, views)[0][:top]
    return [
        _saliency(run, sub_images, [target], "gradient")[0]
        for target in [*best, *(index for index in more if index not in best)]
    ]


def _batch(network: Network, sub_images: Sequence[SubImages]) -> Array:
    return to_device(np.concatenate([each.inputs for each in sub_images]), network.device)


def _saliency(
    run: ForwardPass, sub_images: Sequence[SubImages], targets: Sequence[int], rule: ReLURule
) -> list[Saliency]:
    """One for each photo and its target."""
    views = len(run.scores) // len(sub_images)
    gradients = _sent_back(run, score_of(np.repeat(targets, views))(run.scores), rule)
    maps, gradients, scores = (to_host(array) for array in (saliency_map(gradients), gradients, run.scores))
    return [
        Saliency(targets[n], each.put_back(maps[part]), each.inputs, gradients[part], scores[part])
        for n, each in enumerate(sub_images)
        for part in [slice(n * views, (n + 1) * views)]
    ]


def _ranking(scores: Array, views: int) -> list[list[int]]:
    """For each photo all classes, the most probable first; the softmax is averaged over its views."""
    probabilities = to_host(kernels.softmax(scores)).reshape(-1, views, scores.shape[1]).mean(axis=1)
    ranking: list[list[int]] = np.argsort(-probabilities, axis=1, kind="stable").tolist()
    return ranking


def _sent_back(run: ForwardPass, d_scores: Array, rule: ReLURule) -> Array:
    """`d_scores` (N, classes), sent back to the images: (N, H, W, 3)."""
    dx, _ = run.backward(d_scores, relu_rule=rule, parameter_gradients=False)
    assert dx is not None  # it was not declined
    return dx
