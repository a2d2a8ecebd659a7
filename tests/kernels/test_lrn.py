import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npconvnet import kernels
from tests.conftest import assert_close, assert_is_gradient, distinct, from_nchw, to_nchw

# (size, alpha_per_element, beta, k); in most of them alpha is large, so that a mistake in its term shows.
SETTINGS = [
    (5, 1e-4, 0.75, 2.0),
    (5, 0.5, 0.75, 2.0),
    (3, 1.0, 1.0, 1.0),
    (1, 0.3, 0.5, 1.5),
    (4, 0.7, 0.75, 1.0),
    (51, 0.1, 0.75, 1.0),
]
over_settings = pytest.mark.parametrize("settings", SETTINGS, ids=str)


def lrn_by_definition(x, size, alpha_per_element, beta, k):
    """The formula, channel by channel; of an even window, the larger half comes after."""
    y = np.zeros_like(x)
    for c in range(x.shape[-1]):
        window = x[..., max(0, c - (size - 1) // 2) : c + size // 2 + 1]
        y[..., c] = x[..., c] / (k + alpha_per_element * np.square(window).sum(axis=-1)) ** beta
    return y


def backward_by_definition(dy, x, s, size, alpha_per_element, beta):
    """The formula, channel by channel: c lies in the windows of the channels in the mirrored window around c."""
    dx = dy * s**-beta
    of_scales = dy * x * s ** (-beta - 1)
    for c in range(x.shape[-1]):
        mirrored = of_scales[..., max(0, c - size // 2) : c + (size - 1) // 2 + 1]
        dx[..., c] -= 2 * alpha_per_element * beta * x[..., c] * mirrored.sum(axis=-1)
    return dx


def backward(dy, x, size, alpha_per_element, beta, k):
    _, s = kernels.lrn_forward(x, size, alpha_per_element, beta, k)
    return kernels.lrn_backward(dy, x, s, size, alpha_per_element, beta)


def test_by_hand():
    x = np.array([1.0, 2.0, 3.0])
    y, s = kernels.lrn_forward(x, size=3, alpha_per_element=2, beta=1, k=1)
    assert s.tolist() == [11, 29, 27]  # 1 + 2·(1+4), 1 + 2·(1+4+9), 1 + 2·(4+9)
    assert_close(y, [1 / 11, 2 / 29, 3 / 27])
    # dy picks y[1] = x[1] / s[1]: ∂/∂x[0] = −4·x[1]·x[0] / s², ∂/∂x[1] = 1/s − 4·x[1]² / s²
    dx = kernels.lrn_backward(np.array([0.0, 1.0, 0.0]), x, s, size=3, alpha_per_element=2, beta=1)
    assert_close(dx, [-8 / 29**2, 1 / 29 - 16 / 29**2, -24 / 29**2])


def test_a_single_active_channel_is_divided_alone_and_dims_its_neighbours():
    x = np.zeros(7)
    x[3] = 2
    y, s = kernels.lrn_forward(x, size=5, alpha_per_element=0.5, beta=0.75, k=2)
    assert_close(s, np.array([2.0, 4, 4, 4, 4, 4, 2]))
    assert_close(y, np.array([0, 0, 0, 2 * 4**-0.75, 0, 0, 0]))


@over_settings
def test_against_the_definition(rng, settings):
    x = 3 * distinct(rng, (2, 3, 2, 9))
    assert_close(kernels.lrn_forward(x, *settings)[0], lrn_by_definition(x, *settings))


@over_settings
def test_backward_is_the_gradient(rng, settings):
    x, dy = 3 * distinct(rng, (2, 3, 2, 9)), distinct(rng, (2, 3, 2, 9))
    assert_is_gradient(lambda x: kernels.lrn_forward(x, *settings)[0], x, backward(dy, x, *settings), dy)


@given(st.integers(1, 9), st.integers(1, 7))
def test_with_any_number_of_channels(channels, size):
    rng, settings = np.random.default_rng(0), (size, 0.4, 0.75, 1.0)
    x, dy = distinct(rng, (2, 2, 2, channels)), distinct(rng, (2, 2, 2, channels))
    assert_close(kernels.lrn_forward(x, *settings)[0], lrn_by_definition(x, *settings))
    assert_is_gradient(lambda x: kernels.lrn_forward(x, *settings)[0], x, backward(dy, x, *settings), dy)


def test_without_alpha_it_is_a_constant_factor(rng):
    x, dy = distinct(rng, (2, 5)), distinct(rng, (2, 5))
    y, s = kernels.lrn_forward(x, 5, 0, 0.5, 4)
    assert_close(y, x / 2)
    assert_close(kernels.lrn_backward(dy, x, s, 5, 0, 0.5), dy / 2)


@pytest.mark.parametrize("settings", [each for each in SETTINGS if each[0] % 2], ids=str)
def test_like_pytorch(torch, rng, settings, dtype):
    """Odd windows: PyTorch puts the larger half of an even one before the channel (ONNX puts it after)."""
    x, dy = (3 * distinct(rng, (2, 3, 2, 9))).astype(dtype), distinct(rng, (2, 3, 2, 9), dtype)
    size, alpha_per_element, beta, k = settings
    x_torch = to_nchw(x, torch).requires_grad_()
    y_torch = torch.nn.functional.local_response_norm(x_torch, size, alpha=size * alpha_per_element, beta=beta, k=k)
    y_torch.backward(to_nchw(dy, torch))
    assert_close(kernels.lrn_forward(x, *settings)[0], from_nchw(y_torch))
    assert_close(backward(dy, x, *settings), from_nchw(x_torch.grad))


def assert_like_the_definition(x, dy, settings):
    """In float64, of whose results `x`'s own precision is left."""
    x64, dy64 = x.astype(np.float64), dy.astype(np.float64)
    y, s = kernels.lrn_forward(x, *settings)
    assert_close(y, lrn_by_definition(x64, *settings).astype(x.dtype))
    dx = backward_by_definition(dy64, x64, s.astype(np.float64), *settings[:3])
    assert_close(kernels.lrn_backward(dy, x, s, *settings[:3]), dx.astype(x.dtype))


@over_settings
@pytest.mark.parametrize("cache_bytes", [1, 200, 1000])
def test_a_few_pixels_at_a_time(rng, monkeypatch, settings, cache_bytes, dtype):
    monkeypatch.setattr("npconvnet.kernels.cpu.windows.CACHE_BYTES", cache_bytes)
    x, dy = (3 * distinct(rng, (3, 7, 5, 9))).astype(dtype), distinct(rng, (3, 7, 5, 9), dtype)
    assert_like_the_definition(x, dy, settings)


@pytest.mark.parametrize("beta", [0.75, 0.5])
def test_activations_larger_than_the_cache(rng, beta, dtype):
    """Those of the paper's second norm, at its alpha."""
    x, dy = (300 * distinct(rng, (2, 27, 27, 256))).astype(dtype), distinct(rng, (2, 27, 27, 256), dtype)
    assert_like_the_definition(x, dy, (5, 1e-4, beta, 2.0))


@pytest.mark.parametrize("size", [1, 4, 5, 9])
def test_pixels_do_not_see_each_other(rng, size, dtype):
    """Alone, with no axis but that of the channels, each gives the same bits; one of them is NaN."""
    x, dy = distinct(rng, (2, 3, 2, 4), dtype), distinct(rng, (2, 3, 2, 4), dtype)
    x[0, 1, 1] = np.nan
    settings = (size, 0.5, 0.75, 2.0)
    y, dx = kernels.lrn_forward(x, *settings)[0], backward(dy, x, *settings)
    for pixel in np.ndindex(x.shape[:-1]):
        np.testing.assert_array_equal(y[pixel], kernels.lrn_forward(x[pixel], *settings)[0])
        np.testing.assert_array_equal(dx[pixel], backward(dy[pixel], x[pixel], *settings))
        assert np.isnan([y[pixel], dx[pixel]]).any() == (pixel == (0, 1, 1))
