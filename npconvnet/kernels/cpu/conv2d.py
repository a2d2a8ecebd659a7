"""2-D convolution (cross-correlation), to read: im2col and one matrix product, and its two adjoints.

    y[n, p, q, k] = Σ_{r,s,c} x̃[n, p·stride + r, q·stride + s, c] · w[k, r, s, c]        x̃: x with zeros around it

Written as matrices, with one row of `columns` for each place of the filter, Y = X·Wᵀ; so dX = dY·W and dW = dYᵀ·X.
All three overwrite their result. With stride 1 the second is itself a convolution of dy, with the filters flipped:
the DeconvNet's (Simonyan et al. 2013, section 4).
"""

from npconvnet.backend import Array, array_module, in_one_array, sliding_windows
from npconvnet.kernels.cpu.windows import offsets, pad_images, unpad_images
from npconvnet.kernels.shapes import NO_PADDING, Padding, Rounding, Windows, place_windows


def conv2d_forward(
    x: Array, w: Array, stride: int = 1, padding: Padding = NO_PADDING, groups: int = 1, rounding: Rounding = "floor"
) -> Array:
    """y (N, P, Q, K) of the images `x` (N, H, W, C) and the filters `w` (K, R, S, C / groups): fprop."""
    windows = _place(x.shape, w, stride, padding, rounding)
    return in_one_array(
        [
            (im2col(x_group, w.shape[1:3], stride, windows) @ _as_matrix(w_group).T).reshape(
                len(x), *windows.outputs, len(w_group)
            )
            for x_group, w_group in zip(_split(x, groups, axis=3), _split(w, groups, axis=0), strict=True)
        ],
        axis=-1,
    )


def conv2d_backward_input(
    dy: Array,
    w: Array,
    x_shape: tuple[int, ...],
    stride: int = 1,
    padding: Padding = NO_PADDING,
    groups: int = 1,
    rounding: Rounding = "floor",
) -> Array:
    """dx (N, H, W, C) of `dy` (N, P, Q, K) through the filters `w`: dgrad."""
    windows = _place(x_shape, w, stride, padding, rounding)
    shape = (*x_shape[:3], w.shape[3])
    return in_one_array(
        [
            col2im(_rows(dy_group) @ _as_matrix(w_group), shape, w.shape[1:3], stride, windows)
            for dy_group, w_group in zip(_split(dy, groups, axis=3), _split(w, groups, axis=0), strict=True)
        ],
        axis=-1,
    )


def conv2d_backward_filters(
    dy: Array,
    x: Array,
    w_shape: tuple[int, ...],
    stride: int = 1,
    padding: Padding = NO_PADDING,
    groups: int = 1,
    rounding: Rounding = "floor",
) -> Array:
    """dw (K, R, S, C / groups) of `dy` (N, P, Q, K) and the images `x` that the filters saw: wgrad."""
    windows = place_windows(_size(x.shape), _size(w_shape), stride, padding, rounding)
    return in_one_array(
        [
            (_rows(dy_group).T @ im2col(x_group, w_shape[1:3], stride, windows)).reshape(-1, *w_shape[1:])
            for dy_group, x_group in zip(_split(dy, groups, axis=3), _split(x, groups, axis=3), strict=True)
        ],
        axis=0,
    )


def conv2d_backward(
    dy: Array,
    x: Array,
    w: Array,
    stride: int = 1,
    padding: Padding = NO_PADDING,
    groups: int = 1,
    rounding: Rounding = "floor",
) -> tuple[Array, Array]:
    """(dx, dw), both of the above: where both are wanted, a fast version may share work between them."""
    where = (stride, padding, groups, rounding)
    return conv2d_backward_input(dy, w, x.shape, *where), conv2d_backward_filters(dy, x, w.shape, *where)


def im2col(x: Array, window: tuple[int, ...], stride: int, windows: Windows) -> Array:
    """Rows (N·P·Q, R·S·C): for each place of the window, the pixels that it covers."""
    padded = pad_images(x, windows.padding_and_overhang)
    seen = sliding_windows(padded, window, axes=(1, 2))[:, ::stride, ::stride]  # (N, P, Q, C, R, S)
    return seen.transpose(0, 1, 2, 4, 5, 3).reshape(len(seen) * seen.shape[1] * seen.shape[2], -1)


def col2im(columns: Array, x_shape: tuple[int, ...], window: tuple[int, ...], stride: int, windows: Windows) -> Array:
    """The adjoint of `im2col`: every pixel (N, H, W, C) gathers the entries of `columns` that were copied from it."""
    n, h, w, c = x_shape
    top, bottom, left, right = windows.padding_and_overhang
    padded = array_module(columns).zeros((n, top + h + bottom, left + w + right, c), columns.dtype)
    columns = columns.reshape(n, *windows.outputs, *window, c)
    for r, s, index in offsets((window[0], window[1]), windows.outputs, stride):
        padded[index] += columns[:, :, :, r, s]
    return unpad_images(padded, windows.padding_and_overhang)


def _place(x_shape: tuple[int, ...], w: Array, stride: int, padding: Padding, rounding: Rounding) -> Windows:
    return place_windows(_size(x_shape), _size(w.shape), stride, padding, rounding)


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[1], shape[2]


def _as_matrix(w: Array) -> Array:
    return w.reshape(len(w), -1)  # (K, R·S·C)


def _rows(dy: Array) -> Array:
    return dy.reshape(-1, dy.shape[3])  # (N·P·Q, K)


def _split(a: Array, groups: int, axis: int) -> list[Array]:
    parts: list[Array] = array_module(a).split(a, groups, axis)
    return parts
