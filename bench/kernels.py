"""Times every kernel of a training step on a GPU, one by one, at the sizes of each layer, and PyTorch's for the same.

    python bench/kernels.py --device gpu --batch-size 256
    python bench/kernels.py --device gpu --batch-size 256 --precision tf32 --no-lrn
    python bench/kernels.py --device gpu --batch-size 256 --products

Products of bfloat16 can be computed by mma.sync or, where the GPU has it, by wgmma. A training step takes the one that
BY_WGMMA in npconvnet/kernels/cuda/conv2d_tensor_core.py says, and this one is timed. With --products these kernels
alone are timed, by both, and the last lines say what belongs into BY_WGMMA. That is a run of its own, as what goes
wrong in wgmma may end the process.

Each kernel runs first on random numbers that PyTorch computes with too, in float32; one whose result lies farther off
than TOLERANCE is named wrong, and not timed. What it has to compute and to move at least, and the kernels themselves,
are those of bench/floors.py. Times are medians, by CUDA events, with nothing of the operands in the cache.

    of floor = the time that the kernel takes at least at the rates that were measured ÷ the time that it took

PyTorch's are cuDNN's and cuBLAS's in the same precision and channels_last, on the image for conv1 where npconvnet has
cells; without the ReLU where theirs is a kernel of its own. The rest is PyTorch's eager: several kernels, mostly.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, Python looks in bench/ only

from bench.floors import Run, Work, cells_of, runs, work
from bench.gpu import (
    copy_rate,
    gpu_versions,
    matrix_rate,
    median_seconds,
    reason,
    require_cuda,
    require_gpu,
    to_cupy,
    to_torch,
    use_tf32,
)
from bench.measuring import as_line, require_installed, versions
from npconvnet.backend import Array, module_of, to_device
from npconvnet.cli import run
from npconvnet.data.augment import Augmentation
from npconvnet.errors import InputError
from npconvnet.kernels.cpu import augment as augment_on_cpu
from npconvnet.kernels.cpu import space_to_depth
from npconvnet.kernels.cuda.augment import augment_cells, pack_views
from npconvnet.kernels.cuda.conv2d_tensor_core import (
    BY_WGMMA,
    conv2d_backward_filters,
    conv2d_backward_input,
    conv2d_forward,
    conv2d_pool_forward,
    linear_backward_input,
    linear_backward_weights,
    linear_forward,
    using_wgmma,
)
from npconvnet.kernels.cuda.conv2d_wgmma import PROBLEMS, runs_on
from npconvnet.kernels.cuda.convolution_tile import DGRAD, FPROP, WGRAD
from npconvnet.kernels.cuda.dropout import draw_kept, dropout
from npconvnet.kernels.cuda.lrn_max_pool2d import (
    LRNConstants,
    lrn_max_pool2d_backward,
    lrn_max_pool2d_forward,
    relu_max_pool2d_backward,
)
from npconvnet.kernels.cuda.sgd import ParameterUpdate, sgd_update_all
from npconvnet.kernels.cuda.softmax_cross_entropy import softmax_cross_entropy
from npconvnet.kernels.cuda.space_to_depth import Cells, filter_cells, filters_of_cells
from npconvnet.kernels.shapes import NO_PADDING, Pooling
from npconvnet.layers import Conv2d, Linear
from npconvnet.models import MODELS
from npconvnet.network import Network
from npconvnet.randomness import Chances, Purpose

#: Where PyTorch computes.
DEVICE = "cuda"
#: How far a result may lie from PyTorch's in float32: the norm of the difference by the norm.
TOLERANCE = {"bfloat16": 1e-2, "tf32": 5e-4}  # 2.9e-4 come of rounding both operands to 11 bits
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-3, 0.9, 5e-4
#: The products that either multiplier computes, and those of them that each is to compute by wgmma.
PRODUCTS = {"fprop": FPROP, "dgrad": DGRAD, "wgrad": WGRAD}
MULTIPLIERS: Mapping[str, tuple[int, ...]] = {"mma.sync": (), "wgmma": PROBLEMS}
#: How many times faster wgmma has to be to be taken: more than these medians waver.
FASTER = 1.02


@dataclass(frozen=True, slots=True)
class Case:
    """`run()` launches the kernel; `error(result)` is how far off its first result lies; `peer()` is PyTorch's way."""

    run: Callable[[], Any]
    error: Callable[[Any], float]
    peer: Callable[[], Any] | None = None


class Bench:
    """What the cases share: PyTorch, the precision, the network and random numbers."""

    def __init__(self, torch: Any, network: Network, count: int, precision: str) -> None:
        self.torch, self.network, self.count = torch, network, count
        self.dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.words = np.uint16 if precision == "bfloat16" else np.float32
        torch.manual_seed(0)

    def random(self, *shape: int, dtype: Any = None) -> Any:
        """A tensor of normally distributed numbers, in the precision of the bench unless `dtype` is another."""
        return self.torch.randn(shape, device=DEVICE, dtype=dtype or self.dtype)

    def activation(self, *shape: int) -> Any:
        """What a ReLU leaves of such numbers."""
        return self.random(*shape).relu()

    def array(self, x: Any) -> Array:
        """The same numbers to CuPy; channels last and contiguous."""
        return to_cupy(self.torch, x.contiguous())

    def off(self, pairs: Iterable[tuple[Any, Any]]) -> float:
        """The largest relative error of pairs (array, tensor expected)."""
        return max(self._off(to_torch(self.torch, array), expected) for array, expected in pairs)

    def _off(self, found: Any, expected: Any) -> float:
        found, expected = found.double(), expected.double()
        if found.shape != expected.shape:
            raise ValueError(f"the result is {tuple(found.shape)}, and not {tuple(expected.shape)}")
        error: float = ((found - expected).norm() / expected.norm()).item()
        return error


# -- convolutions and linear layers ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Product:
    """The operands of one layer's three products: x, w and dy as npconvnet lays them out, and where the windows lie."""

    x: Any
    w: Any
    bias: Any
    dy: Any
    stride: int = 0
    padding: tuple[int, int, int, int] = NO_PADDING
    groups: int = 1

    @classmethod
    def of(cls, bench: Bench, run: Run, *, cells: bool = True) -> Product:
        """Random operands of the layer of `run`; without `cells` the first layer's are images."""
        layer = run.layer
        k, *rest = layer.parameters["weight"].shape
        if isinstance(layer, Linear):
            x_shape: tuple[int, ...] = (math.prod(run.x_shape),)
            where: dict[str, Any] = {}
        elif run.is_first and cells:
            shape = cells_of(layer, run.x_shape)
            x_shape, rest = shape.shape(1)[1:], list(shape.of_filters.shape(1)[1:])
            where = {"stride": 1}
        else:
            x_shape = run.x_shape
            where = {"stride": layer.stride, "padding": layer.padding, "groups": layer.groups}
        w = bench.random(k, *rest) / math.sqrt(math.prod(rest))
        dy = bench.random(bench.count, *run.y_shape)
        return cls(bench.random(bench.count, *x_shape), w, bench.random(k, dtype=bench.torch.float32), dy, **where)

    @property
    def is_linear(self) -> bool:
        """Whether there are no windows."""
        return not self.stride

    @property
    def where(self) -> tuple[Any, ...]:
        """As npconvnet's convolutions take it."""
        return () if self.is_linear else (self.stride, self.padding, self.groups)

    def float(self) -> Product:
        """The same operands in float32."""
        return Product(self.x.float(), self.w.float(), self.bias, self.dy.float(), *self.where)

    # PyTorch's own, of tensors that it takes for channels_last ones.

    def forward(self, torch: Any) -> Any:
        """y with its bias."""
        functional, bias = torch.nn.functional, self.bias.to(self.x.dtype)
        if self.is_linear:
            return functional.linear(self.x, self.w, bias)
        return _last(functional.conv2d(_first(self.x), _first(self.w), bias, self.stride, self._sides, 1, self.groups))

    def backward(self, torch: Any, to_input: bool) -> Any:
        """dx or dw."""
        if self.is_linear:
            return self.dy @ self.w if to_input else self.dy.T @ self.x
        operands = _first(self.dy), _first(self.x), _first(self.w), None
        where = [self.stride] * 2, list(self._sides), [1, 1], False, [0, 0], self.groups
        found = torch.ops.aten.convolution_backward(*operands, *where, [to_input, not to_input, False])
        return _last(found[0 if to_input else 1])

    @property
    def _sides(self) -> tuple[int, int]:
        top, bottom, left, right = self.padding
        if (top, left) != (bottom, right):
            raise ValueError(f"PyTorch has no convolution with the padding {self.padding}")
        return top, left


def _first(x: Any) -> Any:
    """(N, C, H, W), in channels_last, of (N, H, W, C)."""
    return x.permute(0, 3, 1, 2)


def _last(x: Any) -> Any:
    return x.permute(0, 2, 3, 1)


def _fprop(bench: Bench, run: Run) -> Case:
    torch, p = bench.torch, Product.of(bench, run)
    x, w, bias = bench.array(p.x), bench.array(p.w), bench.array(p.bias)
    is_last = run.name == bench.network.last
    forward = linear_forward if p.is_linear else conv2d_forward
    own = partial(forward, x, w, *p.where, bias=bias, relu=run.relu, dtype=np.float32 if is_last else None)

    def error(y: Array) -> float:
        expected = p.float().forward(torch)
        return bench.off([(y, expected.relu() if run.relu else expected)])

    peer = Product.of(bench, run, cells=False)
    return Case(own, error, lambda: peer.forward(torch))


def _fprop_and_pool(bench: Bench, run: Run) -> Case:
    torch, p, pool = bench.torch, Product.of(bench, run), _pooling(run)
    assert pool is not None
    x, w, bias = bench.array(p.x), bench.array(p.w), bench.array(p.bias)

    def error(result: tuple[Array, Array]) -> float:
        y, switches = result
        activation = p.float().forward(torch).relu()
        return bench.off([(y, _pooled(torch, activation, pool)), (y, _picked(bench, activation, switches, pool))])

    peer = Product.of(bench, run, cells=False)
    return Case(
        lambda: conv2d_pool_forward(x, w, bias, p.stride, p.padding, p.groups, "floor", pool),
        error,
        lambda: _pooled(torch, peer.forward(torch).relu(), pool),
    )


def _dgrad(bench: Bench, run: Run) -> Case:
    p = Product.of(bench, run)
    dy, w = bench.array(p.dy), bench.array(p.w)
    if p.is_linear:
        own: Callable[[], Array] = partial(linear_backward_input, dy, w)
    else:
        own = partial(conv2d_backward_input, dy, w, tuple(p.x.shape), *p.where)
    return Case(
        own, lambda dx: bench.off([(dx, p.float().backward(bench.torch, True))]), lambda: p.backward(bench.torch, True)
    )


def _wgrad(bench: Bench, run: Run) -> Case:
    p, peer = Product.of(bench, run), Product.of(bench, run, cells=False)
    dy, x = bench.array(p.dy), bench.array(p.x)
    if p.is_linear:
        own: Callable[[], Array] = partial(linear_backward_weights, dy, x)
    else:
        own = partial(conv2d_backward_filters, dy, x, tuple(p.w.shape), *p.where)
    return Case(
        own,
        lambda dw: bench.off([(dw, p.float().backward(bench.torch, False))]),
        lambda: peer.backward(bench.torch, False),
    )


# -- ReLU, LRN and pooling -------------------------------------------------------------------------------------------


def _lrn(run: Run) -> LRNConstants | None:
    lrn = run.lrn
    return None if lrn is None else LRNConstants(lrn.size, lrn.alpha_per_element, lrn.beta, lrn.k)


def _pooling(run: Run) -> Pooling | None:
    pool = run.pool
    return None if pool is None else Pooling(pool.window, pool.stride, pool.padding, pool.rounding)


def _normalised(torch: Any, x: Any, lrn: LRNConstants | None) -> Any:
    if lrn is None:
        return x
    alpha = lrn.size * lrn.alpha_per_element
    return _last(torch.nn.functional.local_response_norm(_first(x), lrn.size, alpha, lrn.beta, lrn.k))


def _pooled(torch: Any, x: Any, pool: Pooling | None) -> Any:
    return x if pool is None else _last(torch.nn.functional.max_pool2d(_first(x), **_windows(pool)))


def _windows(pool: Pooling) -> dict[str, Any]:
    """The arguments of PyTorch's pooling."""
    padding, up = (pool.padding[0], pool.padding[2]), pool.rounding == "ceil"
    return {"kernel_size": pool.window, "stride": pool.stride, "padding": padding, "ceil_mode": up}


def _switches(bench: Bench, x: Any, pool: Pooling) -> Any:
    """Those of pooling `x`, uint8, which PyTorch counts from the corner of the image."""
    torch = bench.torch
    _, indices = torch.nn.functional.max_pool2d(_first(x), **_windows(pool), return_indices=True)
    rows, columns = indices // x.shape[2], indices % x.shape[2]  # (N, C, P, Q)
    p, q = (torch.arange(size, device=DEVICE) * pool.stride for size in indices.shape[2:])
    rows, columns = rows + pool.padding[0] - p[:, None], columns + pool.padding[2] - q
    return _last(rows * pool.window[1] + columns).to(torch.uint8)


def _places(bench: Bench, switches: Any, x_shape: tuple[int, ...], pool: Pooling) -> Any:
    """Where in x, taken as one row of numbers, the `switches` point to: int64 in their shape."""
    torch = bench.torch
    n, p, q, c = (torch.arange(size, device=DEVICE) for size in switches.shape)
    offsets = switches.long()
    rows = (p * pool.stride - pool.padding[0])[:, None, None] + offsets // pool.window[1]
    columns = (q * pool.stride - pool.padding[2])[:, None] + offsets % pool.window[1]
    return ((n[:, None, None, None] * x_shape[1] + rows) * x_shape[2] + columns) * x_shape[3] + c


def _picked(bench: Bench, x: Any, switches: Array, pool: Pooling) -> Any:
    """What the switches point to."""
    places = _places(bench, to_torch(bench.torch, switches), tuple(x.shape), pool)
    return x.reshape(-1)[places]


def _unpooled(bench: Bench, dy: Any, switches: Any, x_shape: tuple[int, ...], pool: Pooling) -> Any:
    """dy, added up where the switches point."""
    places = _places(bench, switches, x_shape, pool)
    dx = bench.torch.zeros(math.prod(x_shape), device=DEVICE)
    return dx.index_add_(0, places.reshape(-1), dy.float().reshape(-1)).reshape(x_shape)


def _lrn_and_pool(bench: Bench, run: Run) -> Case:
    torch, lrn, pool = bench.torch, _lrn(run), _pooling(run)
    x = bench.activation(bench.count, *run.y_shape)
    array = bench.array(x)

    def error(result: tuple[Array, Array | None]) -> float:
        y, switches = result
        normalised = _normalised(torch, x.float(), lrn)
        pairs = [(y, _pooled(torch, normalised, pool))]
        if switches is not None and pool is not None:
            pairs.append((y, _picked(bench, normalised, switches, pool)))
        return bench.off(pairs)

    return Case(
        lambda: lrn_max_pool2d_forward(array, lrn, pool),
        error,
        lambda: _pooled(torch, _normalised(torch, x, lrn), pool),
    )


def _lrn_and_pool_backward(bench: Bench, run: Run) -> Case:
    torch, lrn, pool = bench.torch, _lrn(run), _pooling(run)
    x, dy = bench.activation(bench.count, *run.y_shape), bench.random(bench.count, *run.pooled_shape)
    switches = None if pool is None else _switches(bench, _normalised(torch, x.float(), lrn), pool)
    own_x, own_dy, own_switches = bench.array(x), bench.array(dy), None if pool is None else bench.array(switches)

    def error(result: tuple[Array, Array]) -> float:
        leaf = x.float().requires_grad_()
        d_pooled = dy.float() if pool is None else _unpooled(bench, dy, switches, tuple(x.shape), pool)
        (dx,) = torch.autograd.grad(_normalised(torch, leaf, lrn), leaf, d_pooled)
        dz = torch.where(x > 0, dx, 0)
        return bench.off([(result[0], dz), (result[1], dz.sum((0, 1, 2)))])

    peer = _backward_of(torch, x, dy, lambda z: _pooled(torch, _normalised(torch, z.relu(), lrn), pool))
    return Case(lambda: lrn_max_pool2d_backward(own_dy, own_x, own_switches, lrn, pool), error, peer)


def _pool_backward(bench: Bench, run: Run) -> Case:
    torch, pool = bench.torch, _pooling(run)
    assert pool is not None
    x, dy = bench.activation(bench.count, *run.y_shape), bench.random(bench.count, *run.pooled_shape)
    y, switches, x_shape = _pooled(torch, x, pool), _switches(bench, x, pool), tuple(x.shape)
    own_dy, own_y, own_switches = bench.array(dy), bench.array(y), bench.array(switches)

    def error(result: tuple[Array, Array]) -> float:
        dz = _unpooled(bench, torch.where(y > 0, dy, 0), switches, x_shape, pool)
        return bench.off([(result[0], dz), (result[1], dz.sum((0, 1, 2)))])

    peer = _backward_of(torch, x, dy, lambda z: _pooled(torch, z.relu(), pool))
    return Case(lambda: relu_max_pool2d_backward(own_dy, own_y, own_switches, x_shape, pool, "gradient"), error, peer)


def _backward_of(torch: Any, x: Any, dy: Any, forward: Callable[[Any], Any]) -> Callable[[], Any]:
    """PyTorch's backward through `forward`, from `dy`, and the gradient of a bias before it; `x` is where it begins."""

    @cache
    def graph() -> tuple[Any, Any, Any]:
        leaf = x.detach().requires_grad_()
        y = forward(leaf)
        return y, leaf, dy.to(y.dtype)

    def backward() -> Any:
        (dz,) = torch.autograd.grad(*graph(), retain_graph=True)
        return dz.sum((0, 1, 2))

    return backward


def _relu_backward(bench: Bench, run: Run) -> Case:
    torch = bench.torch
    y, dy = bench.activation(bench.count, *run.y_shape), bench.random(bench.count, *run.y_shape)
    arrays, axes = (bench.array(dy), bench.array(y)), tuple(range(dy.ndim - 1))

    def error(result: tuple[Array, Array]) -> float:
        dz = torch.where(y > 0, dy, 0).float()
        return bench.off([(result[0], dz), (result[1], dz.sum(axes))])

    return Case(
        lambda: lrn_max_pool2d_backward(*arrays, None, None, None),
        error,
        lambda: torch.ops.aten.threshold_backward(dy, y, 0).sum(axes),
    )


def _bias_backward(bench: Bench, run: Run) -> Case:
    """Where no ReLU follows, as behind the class scores."""
    dy = bench.random(bench.count, *run.y_shape)
    array, axes = bench.array(dy), tuple(range(dy.ndim - 1))
    return Case(
        lambda: lrn_max_pool2d_backward(array, None, None, None, None, None),
        lambda result: bench.off([(result[1], dy.float().sum(axes))]),
        lambda: dy.sum(axes),
    )


# -- what comes before, between and after ----------------------------------------------------------------------------


def _augment(bench: Bench, run: Run) -> Case:
    layer, preprocessing = run.layer, bench.network.preprocessing
    assert isinstance(layer, Conv2d)
    crop, resize, cells = preprocessing.crop, preprocessing.resize, cells_of(layer, run.x_shape)
    squares = np.random.default_rng(0).integers(0, 256, (bench.count, resize, resize, 3), np.uint8)
    views = Augmentation().draw(0, 0, np.arange(bench.count), preprocessing, 60 * np.eye(3))
    mean, std = np.full(3, 127.5, np.float32), np.full(3, 73.9, np.float32)
    packed = pack_views(views, bench.count, (resize - crop, resize - crop)).view(np.uint8)
    on_gpu, own_views, own_mean, own_std = (to_device(array, "gpu") for array in (squares, packed, mean, std))

    def error(found: Array) -> float:
        x = augment_on_cpu.augment(squares, views, crop, mean, std)
        expected = np.zeros(cells.shape(bench.count), np.float32)
        expected[..., : 3 * layer.stride**2] = space_to_depth.image_cells(x, layer.window, layer.stride, cells.windows)
        return bench.off([(found, bench.torch.from_numpy(expected).to(DEVICE))])

    return Case(lambda: augment_cells(on_gpu, own_views, crop, own_mean, own_std, cells, bench.words), error)


def _filter_cells(bench: Bench, run: Run) -> Case:
    w, cells = _first_filters(bench, run)
    own = bench.array(w)

    def error(found: Array) -> float:
        return bench.off([(found, _cut(bench, w, cells))])

    return Case(lambda: filter_cells(own, cells, bench.words), error)


def _filters_of_cells(bench: Bench, run: Run) -> Case:
    """Of the cells of some filters: those filters again."""
    w, cells = _first_filters(bench, run)
    own = bench.array(_cut(bench, w, cells))
    return Case(lambda: filters_of_cells(own, tuple(w.shape), cells), lambda found: bench.off([(found, w)]))


def _first_filters(bench: Bench, run: Run) -> tuple[Any, Cells]:
    """Random filters, float32 (K, R, S, 3), and how they are cut."""
    assert isinstance(run.layer, Conv2d)
    w = bench.random(*run.layer.parameters["weight"].shape, dtype=bench.torch.float32)
    return w, cells_of(run.layer, run.x_shape)


def _cut(bench: Bench, w: Any, cells: Cells) -> Any:
    """The cells of the filters `w`, float32, by kernels/cpu/space_to_depth.py."""
    shape = cells.of_filters.shape(len(w))
    cut = np.zeros(shape, np.float32)
    cut[..., : 3 * cells.stride**2] = space_to_depth.filter_cells(w.cpu().numpy(), cells.stride)
    return bench.torch.from_numpy(cut).to(DEVICE)


def _softmax(bench: Bench, run: Run) -> Case:
    torch = bench.torch
    scores = bench.random(bench.count, *run.y_shape, dtype=torch.float32)
    labels = torch.randint(run.y_shape[0], (bench.count,), device=DEVICE)
    arrays = bench.array(scores), bench.array(labels)

    def loss_and_gradient() -> tuple[Any, Any]:
        leaf = scores.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(leaf, labels)
        return loss.detach(), torch.autograd.grad(loss, leaf)[0]

    def error(result: tuple[Array, Array]) -> float:
        return bench.off(zip(result, loss_and_gradient(), strict=True))

    return Case(lambda: softmax_cross_entropy(*arrays, bench.count, bench.words), error, loss_and_gradient)


def _dropout(bench: Bench, run: Run) -> Case:
    assert run.dropout is not None
    torch, rate = bench.torch, run.dropout.rate
    x, chances = bench.random(bench.count, *run.pooled_shape), Chances.of(np.arange(bench.count), 0, Purpose.DROPOUT)
    array, on_gpu = bench.array(x), Chances(to_device(chances.items, "gpu"), to_device(chances.key, "gpu"))

    def own() -> tuple[Array, Array]:
        kept = draw_kept(array, on_gpu, rate)
        return kept, dropout(array, kept, rate)

    def error(result: tuple[Array, Array]) -> float:
        kept = to_torch(torch, result[0]).bool()
        if abs(kept.float().mean().item() - (1 - rate)) > 5 / math.sqrt(x.numel()):
            raise ValueError(f"another share than {1 - rate} is kept")
        return bench.off([(result[1], torch.where(kept, x.float() / (1 - rate), 0))])

    return Case(own, error, lambda: torch.nn.functional.dropout(x, rate))


def _dropout_backward(bench: Bench, run: Run) -> Case:
    assert run.dropout is not None
    torch, rate = bench.torch, run.dropout.rate
    dy = bench.random(bench.count, *run.pooled_shape)
    kept = torch.rand(dy.shape, device=DEVICE) >= rate
    arrays = bench.array(dy), bench.array(kept.byte()).view(np.bool_)
    return Case(
        lambda: dropout(*arrays, rate),
        lambda dx: bench.off([(dx, torch.where(kept, dy.float() / (1 - rate), 0))]),
        lambda: torch.ops.aten.native_dropout_backward(dy, kept, 1 / (1 - rate)),
    )


def _sgd(bench: Bench, _run: None) -> Case:
    torch, float32 = bench.torch, bench.torch.float32
    shapes = [parameter.shape for parameter in bench.network.parameters.values()]
    w, velocity, dw = ([bench.random(*shape, dtype=float32) for shape in shapes] for _ in range(3))
    words = [x.to(torch.bfloat16) if bench.words == np.uint16 else None for x in w]
    before = [(x.clone(), v.clone()) for x, v in zip(w, velocity, strict=True)]
    updates = [
        ParameterUpdate(
            bench.array(x), bench.array(v), bench.array(d), None if h is None else bench.array(h), 1, WEIGHT_DECAY
        )
        for x, v, d, h in zip(w, velocity, dw, words, strict=True)
    ]
    rate = to_device(np.array([LEARNING_RATE], np.float32), "gpu")

    def error(_: None) -> float:
        errors = []
        for update, (x, v), gradient in zip(updates, before, dw, strict=True):
            v = MOMENTUM * v - LEARNING_RATE * (gradient + WEIGHT_DECAY * x)
            errors += [(update.velocity, v), (update.w, x + v)]
            if update.words is not None:
                errors.append((update.words, x + v))
        before.clear()
        return bench.off(errors)

    parameters = [x.clone().requires_grad_() for x in w]
    optimizer = torch.optim.SGD(parameters, LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY, fused=True)
    for parameter, gradient in zip(parameters, dw, strict=True):
        parameter.grad = gradient.clone()
    return Case(lambda: sgd_update_all(updates, rate, MOMENTUM), error, optimizer.step)


#: What makes the case of a kernel of bench/floors.py for a run of layers.
CASES: Mapping[str, Callable[[Bench, Any], Case]] = {
    "augment": _augment,
    "filter cells": _filter_cells,
    "fprop": _fprop,
    "fprop+pool": _fprop_and_pool,
    "lrn+pool": _lrn_and_pool,
    "dropout": _dropout,
    "softmax": _softmax,
    "dropout backward": _dropout_backward,
    "bias backward": _bias_backward,
    "relu backward": _relu_backward,
    "pool backward": _pool_backward,
    "lrn+pool backward": _lrn_and_pool_backward,
    "wgrad": _wgrad,
    "filters of cells": _filters_of_cells,
    "dgrad": _dgrad,
    "sgd": _sgd,
}


# -- measuring -------------------------------------------------------------------------------------------------------


def measure(
    bench: Bench,
    items: Iterable[Work],
    precision: str,
    rates: tuple[float, float],
    repetitions: int,
    both_multipliers: bool = False,
) -> Iterator[dict[str, Any]]:
    """What came of each kernel, a row of the report each; `rates` are FLOP/s and bytes/s.

    Products have what came of `both_multipliers`, if asked, under "by".
    """
    by_name = {run.name: run for run in runs(bench.network)}
    for item in items:
        row: dict[str, Any] = {"kernel": item.kernel, "layer": item.layer, "flop": item.flop, "bytes": item.bytes}
        try:
            case = CASES[item.kernel](bench, by_name.get(item.layer))
        except Exception as error:
            yield row | {"failed": reason(error)}
            continue
        use_tf32(bench.torch, on=False)
        if both_multipliers and item.kernel in PRODUCTS:
            row |= _by_both(case, PRODUCTS[item.kernel], precision, repetitions)
        else:
            row |= _checked_and_timed(case, precision, repetitions)
        if "seconds" in row:
            row["of_floor"] = item.seconds(*rates) / row["seconds"]
            row |= _peer_timed(bench.torch, case, precision, repetitions)
        yield row


def _by_both(case: Case, product: int, precision: str, repetitions: int) -> dict[str, Any]:
    """What came of either multiplier, and of the one that a training step takes."""
    by = {}
    for multiplier, products in MULTIPLIERS.items():
        with using_wgmma(products):
            by[multiplier] = _checked_and_timed(case, precision, repetitions)
    return by["wgmma" if product in BY_WGMMA else "mma.sync"] | {"by": by}


def _checked_and_timed(case: Case, precision: str, repetitions: int) -> dict[str, Any]:
    try:
        error = case.error(case.run())
        if not error <= TOLERANCE[precision]:
            return {"error": error, "failed": f"wrong: it is off by {error:.1e}"}
        return {"error": error, "seconds": median_seconds(case.run, repetitions)}
    except Exception as failed:
        return {"failed": reason(failed)}


def _peer_timed(torch: Any, case: Case, precision: str, repetitions: int) -> dict[str, Any]:
    if case.peer is None:
        return {}
    use_tf32(torch, on=precision == "tf32")
    try:
        return {"torch_seconds": median_seconds(case.peer, repetitions)}
    except Exception as failed:
        return {"torch_failed": reason(failed)}


# -- reporting -------------------------------------------------------------------------------------------------------


def as_text(report: Mapping[str, Any]) -> str:
    """The report as an aligned table."""
    lrn = "" if report["lrn"] else " without LRN"
    title = f"kernels of a training step of {report['model']}{lrn}, {report['precision']}, batch {report['batch_size']}"
    return "\n".join(
        [
            f"{title}, medians of {report['repetitions']}",
            as_line(report["versions"]),
            f"measured: {report['matrix_rate'] / 1e12:.0f} TFLOP/s of a large product, "
            f"{report['copy_rate'] / 1e12:.2f} TB/s of a large copy",
            "",
            f"{'kernel':<17} {'layer':<6} {'µs':>8} {'TFLOP/s':>8} {'GB/s':>6} {'of floor':>8} "
            f"{'torch µs':>9} {'ratio':>6}  {'error':>7} {'mma.sync':>8} {'wgmma':>8}",
            *(_line(row) for row in report["rows"]),
            *_sums(report),
            *verdicts(report["rows"]),
        ]
    )


def _line(row: Mapping[str, Any]) -> str:
    begin = f"{row['kernel']:<17} {row['layer']:<6}"
    if "failed" in row:
        return f"{begin} {row['failed']}"
    seconds, peer = row["seconds"], row.get("torch_seconds")
    flop = f"{row['flop'] / seconds / 1e12:.1f}" if row["flop"] else ""
    torch = f"{1e6 * peer:>9.1f} {peer / seconds:>6.2f}" if peer else f"{row.get('torch_failed', '')[:16]:>16}"
    numbers = f"{1e6 * seconds:>8.1f} {flop:>8} {row['bytes'] / seconds / 1e9:>6.0f} {row['of_floor']:>8.0%}"
    by = "".join(f" {_microseconds(row, multiplier):>8}" for multiplier in MULTIPLIERS)
    return f"{begin} {numbers} {torch}  {row['error']:>7.1e}{by}"


def _microseconds(row: Mapping[str, Any], multiplier: str) -> str:
    found = row.get("by", {}).get(multiplier, {})
    return f"{1e6 * found['seconds']:.1f}" if "seconds" in found else found.get("failed", "")[:6]


def _sums(report: Mapping[str, Any]) -> Iterator[str]:
    timed = [row for row in report["rows"] if "seconds" in row]
    seconds, floor = sum(row["seconds"] for row in timed), sum(row["seconds"] * row["of_floor"] for row in timed)
    yield f"{len(timed)} of {len(report['rows'])} kernels: {1e3 * seconds:.2f} ms, their floor {1e3 * floor:.2f} ms"


def verdicts(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Of each product that both multipliers were to compute: how many times faster wgmma is, and where it belongs."""
    by_both = [row for row in rows if "by" in row]
    for product in PRODUCTS:
        by_layer = {row["layer"]: row["by"] for row in by_both if row["kernel"] == product}
        if by_layer:
            words, is_faster = _compared(by_layer)
            verdict = "put {} into" if is_faster else "leave {} out of"
            yield f"wgmma / mma.sync, {product}: {words}; {verdict.format(product.upper())} BY_WGMMA"


def _compared(by_layer: Mapping[str, Mapping[str, Any]]) -> tuple[str, bool]:
    """How many times faster wgmma is in all layers together, and in each; or what failed. And whether to take it."""
    for layer, by in by_layer.items():
        for multiplier, found in by.items():
            if "failed" in found:
                return f"{layer} by {multiplier} {found['failed']}", False
    mma, wgmma = ([by[multiplier]["seconds"] for by in by_layer.values()] for multiplier in MULTIPLIERS)
    ratios = ", ".join(f"{layer} {a / b:.2f}" for layer, a, b in zip(by_layer, mma, wgmma, strict=True))
    ratio = sum(mma) / sum(wgmma)
    return f"{ratio:.2f} ({ratios})", ratio > FASTER


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--device", type=click.Choice(["gpu"]), default="gpu", help="Where to compute.")
@click.option("--batch-size", type=click.IntRange(1), default=256, help="Images.")
@click.option("--model", type=click.Choice(["paper", "tiny"]), default="paper", help="Whose layers.")
@click.option("--lrn/--no-lrn", default=True, help="Local response normalisation (model paper only).")
@click.option("--precision", type=click.Choice(list(TOLERANCE)), default="bfloat16", help="What to compute in.")
@click.option("--products", is_flag=True, help="Only fprop, dgrad and wgrad, by wgmma, too, where the GPU has it.")
@click.option("--layer", help="Only the kernels of this layer, such as conv2.")
@click.option("--repetitions", type=click.IntRange(1), default=20, help="Timed launches of each.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def main(
    device: str,
    batch_size: int,
    model: str,
    lrn: bool,
    precision: str,
    products: bool,
    layer: str | None,
    repetitions: int,
    as_json: bool,
) -> None:
    """Check and time every kernel of a training step on a GPU, beside PyTorch's."""
    require_gpu()
    if not lrn and model != "paper":
        raise InputError(f"--no-lrn: model {model} has no such option; it goes with --model paper")
    require_installed("bench/kernels.py", "torch", "pip install torch, in its CUDA build")
    require_cuda("bench/kernels.py")
    torch = import_module("torch")
    torch.backends.cudnn.benchmark = True
    network = MODELS[model](**({} if lrn else {"lrn": False}))
    items = [item for item in work(network, batch_size, precision) if layer in (None, item.layer)]
    items = [item for item in items if item.kernel in PRODUCTS] if products else items
    if not items:
        raise InputError(f"--layer {layer}: there is none; there are {', '.join(run.name for run in runs(network))}")
    rates = matrix_rate(torch, precision), copy_rate()
    bench = Bench(torch, network, batch_size, precision)
    both = products and precision == "bfloat16" and runs_on(module_of("gpu"))
    rows = [*measure(bench, tqdm(items, "kernels", leave=False), precision, rates, repetitions, both)]
    report = {
        "model": model,
        "lrn": lrn,
        "precision": precision,
        "batch_size": batch_size,
        "repetitions": repetitions,
        "versions": versions("torch") | gpu_versions(),
        "matrix_rate": rates[0],
        "copy_rate": rates[1],
        "rows": rows,
    }
    click.echo(json.dumps(report, indent=2) if as_json else as_text(report))


if __name__ == "__main__":
    run(main)
