"""What the benchmarks' tests share."""

import sys

import pytest

from npconvnet.parallel import use_threads


@pytest.fixture
def own_threads():
    """Sets back what --threads sets: the numbers of npconvnet and of PyTorch."""
    torch = sys.modules.get("torch")
    before = torch and torch.get_num_threads()
    yield
    use_threads(None)
    if torch:
        torch.set_num_threads(before)
