"""What holds for all kernels alike, the same numbers on CuPy arrays first of all. A new kernel goes into `CALLS`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from npconvnet import kernels
from npconvnet.kernels import Views, twins
from npconvnet.randomness import Chances, Purpose
from tests.conftest import distinct

X, Y = (2, 7, 6, 4), (2, 4, 3, 6)  # images, and what a 3×2 window by 2 makes of them with the padding below
PADDING = (1, 0, 0, 1)
WINDOW = {"window": (3, 2), "stride": 2, "padding": PADDING, "rounding": "ceil"}
CONV = {"stride": 2, "padding": PADDING, "groups": 2, "rounding": "ceil"}
LRN = {"size": 3, "alpha_per_element": 0.5, "beta": 0.75}


def some_views() -> Views:
    views = Views.plain([0, 1], [2, 0], [True, False])
    views.colour[:] = [[1, 2, 3], [-4, 5, -6]]
    views.erased[:] = [[1, 1, 3, 2], [0, 0, 0, 0]]
    return views


class Draw:
    """Draws the arguments of a call, in the wanted precision."""

    def __init__(self, dtype: Any) -> None:
        self.rng, self.dtype = np.random.default_rng(0), dtype

    def __call__(self, *shape: int) -> Any:
        return distinct(self.rng, shape, self.dtype)

    def integers(self, high: int, *shape: int) -> Any:
        return self.rng.integers(0, high, shape)

    def kept(self, *shape: int) -> Any:
        return self.rng.random(shape) < 0.5

    def pictures(self, *shape: int) -> Any:
        return self.rng.integers(0, 256, shape, np.uint8)


#: The positional and the named arguments of a call of each kernel.
CALLS: dict[str, Callable[[Draw], tuple[list[Any], dict[str, Any]]]] = {
    "conv2d_forward": lambda draw: ([draw(*X), draw(6, 3, 2, 2)], CONV),
    "conv2d_backward_input": lambda draw: ([draw(*Y), draw(6, 3, 2, 2), X], CONV),
    "conv2d_backward_filters": lambda draw: ([draw(*Y), draw(*X), (6, 3, 2, 2)], CONV),
    "conv2d_backward": lambda draw: ([draw(*Y), draw(*X), draw(6, 3, 2, 2)], CONV),
    "with_signal": lambda draw: ([draw(*Y), draw(*Y), draw(6, 3, 2, 2)], {}),
    "bias_forward": lambda draw: ([draw(*X), draw(4)], {}),
    "bias_backward": lambda draw: ([draw(*X)], {}),
    "bias_relu_forward": lambda draw: ([draw(*X), draw(4)], {}),
    "relu_forward": lambda draw: ([draw(*X)], {}),
    "relu_backward": lambda draw: ([draw(*X), draw(*X)], {"rule": "guided"}),
    "max_pool2d": lambda draw: ([draw(*X)], WINDOW),
    "max_pool2d_forward": lambda draw: ([draw(*X)], WINDOW),
    "max_pool2d_backward": lambda draw: ([draw(*Y), draw.integers(6, *Y).astype(np.uint8), (2, 7, 6, 6)], WINDOW),
    "average_pool2d_forward": lambda draw: ([draw(*X)], {**WINDOW, "count_padding": False}),
    "average_pool2d_backward": lambda draw: ([draw(*Y), (2, 7, 6, 6)], WINDOW),
    "global_average_pool2d_forward": lambda draw: ([draw(*X)], {}),
    "global_average_pool2d_backward": lambda draw: ([draw(2, 4), X], {}),
    "lrn_forward": lambda draw: ([draw(*X)], {**LRN, "k": 2.0}),
    "lrn_backward": lambda draw: ([draw(*X), draw(*X), 2 + draw(*X)], LRN),
    "linear_forward": lambda draw: ([draw(3, 5), draw(4, 5)], {}),
    "linear_backward_input": lambda draw: ([draw(3, 4), draw(4, 5)], {}),
    "linear_backward_weights": lambda draw: ([draw(3, 4), draw(3, 5)], {}),
    "dropout": lambda draw: ([draw(*X), draw.kept(*X)], {"rate": 0.3}),
    "draw_kept": lambda draw: ([draw(*X), Chances.of(np.arange(2), 0, Purpose.DROPOUT), 0.3], {}),
    "concatenate_forward": lambda draw: ([[draw(2, 3, 1), draw(2, 3, 2)]], {}),
    "concatenate_backward": lambda draw: ([draw(2, 3, 5), [1, 4]], {}),
    "flatten_forward": lambda draw: ([draw(*X)], {}),
    "flatten_backward": lambda draw: ([draw(2, 168), X], {}),
    "add_forward": lambda draw: ([[draw(*X), draw(*X), draw(*X)]], {}),
    "add_backward": lambda draw: ([draw(*X), 2], {}),
    "softmax": lambda draw: ([draw(3, 5)], {}),
    "softmax_cross_entropy": lambda draw: ([draw(3, 5), draw.integers(5, 3), 4], {}),
    "to_bfloat16": lambda draw: ([draw(*X).astype(np.float32)], {}),
    "from_bfloat16": lambda draw: ([draw.integers(2**16, *X).astype(np.uint16)], {}),
    "sum_of_words": lambda draw: ([draw.integers(2**14, 3, 5).astype(np.uint16)], {}),
    "sgd_update": lambda draw: ([draw(*X), draw(*X), draw(*X), 0.1, 0.9, 5e-4], {}),
    "augment": lambda draw: (
        [draw.pictures(2, 5, 6, 3), some_views()],
        {"crop": 4, "mean": np.full(3, 120, np.float32), "std": np.full(3, 57, np.float32)},
    ),
}

#: The arguments that a kernel is meant to write over, by position.
WRITTEN_OVER = {"bias_forward": [0], "bias_relu_forward": [0], "sgd_update": [0, 1]}

#: They give float32 whatever they are given.
SINGLE_PRECISION = {"augment", "from_bfloat16"}

over_kernels = pytest.mark.parametrize("name", CALLS)


def each_array(convert: Callable[[Any], Any], value: Any) -> Any:
    """`value`, through the lists and tuples and dictionaries in it, with every array in it converted."""
    if isinstance(value, (list, tuple)):
        return type(value)(each_array(convert, part) for part in value)
    if isinstance(value, dict):
        return {key: each_array(convert, part) for key, part in value.items()}
    return convert(value) if hasattr(value, "dtype") else value


def arrays(value: Any) -> list[Any]:
    found: list[Any] = []
    each_array(found.append, value)
    return found


def assert_identical(actual: Any, expected: Any) -> None:
    assert len(arrays(actual)) == len(arrays(expected))
    for a, b in zip(arrays(actual), arrays(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_no_kernel_is_forgotten():
    picked_by_device = {name for name, value in vars(kernels).items() if hasattr(value, "__wrapped__")}
    assert set(CALLS) == picked_by_device


@over_kernels
def test_cupy_arrays_give_the_same_numbers(name, dtype, cupy, monkeypatch):
    monkeypatch.setattr(twins, "cuda_twin", lambda definition: definition)
    kernel = getattr(kernels, name)
    args, kwargs = CALLS[name](Draw(dtype))
    gpu_args, gpu_kwargs = each_array(cupy.asarray, (args, kwargs))

    result, gpu_result = kernel(*args, **kwargs), kernel(*gpu_args, **gpu_kwargs)
    assert all(isinstance(x, cupy.ndarray) for x in arrays(gpu_result))
    assert_identical(each_array(lambda x: x.get(), gpu_result), result)
    assert_identical(each_array(lambda x: x.get(), gpu_args), args)  # what is updated in place


@over_kernels
def test_the_precision_stays(name, dtype):
    args, kwargs = CALLS[name](Draw(dtype))
    floats = [x for x in arrays(getattr(kernels, name)(*args, **kwargs)) if x.dtype.kind == "f"]
    assert [x.dtype for x in floats] == [np.float32 if name in SINGLE_PRECISION else dtype] * len(floats)


@over_kernels
def test_only_what_is_meant_to_be_is_written_over(name, dtype):
    args, kwargs = CALLS[name](Draw(dtype))
    before, _ = CALLS[name](Draw(dtype))
    getattr(kernels, name)(*args, **kwargs)
    for position, (now, then) in enumerate(zip(args, before, strict=True)):
        same = all(np.array_equal(a, b) for a, b in zip(arrays(now), arrays(then), strict=True))
        assert same is (position not in WRITTEN_OVER.get(name, []))


@over_kernels
def test_the_layout_in_memory_does_not_matter(name, dtype):
    """Every array as a view that is not contiguous: backwards give and take such views (unpad_images)."""

    def spread(x):
        holder = np.zeros((*x.shape, 2), x.dtype)
        holder[..., 0] = x
        return holder[..., 0]

    kernel = getattr(kernels, name)
    args, kwargs = CALLS[name](Draw(dtype))
    spread_args, spread_kwargs = each_array(spread, (args, kwargs))
    result, spread_result = kernel(*args, **kwargs), kernel(*spread_args, **spread_kwargs)
    for a, b in zip(arrays([result, args]), arrays([spread_result, spread_args]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_stand_in_lets_nothing_through_unasked(cupy):
    on_gpu, on_cpu = cupy.asarray(np.ones((2, 2))), np.ones((2, 2))
    mistakes: list[Callable[[], Any]] = [
        lambda: np.maximum(on_gpu, 0),
        lambda: np.concatenate([on_gpu, on_gpu]),
        lambda: np.asarray(on_gpu),
        lambda: on_gpu + on_cpu,
        lambda: on_cpu + on_gpu,
        lambda: on_cpu @ on_gpu,
        lambda: on_gpu == on_cpu,
        lambda: on_gpu[np.array([0])],
        lambda: on_gpu.__setitem__(0, on_cpu[0]),
        lambda: on_cpu.__setitem__(0, on_gpu[0]),
        lambda: on_gpu.__iadd__(on_cpu),
        lambda: cupy.where(on_cpu > 0, on_gpu, 0),
        lambda: cupy.zeros((2, on_cpu)),
    ]
    for mistake in mistakes:
        with pytest.raises(TypeError):
            mistake()
    with pytest.raises(AttributeError, match=r"no cupy\.tensordot"):
        cupy.tensordot  # noqa: B018


def test_a_kernel_that_calls_numpy_is_found_out(cupy, monkeypatch):
    """The test above with a mistake planted: relu.py asks for its array module and is always told numpy."""
    monkeypatch.setattr("npconvnet.kernels.cpu.relu.array_module", lambda x: np)
    with pytest.raises(TypeError):
        test_cupy_arrays_give_the_same_numbers("relu_forward", np.float32, cupy, monkeypatch)
