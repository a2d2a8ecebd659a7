"""Class model visualisation: the picture that a network means by a class (Simonyan et al. 2013, section 2).

    I* = arg max_I  S_c(I) − λ‖I‖²        from the zero image, the weights fixed; shown with the mean image added

I is in grey levels about the mean colour, whatever the network divides its input by, so one recipe suits networks of
different preprocessing: the network sees I / std. The image stays in floating point; nothing is rounded or clipped.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from npconvnet import kernels
from npconvnet.backend import Array, array_module, to_device, to_host
from npconvnet.errors import InputError
from npconvnet.network import Network
from npconvnet.parallel import in_parallel, one_blas_thread
from npconvnet.visualization.saliency import Objective, image_gradients, score_alone

#: What is raised: the class score, or the logarithm of the class's softmax probability.
Goal = Literal["score", "probability"]
#: Pixels; the image comes round its edges long before.
FARTHEST_JITTER = 1000
#: A file is named after so many classes at most.
NAMES_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the ascent goes; the paper leaves the numbers open. Raises InputError for impossible ones.

    The defaults are the paper's plain recipe. `jitter`, `blur` and `total_variation` are later regularisers: 8 pixels
    of jitter alone make whole animals of scattered parts. Chance (`seed`) plays a part with jitter only.
    """

    objective: Goal = "score"
    #: λ, in score per squared grey level: it holds the contrast at some 30 grey levels (root mean square). Twice as
    #: much pales the pictures, half as much fills them with noise.
    l2: float = 4e-6
    #: How far the first iteration moves the image, in grey levels (root mean square); the steps shrink to 0 linearly.
    #: Short steps (1) end in scattered specks, long ones (10 and more) lose more often to a neighbouring class.
    step: float = 5.0
    #: 100 reach about two thirds of the score of 250.
    iterations: int = 200
    #: The image is shifted at random by at most so many pixels, round the edges, before each look at it.
    jitter: int = 0
    #: Standard deviation, in pixels, of a Gaussian that blurs the image after each step (Yosinski et al. 2015).
    blur: float = 0.0
    #: Price of the total variation, in score per grey level (Mahendran & Vedaldi 2015).
    total_variation: float = 0.0
    seed: int = 0

    @classmethod
    def for_objective(cls, objective: Goal, **changes: Any) -> Recipe:
        """The plain recipe for `objective`, with `changes`. For the probability λ is 0.

        ln p_c can't rise above 0, so that at any other price it ends with an image too pale to be seen.
        """
        return cls(**{"objective": objective, "l2": cls().l2 if objective == "score" else 0.0, **changes})

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise InputError(f"{self.iterations} iterations draw nothing; give 1 or more")
        if self.jitter > FARTHEST_JITTER:
            raise InputError(f"a jitter of {self.jitter} pixels is farther than images are wide; give a few pixels")
        if not 0 < self.step < math.inf:
            raise InputError(f"a step of {self.step} grey levels is none; give a number above 0")
        for name in ("l2", "jitter", "blur", "total_variation", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name.replace('_', ' ')} is {getattr(self, name)}; give 0 or a number above it")


@dataclass(frozen=True, slots=True)
class ClassModel:
    """What the ascent for the class `target` ended with.

    `image` (H, W, 3), as the network sees it: `Preprocessing.picture` adds the mean. The network's answer to it: the
    class's `score`, its softmax `probability`, the mean score of the `others`, and the class `top1` that it takes it
    for. `snapshots` are the images after the iterations of these numbers.
    """

    target: int
    image: npt.NDArray[np.float32]
    score: float
    probability: float
    others: float
    top1: int
    snapshots: dict[int, npt.NDArray[np.float32]]


def class_models(
    network: Network,
    targets: Sequence[int],
    recipe: Recipe,
    snapshots: int = 0,
    watch: Callable[[], object] = lambda: None,
) -> list[ClassModel]:
    """The `class_model` of each of `targets`, on the CPU one on each core, which is all that one image keeps busy."""

    def draw(target: int) -> ClassModel:
        return class_model(network, target, recipe, snapshots, watch)

    return [draw(target) for target in targets] if network.device == "gpu" else in_parallel(draw, targets)


@one_blas_thread()
def class_model(
    network: Network,
    target: int,
    recipe: Recipe,
    snapshots: int = 0,
    watch: Callable[[], object] = lambda: None,
) -> ClassModel:
    """The class model of `target`: the same bits for the same recipe, on any number of cores.

    `snapshots` images are kept along the way, the last one among them; `watch` is called after every iteration. Raises
    InputError where there are more snapshots than iterations, and where the ascent diverges or has no gradient to begin
    with.
    """
    if snapshots > recipe.iterations:
        raise InputError(f"{recipe.iterations} iterations make no {snapshots} snapshots; ask for fewer")
    kept_after = {round(recipe.iterations * part / snapshots) for part in range(1, snapshots + 1)}
    kept = {}
    for iteration, image in enumerate(ascend(network, target, recipe), 1):
        if iteration in kept_after:
            kept[iteration] = to_host(image)[0]
        watch()
    with np.errstate(over="ignore", invalid="ignore"):
        scores = to_host(network.scores(image))[0]
    if not np.isfinite(scores).all():
        raise _diverged(network, target, recipe.iterations)
    others = np.delete(scores, target)
    probability = to_host(kernels.softmax(scores[None]))[0, target]
    return ClassModel(
        target,
        to_host(image)[0],
        float(scores[target]),
        float(probability),
        float(others.mean()),
        int(scores.argmax()),
        kept,
    )


def ascend(network: Network, target: int, recipe: Recipe) -> Iterator[Array]:
    """Yields the image (1, H, W, 3), as the network sees it, after every iteration.

    Every step goes along the gradient, and its length is the recipe's: the gradient itself is up to ten times weaker at
    the zero image than later, and differs as much between classes and between networks. Raises InputError as
    `class_model` does.
    """
    crop = network.preprocessing.crop
    image: Array = to_device(np.zeros((1, crop, crop, 3), np.float32), network.device)
    xp = array_module(image)
    std = to_device(np.asarray(network.preprocessing.std, np.float32), network.device)
    by_score = recipe.objective == "score"
    asked, objective = score_alone(network, target) if by_score else (network, log_probability_of(target))
    blur = to_device(blur_matrix(crop, recipe.blur), network.device) if recipe.blur else None
    rng = np.random.default_rng(recipe.seed)
    for iteration in range(recipe.iterations):
        shift = tuple(int(pixels) for pixels in rng.integers(-recipe.jitter, recipe.jitter, 2, endpoint=True))
        with np.errstate(over="ignore", invalid="ignore"):  # an ascent that diverges is reported in one line
            seen = xp.roll(image, shift, (1, 2)) if any(shift) else image
            gradient = _gradient(asked, seen / std, objective) / std
            gradient = xp.roll(gradient, (-shift[0], -shift[1]), (1, 2)) if any(shift) else gradient
            direction = gradient - 2 * recipe.l2 * image
            if recipe.total_variation:
                direction -= recipe.total_variation * total_variation_gradient(image)
            length = float(xp.sqrt((direction * direction).mean()))
            if iteration == 0 and not 0 < length < math.inf:
                raise InputError(
                    f"{_name(network, target)}: the score has no gradient at the zero image; is it trained?"
                )
            if not math.isfinite(length):
                raise _diverged(network, target, iteration)
            if length > 0:  # it is 0 at the maximum itself
                image = image + recipe.step * (1 - iteration / recipe.iterations) / length * direction
            if blur is not None:
                image = blurred(image, blur)
        yield image / std


def log_probability_of(target: int) -> Objective:
    """ln p_c of the softmax: 1 − p_c for the target, −p for every other class, which are lowered.

    p_c itself has the same gradient but for the factor p_c, which is next to nothing where an ascent begins.
    """

    def derivative(scores: Array) -> Array:
        d_scores = -kernels.softmax(scores)
        d_scores[:, target] = 0
        d_scores[:, target] = -d_scores.sum(axis=1)  # 1 − p_c, without its cancellation near p_c = 1
        return d_scores

    return derivative


def total_variation_gradient(image: Array) -> Array:
    """The derivative of the total variation Σ √(Δy² + Δx² + 1) of `image` (N, H, W, 3) with respect to it.

    Δ is the difference to the next pixel below and on the right, within each colour; 1 grey level rounds off the kink.
    """
    xp = array_module(image)
    dy, dx = xp.zeros_like(image), xp.zeros_like(image)
    dy[:, :-1] = image[:, 1:] - image[:, :-1]
    dx[:, :, :-1] = image[:, :, 1:] - image[:, :, :-1]
    length = xp.sqrt(dy * dy + dx * dx + 1)
    dy, dx = dy / length, dx / length
    gradient: Array = -dy - dx
    gradient[:, 1:] += dy[:, :-1]
    gradient[:, :, 1:] += dx[:, :, :-1]
    return gradient


def blur_matrix(size: int, sigma: float) -> npt.NDArray[np.float32]:
    """(size, size): each row a Gaussian of `sigma` pixels about the diagonal, which sums to 1."""
    places = np.arange(size)
    gaussian = np.exp(-((places[:, None] - places) ** 2) / (2 * sigma**2))
    normalised: npt.NDArray[np.float32] = (gaussian / gaussian.sum(axis=1, keepdims=True)).astype(np.float32)
    return normalised


def blurred(image: Array, blur: Array) -> Array:
    """`image` (1, H, W, 3) after `blur`, a `blur_matrix`, of its rows and of its columns."""
    _, height, width, colours = image.shape
    down = (blur @ image.reshape(height, width * colours)).reshape(height, width, colours)
    across: Array = blur @ down  # each row of pixels is a matrix (W, 3)
    return across.reshape(image.shape)


@dataclass(frozen=True, slots=True)
class Files:
    """What is written: the figure and its record always, the figure of the snapshots and the numbers if asked for."""

    figure: Path
    record: Path
    snapshots: Path | None
    numbers: Path | None

    @classmethod
    def beside(cls, figure: Path, snapshots: bool, numbers: Path | None) -> Files:
        """Names for all; raises InputError where the figure's is not one of a PNG."""
        if figure.suffix.lower() != ".png":
            raise InputError(f"{figure}: the figure is a PNG; give a name that ends in .png")
        strip = figure.with_name(f"{figure.stem}_snapshots.png") if snapshots else None
        return cls(figure, figure.with_suffix(".json"), strip, numbers)

    @property
    def paths(self) -> list[Path]:
        """Those that are written."""
        return [path for path in (self.figure, self.record, self.snapshots, self.numbers) if path]


def default_name(network: Network, targets: Sequence[int]) -> str:
    """The file name of a figure, after its classes; of many, after the first and their number."""
    names = [re.sub(r"\W+", "_", _name(network, target).split(",")[0])[:40] for target in targets]
    shown = names if len(names) <= NAMES_SHOWN else [names[0], f"and_{len(names) - 1}_more"]
    return f"class_model_{'_'.join(shown)}.png"


def to_arrays(models: Sequence[ClassModel]) -> dict[str, npt.NDArray[Any]]:
    """Models of one recipe as arrays, the classes along the first axis; snapshots where there are any."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "images": np.stack([model.image for model in models]),
        "targets": np.array([model.target for model in models]),
        "scores": np.array([model.score for model in models], np.float32),
        "probabilities": np.array([model.probability for model in models], np.float32),
        "top1": np.array([model.top1 for model in models]),
    }
    if models[0].snapshots:
        arrays["snapshots"] = np.stack([list(model.snapshots.values()) for model in models])
        arrays["snapshot_iterations"] = np.array(list(models[0].snapshots))
    return arrays


def record(network: Network, weights: str, recipe: Recipe, models: Sequence[ClassModel]) -> dict[str, Any]:
    """What has to be known to make `models` again, and what came of it, as JSON; `weights` is the file's name."""
    return {
        "network": network.name,
        "weights": weights,
        "parameters_sha256": _checksum(network),
        "preprocessing": network.preprocessing.to_json(),
        "recipe": asdict(recipe),
        "computed_with": {
            "npconvnet": version("npconvnet"),
            "numpy": np.__version__,
            "device": network.device,
        },
        "class_models": [
            {
                **_described(network, model.target),
                "score": model.score,
                "probability": model.probability,
                "mean_score_of_others": model.others,
                "top1": _described(network, model.top1),
            }
            for model in models
        ],
    }


def _gradient(network: Network, x: Array, objective: Objective) -> Array:
    gradient, _ = image_gradients(network, x, objective)
    return gradient if gradient.any() else _gradient_through_final_relus(network, x, objective)


def _gradient_through_final_relus(network: Network, x: Array, objective: Objective) -> Array:
    """The gradient as if the ReLUs behind the last layer with parameters were open to what raises a score.

    SqueezeNet has such a ReLU. For 9 of its 1000 classes it is shut all over the zero image: the score is exactly 0,
    and so is its gradient, and the ascent would stand still for ever.
    """
    scores, trace = network.forward(x)
    last = [node.name for node in network.nodes if node.layer.parameters][-1]
    open_to_rises = {"relu_rule": "deconvnet", "parameter_gradients": False}
    d_last, _ = network.backward(trace, objective(scores), stop=last, **open_to_rises)  # type: ignore[arg-type]
    assert d_last is not None
    dx, _ = network.backward(trace, d_last, start=last, parameter_gradients=False)
    assert dx is not None
    return dx


def _diverged(network: Network, target: int, iteration: int) -> InputError:
    return InputError(
        f"{_name(network, target)}: not a finite number after {iteration} iterations; lower the step or l2"
    )


def _name(network: Network, index: int) -> str:
    return network.synsets[index].names


def _described(network: Network, index: int) -> dict[str, Any]:
    return {"index": index, "wnid": network.synsets[index].wnid, "name": _name(network, index)}


def _checksum(network: Network) -> str:
    digest = hashlib.sha256()
    for name, parameter in sorted(network.parameters.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(to_host(parameter)).tobytes())
    return digest.hexdigest()
