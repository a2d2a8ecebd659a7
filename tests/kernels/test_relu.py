from typing import Any

import numpy as np
import pytest

from npconvnet import kernels
from npconvnet.kernels.cpu.relu import ReLURule
from tests.conftest import assert_close, assert_is_gradient, distinct

RULES: list[ReLURule] = ["gradient", "deconvnet", "guided"]

X = [3.0, 3.0, -3.0, -3.0]
DY = [2.0, -2.0, 2.0, -2.0]
DX = {
    "gradient": [2.0, -2.0, 0.0, 0.0],  # the sign of the input decides
    "deconvnet": [2.0, 0.0, 2.0, 0.0],  # the sign of the reconstruction decides
    "guided": [2.0, 0.0, 0.0, 0.0],  # both decide
}


@pytest.mark.parametrize("rule", RULES)
def test_by_hand(rule, dtype):
    y = kernels.relu_forward(np.array(X, dtype))
    assert y.tolist() == [3, 3, 0, 0]
    assert kernels.relu_backward(np.array(DY, dtype), y, rule).tolist() == DX[rule]


def test_the_gradient_is_what_one_gets_unasked():
    assert kernels.relu_backward(np.array(DY), np.array(X)).tolist() == DX["gradient"]


@pytest.mark.parametrize("rule", RULES)
def test_zero_counts_as_negative(rule):
    dy, y = np.array([5.0, 0.0, 0.0]), np.array([0.0, 5.0, 0.0])
    assert kernels.relu_backward(dy, y, rule).tolist() == [5 if rule == "deconvnet" else 0, 0, 0]


INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("gradient", [INF, -INF, NAN, 0, 0, 0]), ("deconvnet", [INF, 0, 0, INF, 0, 0]), ("guided", [INF, 0, 0, 0, 0, 0])],
)
def test_selects_and_never_multiplies(rule, expected):
    y = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    dy = np.array([INF, -INF, NAN, INF, -INF, NAN])
    np.testing.assert_array_equal(kernels.relu_backward(dy, y, rule), expected)


def test_a_diverged_activation_shows():
    np.testing.assert_array_equal(kernels.relu_forward(np.array([NAN, INF, -INF])), [NAN, INF, 0])


def test_y_decides_like_x(rng):
    """The backward is handed y; x would have done as well."""
    x, dy = distinct(rng, (3, 4, 5, 2)), distinct(rng, (3, 4, 5, 2))
    for rule in RULES:
        from_y = kernels.relu_backward(dy, kernels.relu_forward(x), rule)
        np.testing.assert_array_equal(from_y, kernels.relu_backward(dy, x, rule))


def test_guided_is_the_gradient_of_what_deconvnet_lets_through(rng):
    x, dy = distinct(rng, (3, 4, 5, 2)), distinct(rng, (3, 4, 5, 2))
    deconvnet = kernels.relu_backward(dy, x, "deconvnet")
    np.testing.assert_array_equal(deconvnet, kernels.relu_forward(dy))
    np.testing.assert_array_equal(
        kernels.relu_backward(dy, x, "guided"), kernels.relu_backward(deconvnet, x, "gradient")
    )


def test_the_gradient_is_one_and_the_other_rules_are_not(rng):
    x, dy = distinct(rng, (3, 4, 5, 2)), distinct(rng, (3, 4, 5, 2))
    y = kernels.relu_forward(x)
    assert_is_gradient(kernels.relu_forward, x, kernels.relu_backward(dy, y), dy)
    for rule in RULES[1:]:
        with pytest.raises(AssertionError):
            assert_is_gradient(kernels.relu_forward, x, kernels.relu_backward(dy, y, rule), dy)


def test_like_pytorch(torch, rng, dtype):
    x, dy = distinct(rng, (3, 4, 5, 2), dtype), distinct(rng, (3, 4, 5, 2), dtype)
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = torch.relu(x_torch)
    y_torch.backward(torch.tensor(dy))
    y = kernels.relu_forward(x)
    assert_close(y, y_torch.detach())
    assert_close(kernels.relu_backward(dy, y), x_torch.grad)


def test_an_unknown_rule_is_refused():
    rule: Any = "backprop"
    with pytest.raises(ValueError, match="no ReLU rule 'backprop'; the rules are gradient, deconvnet and guided"):
        kernels.relu_backward(np.ones(1), np.ones(1), rule)
