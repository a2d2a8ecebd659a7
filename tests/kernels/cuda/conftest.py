"""Where the tests of the kernels run them."""

import importlib

import pytest

from npconvnet.backend import why_no_gpu
from tests.cuda_on_cpu import emulator


@pytest.fixture(params=["forwards", "backwards", pytest.param("gpu", marks=pytest.mark.gpu)])
def xp(request, monkeypatch):
    """cupy, three times: on the emulator with its threads in either order, and on a GPU where there is one."""
    if request.param == "gpu":
        if reason := why_no_gpu():
            pytest.skip(reason)
        return importlib.import_module("cupy")
    monkeypatch.setattr(emulator, "backwards", request.param == "backwards")
    return request.getfixturevalue("cupy")
