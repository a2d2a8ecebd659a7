"""What the tests of weight files share."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def torchvision() -> Iterator[Any]:
    """torchvision; tests that compare with it are skipped where it, or PyTorch, isn't installed."""
    torch = pytest.importorskip("torch")
    try:
        yield pytest.importorskip("torchvision")
    except RuntimeError:
        # Its compiled part is made for one build of PyTorch. Of it, the networks need only the names of two operators.
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        yield pytest.importorskip("torchvision")


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if PyTorch were not installed."""
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.fixture(params=["through PyTorch", "without PyTorch"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once as it is, which needs PyTorch, and once as if it were not installed."""
    pytest.importorskip("torch")
    if request.param == "without PyTorch":
        monkeypatch.setitem(sys.modules, "torch", None)
