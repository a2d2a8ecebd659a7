"""What the benchmarks' tests share."""

import sys

import pytest


@pytest.fixture
def own_threads(own_threads):
    """Sets back PyTorch's number of threads as well as npconvnet's."""
    torch = sys.modules.get("torch")
    before = torch and torch.get_num_threads()
    yield own_threads
    if torch:
        torch.set_num_threads(before)
