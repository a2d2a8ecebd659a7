"""Convolution with stride 1 by Winograd's algorithm: the same sums, with a fraction of the multiplications.

First along one axis (Winograd 1980; Lavin & Gray 2016). m outputs of a filter with r taps depend on n = m + r − 1
inputs. Transposed, that is the product of two polynomials with m and r coefficients, which has n coefficients and so
is known from its values at n points; and at each point the value of the product is ONE product of two values. That is
n multiplications where the definition takes m·r. The points are fixed, so to evaluate at them (A for the polynomial
of the outputs, G for the filter's) and to interpolate (B) is to multiply by a small constant matrix:

    y = Aᵀ [(G w) ⊙ (Bᵀ x)]            A (n, m)    G (n, r)    B (n, n)

In two dimensions both axes are transformed; one matrix, the Kronecker product, does both. The images are cut into
tiles of n×n pixels, which overlap by r − 1 and give m×m outputs each. Channels and filters are summed between the
transforms, where each of the n² points has a matrix product of its own:

    V = Bᵀ x   (n², tiles, C)      U = G w   (n², K, C)      M = V Uᵀ   (n², tiles, K)      y = Aᵀ M

Each step is linear, and the two backwards are its adjoint, step by step in the other direction:

    D = A dy   (n², tiles, K)      dV = D U,   dx = B dV      dU = Dᵀ V,   dw = Gᵀ dU

All overwrite their result. What they give differs from the definition by rounding: in float32 by some 1e-5 of the
largest number, for up to 8 points. A ninth would make that 3e-4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array
from npconvnet.kernels.cpu.product import product
from npconvnet.kernels.cpu.scratch import scratch
from npconvnet.kernels.cpu.tiles import add_tiles, cut_tiles, place_tiles
from npconvnet.kernels.shapes import Padding
from npconvnet.parallel import even_parts

#: The polynomials are evaluated at the first n − 1 of these and at infinity. Both their small powers and their
#: differences stay near 1, which keeps the rounding small.
POINTS = tuple(Fraction(point) for point in ("0", "1", "-1", "2", "-1/2", "-2", "1/2"))
MOST_POINTS = len(POINTS) + 1
#: A matrix product of so many tiles is efficient; more images at once would only overflow the cache.
TILES_AT_ONCE = 100

Pair = tuple[int, int]


def winograd_forward(x: Array, w: Array, padding: Padding, tile: Pair) -> Array:
    """y (N, P, Q, K) of the images `x` (N, H, W, C) and the filters `w` (K, R, S, C), `tile` outputs at a time."""
    tiles = _Tiles((x.shape[1], x.shape[2]), (w.shape[1], w.shape[2]), padding, tile, x.dtype)
    u = tiles.of_filters(w.transpose(3, 1, 2, 0))  # (n², C, K): BLAS is slow at few rows times a transposed matrix
    y = np.empty((len(x), *tiles.outputs, len(w)), x.dtype)
    for block in tiles.blocks(len(x)):
        tiles.to_outputs(_product("products", tiles.of_images(x[block]), u), y[block])
    return y


def winograd_backward_input(dy: Array, w: Array, x_shape: tuple[int, ...], padding: Padding, tile: Pair) -> Array:
    """dx (N, H, W, C) of `dy` (N, P, Q, K) through the filters `w`."""
    tiles = _Tiles((x_shape[1], x_shape[2]), (w.shape[1], w.shape[2]), padding, tile, dy.dtype)
    u, dx = tiles.of_filters(w), np.empty(x_shape, dy.dtype)
    for block in tiles.blocks(len(dy)):
        tiles.to_images(_product("products", tiles.of_outputs(dy[block]), u), dx[block])
    return dx


def winograd_backward_filters(dy: Array, x: Array, w_shape: tuple[int, ...], padding: Padding, tile: Pair) -> Array:
    """dw (K, R, S, C) of `dy` (N, P, Q, K) and the images `x` that the filters saw."""
    tiles = _Tiles((x.shape[1], x.shape[2]), (w_shape[1], w_shape[2]), padding, tile, dy.dtype)
    du = np.empty((tiles.points, w_shape[0], w_shape[3]), dy.dtype)
    for number, block in enumerate(tiles.blocks(len(dy))):
        _add_product(du, tiles.of_outputs(dy[block]).transpose(0, 2, 1), tiles.of_images(x[block]), number == 0)
    return tiles.to_filters(du)


def winograd_backward(dy: Array, x: Array, w: Array, padding: Padding, tile: Pair) -> tuple[Array, Array]:
    """(dx, dw), both of the above, which share D."""
    tiles = _Tiles((x.shape[1], x.shape[2]), (w.shape[1], w.shape[2]), padding, tile, dy.dtype)
    u, dx = tiles.of_filters(w), np.empty(x.shape, dy.dtype)
    du = np.empty_like(u)
    for number, block in enumerate(tiles.blocks(len(dy))):
        d = tiles.of_outputs(dy[block])
        tiles.to_images(_product("products", d, u), dx[block])
        _add_product(du, d.transpose(0, 2, 1), tiles.of_images(x[block]), number == 0)
    return dx, tiles.to_filters(du)


class _Tiles:
    """The three transforms of images that are cut into tiles, each beside its adjoint."""

    def __init__(self, size: Pair, window: Pair, padding: Padding, tile: Pair, dtype: npt.DTypeLike) -> None:
        top, bottom, left, right = padding
        self.tile, self.window = tile, window
        self.outputs = size[0] + top + bottom - window[0] + 1, size[1] + left + right - window[1] + 1  # P, Q
        self.tiles = -(-self.outputs[0] // tile[0]), -(-self.outputs[1] // tile[1])  # down and across an image
        self.extent = tile[0] + window[0] - 1, tile[1] + window[1] - 1  # n, n
        self.points = self.extent[0] * self.extent[1]
        self.corner = top, left  # the last tiles may reach beyond the image and its padding: zeros stand there, too
        self.a, self.g, self.b = _transforms(tile, window, np.dtype(dtype).name)

    def blocks(self, images: int) -> list[slice]:
        """The images in blocks of nearly one size, of about `TILES_AT_ONCE`."""
        count = min(images, max(1, round(images * self.tiles[0] * self.tiles[1] / TILES_AT_ONCE)))
        return even_parts(images, count)

    def of_images(self, x: Array) -> Array:
        """V (n², tiles, C) of `x` (N, H, W, C)."""
        tiles = scratch("tiles", (*self.extent, len(x), *self.tiles, x.shape[3]), x.dtype)
        cut_tiles(x, self.corner, self.tile, tiles)
        return _product("v", self.b.T, tiles.reshape(self.points, -1)).reshape(self.points, -1, x.shape[3])

    def to_images(self, dv: Array, dx: Array) -> None:
        """Into `dx` (N, H, W, C) from dV (n², tiles, C): what overlapping tiles say of a pixel is added up."""
        tiles = _product("tiles", self.b, dv.reshape(self.points, -1))
        add_tiles(tiles.reshape(*self.extent, len(dx), *self.tiles, -1), self.corner, self.tile, dx)

    def of_filters(self, w: Array) -> Array:
        """U (n², K, C) of `w` (K, R, S, C)."""
        k, r, s, c = w.shape
        return product(self.g, w.transpose(1, 2, 0, 3).reshape(r * s, k * c)).reshape(self.points, k, c)

    def to_filters(self, du: Array) -> Array:
        """dw (K, R, S, C) of dU (n², K, C)."""
        dw = product(self.g.T, du.reshape(self.points, -1)).reshape(*self.window, *du.shape[1:])
        return np.ascontiguousarray(dw.transpose(2, 0, 1, 3))

    def to_outputs(self, m: Array, y: Array) -> None:
        """Into `y` (N, P, Q, K) from M (n², tiles, K)."""
        outputs = _product("pixels", self.a.T, m.reshape(self.points, -1))
        place_tiles(outputs.reshape(*self.tile, len(y), *self.tiles, -1), y)

    def of_outputs(self, dy: Array) -> Array:
        """D (n², tiles, K) of `dy` (N, P, Q, K); raises ValueError for another P and Q than the convolution's."""
        if dy.shape[1:3] != self.outputs:
            raise ValueError(f"dy is {dy.shape}, and the convolution has {self.outputs} outputs")
        outputs = scratch("pixels", (*self.tile, len(dy), *self.tiles, dy.shape[3]), dy.dtype)
        cut_tiles(dy, (0, 0), self.tile, outputs)
        d = _product("d", self.a, outputs.reshape(self.tile[0] * self.tile[1], -1))
        return d.reshape(self.points, -1, dy.shape[3])


def _product(name: str, a: Array, b: Array) -> Array:
    """a @ b, in scratch memory."""
    return product(a, b, scratch(name, (*a.shape[:-1], b.shape[-1]), a.dtype))


def _add_product(total: Array, a: Array, b: Array, is_first: bool) -> None:
    """`total` ← a @ b for the first of several, `total` + a @ b for the others."""
    if is_first:
        product(a, b, total)
    else:
        total += _product("part", a, b)


# -- constants -------------------------------------------------------------------------------------------------------


@cache
def _transforms(tile: Pair, window: Pair, dtype: str) -> tuple[Array, Array, Array]:
    """A (n², m²), G (n², r²) and B (n², n²), for both axes in one."""
    down, across = (_along_one_axis(m, r) for m, r in zip(tile, window, strict=True))
    a, g, b = (np.kron(first, second).astype(dtype) for first, second in zip(down, across, strict=True))
    return a, g, b


def _along_one_axis(m: int, r: int) -> tuple[Array, Array, Array]:
    """A (n, m), G (n, r) and B (n, n), worked out in fractions.

    With p_j the points, A[j] = (1, p_j, p_j², …), and likewise G[j], divided by Π_{l≠j} (p_j − p_l). Column j of B has
    the coefficients of Lagrange's polynomial Π_{l≠j} (x − p_l). At infinity a polynomial is its last coefficient, and
    the column has those of Π_l (x − p_l).
    """
    n = m + r - 1
    points = POINTS[: n - 1]
    a, g, b = (np.zeros((n, columns)) for columns in (m, r, n))
    for j, point in enumerate(points):
        others = [other for other in points if other != point]
        distances = math.prod(point - other for other in others)
        a[j] = [float(point**i) for i in range(m)]
        g[j] = [float(point**i / distances) for i in range(r)]
        b[: n - 1, j] = _with_roots(others)
    a[-1, -1] = g[-1, -1] = 1
    b[:, -1] = _with_roots(points)
    return a, g, b


def _with_roots(roots: Sequence[Fraction]) -> list[float]:
    """The coefficients of Π (x − root), the constant one first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *coefficients], [*(-root * c for c in coefficients), Fraction(0)]
        coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
    return [float(c) for c in coefficients]
