"""Every map against Captum's, on the same weights in PyTorch: to 1e-10 of the largest in float64, which is the proof.

In float32, which is what users run and what alone takes Winograd's algorithm, the two disagree about the sign of a unit
here and there, whose input is zero but for rounding: there the maps are compared in the mean. Captum's hooks refuse
ReLUs that work in place.
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
from tests.conftest import assert_close, assert_close_through_relus, from_nchw, to_nchw

pytest.importorskip("torch")
captum = pytest.importorskip("captum.attr")

#: Captum's name for each rule.
METHODS: dict[ReLURule, str] = {"gradient": "Saliency", "deconvnet": "Deconvolution", "guided": "GuidedBackprop"}


def random_alexnet():
    network = MODELS["alexnet"](classes=20)
    network.initialize(np.random.default_rng(0))
    return network


#: The networks and their precision.
CASES = {
    "bundled SqueezeNet": (bundled_network, "float64"),
    "random AlexNet": (random_alexnet, "float64"),
    "bundled SqueezeNet in float32": (bundled_network, "float32"),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """(network, its twin in PyTorch, images, a target for each)."""
    from bench.torch_peer import TorchPeer

    make, dtype = CASES[request.param]
    network = make().astype(dtype)
    peer = TorchPeer(network).out_of_place().eval()
    x = network.preprocess([read_image(ASSETS / name) for name in ("chelsea.jpg", "coffee.jpg")]).astype(dtype)
    if dtype == "float32":  # mirrored too: Winograd's algorithm is for two images and more, in each half of the batch
        x = np.concatenate([x, x[:, :, ::-1]])
    return network, peer, x, [7, 3] * (len(x) // 2)


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
    assert_close_through_relus(gradients, expected)
    assert_close_through_relus(class_gradients(network, x, targets, rule)[0], expected)
    assert_close_through_relus(saliency_map(gradients), np.abs(expected).max(axis=-1))


def test_integrated_gradients(case, torch):
    network, peer, x, targets = case
    expected = attribute(captum.IntegratedGradients(peer), x, targets, torch, n_steps=4, internal_batch_size=4)
    found = integrated_gradients(network, x, targets, steps=4)
    if x.dtype == np.float64:  # but for the weights of Captum's quadrature, which are in float32
        assert_close(found.astype(np.float32), expected.astype(np.float32))
    else:
        assert_close_through_relus(found, expected)


def test_smooth_grad(case, torch, monkeypatch):
    network, peer, x, targets = case
    noise = np.random.default_rng(0).normal(0, 10, (2, *x.shape)).astype(x.dtype)
    # Captum draws its noise for all samples of one image, then for those of the next.
    drawn = torch.cat([to_nchw(noise[:, image], torch) for image in range(len(x))])
    monkeypatch.setattr(torch, "normal", lambda mean, std: drawn.reshape(std.shape))
    tunnel = captum.NoiseTunnel(captum.Saliency(peer))
    options = {"nt_type": "smoothgrad", "nt_samples": 2, "stdevs": 10.0, "abs": False}
    expected = attribute(tunnel, x, targets, torch, **options)
    assert_close_through_relus(smooth_grad(network, x, targets, noise), expected)
