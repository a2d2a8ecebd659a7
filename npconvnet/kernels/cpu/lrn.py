"""Local response normalisation over neighbouring channels (Krizhevsky et al. 2012, section 3.3).

    s[c] = k + alpha_per_element · Σ_{c' in window(c)} x[c']²            window(c): `size` channels around c
    y[c] = x[c] · s[c]^−β
    dx[c] = dy[c] · s[c]^−β − 2·alpha_per_element·β · x[c] · Σ_{c': c in window(c')} dy[c'] · x[c'] · s[c']^(−β−1)

Caffe, cuda-convnet, PyTorch and ONNX state alpha = size · alpha_per_element. The paper does not treat LRN in its
comparison with DeconvNet: the true gradient stays under every ReLU rule.
"""

from npconvnet.backend import Array, array_module


def lrn_forward(x: Array, size: int, alpha_per_element: float, beta: float, k: float) -> tuple[Array, Array]:
    """(y, s), both of the shape of `x` (..., C)."""
    before = (size - 1) // 2
    s = k + alpha_per_element * _window_sums(x * x, before, size - 1 - before)
    return x * s**-beta, s


def lrn_backward(dy: Array, x: Array, s: Array, size: int, alpha_per_element: float, beta: float) -> Array:
    """dx of `dy`, with the input `x` and the scale `s` of the forward; all (..., C)."""
    before = (size - 1) // 2
    through_own = dy * s**-beta
    # c lies in the window of c' where c' lies in the mirrored window of c.
    through_scales = _window_sums(through_own * x / s, size - 1 - before, before)
    return through_own - (2 * alpha_per_element * beta) * x * through_scales


def _window_sums(t: Array, before: int, after: int) -> Array:
    """At each channel, the sum of `t` from `before` channels earlier to `after` channels later."""
    channels = t.shape[-1]
    padded = array_module(t).zeros((*t.shape[:-1], before + channels + after), t.dtype)
    padded[..., before : before + channels] = t
    sums: Array = padded[..., :channels].copy()
    for offset in range(1, before + after + 1):
        sums += padded[..., offset : offset + channels]
    return sums
