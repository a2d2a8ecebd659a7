"""Where the tests of the kernels run them."""

import importlib

import pytest

from npconvnet.backend import why_no_gpu
from tests.cuda_on_cpu import emulator


def _poisoned(empty):
    """As the stand-in's: memory may hold the right numbers of another test, and these are NaN."""

    def poisoned(*args, **kwargs):
        x = empty(*args, **kwargs)
        x.data.memset(0xFF, x.nbytes)
        return x

    return poisoned


@pytest.fixture(params=["forwards", "backwards", pytest.param("gpu", marks=pytest.mark.gpu)])
def xp(request, monkeypatch):
    """cupy, three times: on the emulator with its threads in either order, and on a GPU where there is one."""
    if request.param == "gpu":
        if reason := why_no_gpu():
            pytest.skip(reason)
        cupy = importlib.import_module("cupy")
        for name in ("empty", "empty_like"):
            monkeypatch.setattr(cupy, name, _poisoned(getattr(cupy, name)))
        return cupy
    monkeypatch.setattr(emulator, "backwards", request.param == "backwards")
    return request.getfixturevalue("cupy")
