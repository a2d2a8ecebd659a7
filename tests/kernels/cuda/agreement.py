"""When a kernel's numbers are those of its definition."""

from typing import Any

import numpy as np

from npconvnet.backend import to_host

#: ‖result − expected‖ / ‖expected‖ of float32.
FLOAT32 = 1e-5


def assert_agrees(result: Any, expected: Any, error: float = FLOAT32) -> None:
    """float32 numbers from the device, of the shape of `expected`, which was computed in float64.

    In the mean within `error`, and nowhere off by more than a hundred times that.
    """
    actual = to_host(result)
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    difference = np.abs(actual - expected)  # a NaN stays one, and is not below anything
    assert not difference.size or np.linalg.norm(difference) <= error * np.linalg.norm(expected)
    assert not difference.size or difference.max() <= 100 * error * np.abs(expected).max()
