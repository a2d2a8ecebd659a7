"""Every map against Captum's, on the same weights in PyTorch: to 1e-4 of the largest in float32, 1e-10 in float64.

The random network is compared in float64: in float32 the two disagree about the sign of a unit here and there, whose
input is zero but for rounding. Captum's hooks refuse ReLUs that work in place.
"""

import numpy as np
import pytest

from npconvnet.data.image import read_image
from npconvnet.kernels.cpu.relu import ReLURule
from npconvnet.models import MODELS
from npconvnet.visualization.saliency import (
    class_gradients,
    image_gradients,
    integrated_gradients,
    saliency_map,
    score_of,
    smooth_grad,
)
from npconvnet.weights import bundled_network
from tests.command_line import ASSETS
from tests.conftest import assert_close, from_nchw, to_nchw

pytest.importorskip("torch")
captum = pytest.importorskip("captum.attr")

#: Captum's name for each rule.
METHODS: dict[ReLURule, str] = {"gradient": "Saliency", "deconvnet": "Deconvolution", "guided": "GuidedBackprop"}


def random_alexnet():
    network = MODELS["alexnet"](classes=20)
    network.initialize(np.random.default_rng(0))
    return network.astype(np.float64)


@pytest.fixture(scope="module", params=["bundled SqueezeNet", "random AlexNet"])
def case(request):
    """(network, its twin in PyTorch, two images, a target for each)."""
    from bench.torch_peer import TorchPeer

    network = bundled_network() if request.param == "bundled SqueezeNet" else random_alexnet()
    dtype = network.nodes[0].layer.parameters["weight"].dtype
    peer = TorchPeer(network).out_of_place().eval()
    x = network.preprocess([read_image(ASSETS / name) for name in ("chelsea.jpg", "coffee.jpg")])
    return network, peer, x.astype(dtype), [7, 3]


def attribute(method, x, targets, torch, **options):
    """Captum's answer as (N, H, W, 3)."""
    images = to_nchw(x, torch).requires_grad_()
    return from_nchw(method.attribute(images, target=torch.tensor(targets), **options))


@pytest.mark.filterwarnings("ignore:Setting (forward|backward)")
@pytest.mark.parametrize("rule", METHODS)
def test_the_three_rules(rule, case, torch):
    network, peer, x, targets = case
    method = getattr(captum, METHODS[rule])(peer)
    options = {"abs": False} if rule == "gradient" else {}
    expected = attribute(method, x, targets, torch, **options)
    gradients, _ = image_gradients(network, x, score_of(targets), rule)
    assert np.abs(expected).max() > 0
    assert_close(gradients, expected)
    assert_close(class_gradients(network, x, targets, rule)[0], expected)
    assert_close(saliency_map(gradients), np.abs(expected).max(axis=-1))


def test_integrated_gradients(case, torch):
    network, peer, x, targets = case
    expected = attribute(captum.IntegratedGradients(peer), x, targets, torch, n_steps=4, internal_batch_size=2)
    found = integrated_gradients(network, x, targets, steps=4)
    assert_close(found.astype(np.float32), expected.astype(np.float32))  # Captum's quadrature is in float32


def test_smooth_grad(case, torch, monkeypatch):
    network, peer, x, targets = case
    noise = np.random.default_rng(0).normal(0, 10, (2, *x.shape)).astype(x.dtype)
    # Captum draws its noise for all samples of one image, then for those of the next.
    drawn = torch.cat([to_nchw(noise[:, image], torch) for image in range(len(x))])
    monkeypatch.setattr(torch, "normal", lambda mean, std: drawn.reshape(std.shape))
    tunnel = captum.NoiseTunnel(captum.Saliency(peer))
    options = {"nt_type": "smoothgrad", "nt_samples": 2, "stdevs": 10.0, "abs": False}
    expected = attribute(tunnel, x, targets, torch, **options)
    assert_close(smooth_grad(network, x, targets, noise), expected)
