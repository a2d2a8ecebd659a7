"""The one line that says which batch would fit into a GPU."""

import numpy as np
import pytest

from npconvnet.errors import InputError
from npconvnet.models import MODELS
from npconvnet.training.gpu_memory import bytes_per_image, images_that_fit, naming_what_fits


@pytest.fixture
def on_gpu(cupy, monkeypatch):
    """The paper's network on a GPU of 10 GiB."""
    monkeypatch.setattr(cupy.cuda.runtime, "memGetInfo", lambda: (10 * 2**30, 80 * 2**30))
    network = MODELS["tiny"]()
    network.to("gpu")
    return network


def test_what_fits_is_named(cupy, on_gpu):
    fits = images_that_fit(on_gpu, "bfloat16", 10 * 2**30 + cupy.get_default_memory_pool().total_bytes())
    assert 1000 < fits < 100_000
    with (
        pytest.raises(InputError, match=rf"GiB free\) is too small for 500000 images .*; try --batch-size {fits}$"),
        naming_what_fits(on_gpu, "bfloat16", 500_000),
    ):
        raise cupy.cuda.memory.OutOfMemoryError(1, 2, 3)


def test_it_is_less_than_what_did_not_fit(cupy, on_gpu):
    with pytest.raises(InputError, match=r"try --batch-size 7$"), naming_what_fits(on_gpu, "tf32", 8):
        raise cupy.cuda.memory.OutOfMemoryError(1, 2, 3)


@pytest.mark.parametrize("memory", [2**20, 2**30 - 2**24])
def test_where_nothing_fits(cupy, on_gpu, monkeypatch, memory):
    monkeypatch.setattr(cupy.cuda.runtime, "memGetInfo", lambda: (memory, 80 * 2**30))
    with pytest.raises(InputError, match=r"use a larger GPU$"), naming_what_fits(on_gpu, "bfloat16", 8):
        raise cupy.cuda.memory.OutOfMemoryError(1, 2, 3)


def test_the_memory_of_the_host_is_not_meant(on_gpu):
    with pytest.raises(MemoryError, match="host"), naming_what_fits(on_gpu, "bfloat16", 8):
        raise MemoryError("of the host")
    with pytest.raises(MemoryError, match="host"), naming_what_fits(MODELS["tiny"](), "float32", 8):
        raise MemoryError("of the host")


def test_halves_take_half():
    network = MODELS["paper"]()
    picture = 2 * 3 * 256 * 256
    assert bytes_per_image(network, "tf32") - picture == 2 * (bytes_per_image(network, "bfloat16") - picture)
    assert bytes_per_image(network, "bfloat16") > 2 * np.prod(network.shapes["conv1"])
