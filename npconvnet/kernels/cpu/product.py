"""Matrix products in pieces that BLAS multiplies as they lie in memory.

OpenBLAS first copies both operands of a product into an order of its own. Where one of them is small, as a transform of
Winograd's algorithm is, or the filters of a 1×1 convolution, that is up to 40% of the time. On processors with AVX-512
it spares small products the copies. So the long operand is cut, and NumPy goes over the stack of pieces in one call.
"""

import numpy as np

from npconvnet.backend import Array

#: So many multiplications are a small product to OpenBLAS.
SMALL = 10**6
#: Pieces of fewer rows of the one operand, or columns of the other, which lie apart in memory, do not pay: measured.
FEWEST_ROWS, FEWEST_COLUMNS = 16, 64


def product(a: Array, b: Array, out: Array | None = None) -> Array:
    """`a` @ `b` of (..., M, L) and (..., L, N), as many of the one as of the other; in the memory of `out` if given."""
    if out is None:
        out = np.empty((*a.shape[:-1], b.shape[-1]), np.result_type(a, b))
    if a.shape[-2] < b.shape[-1]:
        _in_pieces(_turned(b), _turned(a), _turned(out), _largest_piece(a, FEWEST_COLUMNS))
    else:
        rows = _largest_piece(b, FEWEST_ROWS)
        # With a transposed b, BLAS would be slow at every piece.
        _in_pieces(a, np.ascontiguousarray(b) if rows else b, out, rows)
    return out


def _largest_piece(whole: Array, fewest: int) -> int:
    """How much of the other operand makes a small product with `whole`, or 0 for less than `fewest`.

    It is a power of two, which suits BLAS's innermost loops.
    """
    most = SMALL // max(1, whole.shape[-2] * whole.shape[-1])
    size = 1 << most.bit_length() >> 1
    return size if size >= fewest else 0


def _in_pieces(a: Array, b: Array, out: Array, rows: int) -> None:
    """`out` ← `a` @ `b`, so many rows of `a` at a time; all at once for 0."""
    whole = a.shape[-2] // rows * rows if rows else 0
    if whole:
        np.matmul(_pieces(a, whole, rows), b[..., np.newaxis, :, :], out=_pieces(out, whole, rows))
    if whole < a.shape[-2]:
        np.matmul(a[..., whole:, :], b, out=out[..., whole:, :])


def _pieces(a: Array, whole: int, rows: int) -> Array:
    """The first `whole` rows of (..., M, L) as (..., pieces, `rows`, L): a view."""
    return a[..., :whole, :].reshape(*a.shape[:-2], -1, rows, a.shape[-1])


def _turned(a: Array) -> Array:
    return a.swapaxes(-1, -2)
