"""Local response normalisation over neighbouring channels (Krizhevsky et al. 2012, section 3.3).

    s[c] = k + alpha_per_element · Σ_{c' in window(c)} x[c']²            window(c): `size` channels around c
    y[c] = x[c] · s[c]^−β
    dx[c] = dy[c] · s[c]^−β − 2·alpha_per_element·β · x[c] · Σ_{c': c in window(c')} dy[c'] · x[c'] · s[c']^(−β−1)

Caffe, cuda-convnet, PyTorch and ONNX state alpha = size · alpha_per_element. The paper does not treat LRN in its
comparison with DeconvNet: the true gradient stays under every ReLU rule.
"""

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cpu.windows import in_cache


def lrn_forward(x: Array, size: int, alpha_per_element: float, beta: float, k: float) -> tuple[Array, Array]:
    """(y, s), both of the shape of `x` (..., C)."""
    before = (size - 1) // 2
    xp, pixels = array_module(x), x.reshape(-1, x.shape[-1])
    y, s = xp.empty(pixels.shape, x.dtype), xp.empty(pixels.shape, x.dtype)
    for part in in_cache(pixels):
        s[part] = k + alpha_per_element * _window_sums(pixels[part] * pixels[part], before, size - 1 - before)
        y[part] = pixels[part] * _to_minus(beta, s[part])
    return y.reshape(x.shape), s.reshape(x.shape)


def lrn_backward(dy: Array, x: Array, s: Array, size: int, alpha_per_element: float, beta: float) -> Array:
    """dx of `dy`, with the input `x` and the scale `s` of the forward; all (..., C)."""
    before = (size - 1) // 2
    pixels, scales, arrived = (a.reshape(-1, a.shape[-1]) for a in (x, s, dy))
    dx: Array = array_module(dy).empty(pixels.shape, dy.dtype)
    for part in in_cache(pixels):
        through_own = arrived[part] * _to_minus(beta, scales[part])
        # c lies in the window of c' where c' lies in the mirrored window of c.
        through_scales = _window_sums(through_own * pixels[part] / scales[part], size - 1 - before, before)
        dx[part] = through_own - (2 * alpha_per_element * beta) * pixels[part] * through_scales
    return dx.reshape(x.shape)


def _to_minus(beta: float, s: Array) -> Array:
    """s^−β; for β = 3/4 by roots, which take a tenth of the time of a power."""
    xp = array_module(s)
    power: Array = 1 / (xp.sqrt(s) * xp.sqrt(xp.sqrt(s))) if beta == 0.75 else s**-beta
    return power


def _window_sums(t: Array, before: int, after: int) -> Array:
    """At each channel, the sum of `t` from `before` channels earlier to `after` channels later."""
    channels = t.shape[-1]
    before, after = min(before, channels - 1), min(after, channels - 1)  # there is nothing further away
    padded = array_module(t).zeros((*t.shape[:-1], before + channels + after), t.dtype)
    padded[..., before : before + channels] = t
    # All pixels as one line: where one pixel ends and the next begins, the padding keeps them apart.
    line = padded.reshape(-1)
    count = line.size - before - after
    sums: Array = padded.copy()
    for offset in range(1, before + after + 1):
        sums.reshape(-1)[:count] += line[offset : offset + count]
    return sums[..., :channels]
