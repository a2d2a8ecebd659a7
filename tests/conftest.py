"""What many tests share: fixtures, and the checks of numbers that several files make."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings

from npconvnet.data.ilsvrc import open_dataset
from npconvnet.data.toy import make_toy
from npconvnet.models import MODELS
from npconvnet.parallel import threads, use_threads
from npconvnet.preprocessing import Preprocessing
from npconvnet.weights import save_network
from tests import stand_in_cupy

# The same examples in every run, and no timing: a test fails for everyone or for nobody.
settings.register_profile("npconvnet", derandomize=True, deadline=None, max_examples=100, database=None)
settings.load_profile("npconvnet")

# A shell makes what it starts in the background deaf to Ctrl-C, and with it the processes that tests start and stop.
signal.signal(signal.SIGINT, signal.default_int_handler)

Numbers = npt.NDArray[Any]

#: The largest difference allowed to another implementation, relative to the largest number.
TOLERANCE = {"float32": 1e-4, "float64": 1e-10}
#: The largest mean difference allowed through ReLUs in float32, relative to the mean number. One unit makes up to 1e-3.
MEAN_TOLERANCE = 1e-2


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Any:
    return np.dtype(request.param)


@pytest.fixture
def own_threads() -> Iterator[int]:
    """The number of threads that nobody has set; sets it back afterwards."""
    yield threads()
    use_threads(None)


@pytest.fixture
def torch() -> Any:
    """PyTorch; tests that compare with it are skipped where it isn't installed."""
    return pytest.importorskip("torch")


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The stand-in, in cupy's place for the time of one test."""
    stand_in_cupy.take_the_place_of_cupy(monkeypatch)
    return stand_in_cupy


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small toy set; not to be written to."""
    root = tmp_path_factory.mktemp("toy") / "set"
    make_toy(root, seed=1, train_per_class=2, validation_per_class=3)
    return root


@pytest.fixture(scope="session")
def checkpoint(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weight file of a random network for the classes of the toy set."""
    network = MODELS["tiny"]()
    network.initialize(np.random.default_rng(0))
    network.preprocessing = Preprocessing(73, 64, (120, 120, 120), (60, 60, 60))
    network.synsets = open_dataset(toy).synsets
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_network(path, network)
    return path


def distinct(rng: np.random.Generator, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float64) -> Numbers:
    """Numbers between −1 and 1 in random order, no two of them equal and none of them 0: no ties and no kinks."""
    size = int(np.prod(shape))
    return ((rng.permutation(size) + 0.25) * (2 / size) - 1).reshape(shape).astype(dtype)


def to_nchw(x: Numbers, torch: Any) -> Any:
    """The PyTorch tensor (N, C, H, W) of images (N, H, W, C), or (K, C, R, S) of filters (K, R, S, C)."""
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def from_nchw(x: Any) -> Numbers:
    """Images (N, H, W, C) of a PyTorch tensor (N, C, H, W); the inverse of `to_nchw`."""
    images: Numbers = x.detach().numpy().transpose(0, 2, 3, 1)
    return images


def assert_close(actual: Any, expected: Any) -> None:
    """Same shape, and equal but for rounding errors of the type of `expected`; also of that type."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    largest = np.abs(expected).max(initial=1e-30)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[expected.dtype.name] * largest)


def assert_close_through_relus(actual: Numbers, expected: Numbers) -> None:
    """`assert_close` of what came back through the ReLUs of a whole network; in float32 only in the mean.

    Among millions of float32 activations some are 0 but for rounding. On which side of 0 they lie depends on the
    processor, and where two implementations differ, so does every pixel that such a unit sees, and both are right.
    """
    if expected.dtype == np.float32:
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype
        assert np.abs(actual - expected).mean() <= MEAN_TOLERANCE * np.abs(expected).mean()
    else:
        assert_close(actual, expected)


def assert_is_gradient(f: Callable[[Numbers], Numbers], x: Numbers, dx: Numbers, dy: Numbers) -> None:
    """⟨dx, v⟩ is the slope of ⟨f, dy⟩ at `x` along v, by float64 central differences, for three random v."""
    assert x.dtype == np.float64
    assert dx.shape == x.shape
    rng, step = np.random.default_rng(1), 1e-5
    for _ in range(3):
        v = rng.choice([-1.0, 1.0], x.shape)  # every number moves by the same length: none reaches another
        slope = np.vdot((f(x + step * v) - f(x - step * v)) / (2 * step), dy)
        assert np.vdot(dx, v) == pytest.approx(slope, rel=1e-6, abs=1e-8)


def assert_adjoint(x: Numbers, ax: Numbers, y: Numbers, aty: Numbers) -> None:
    """⟨A x, y⟩ = ⟨x, Aᵀ y⟩, which makes Aᵀ the one right backward of a linear A."""
    assert (ax.shape, x.shape) == (y.shape, aty.shape)
    assert np.vdot(ax, y) == pytest.approx(np.vdot(x, aty), rel=1e-10, abs=1e-12)
