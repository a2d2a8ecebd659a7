"""What holds for all CUDA kernels that stand in for a definition; every call of `CALLS` that has one is made here."""

import numpy as np
import pytest

from npconvnet import kernels
from npconvnet.backend import array_module, to_host
from npconvnet.kernels.twins import cuda_twin
from tests.kernels.test_every_kernel import CALLS, WRITTEN_OVER, Draw, arrays, each_array

DEFINITIONS = {name: getattr(kernels, name).__wrapped__ for name in CALLS}
TWINS = [name for name, definition in DEFINITIONS.items() if cuda_twin(definition) is not definition]

#: Of an array it uses the shape alone.
TAKES_A_SHAPE = {"draw_kept"}

over_twins = pytest.mark.parametrize("name", TWINS)


def run(xp, name, spread=False):
    """The result and the arguments afterwards, of the CUDA kernel, on the host."""
    args, kwargs = each_array(xp.asarray, CALLS[name](Draw(np.float32)))
    if spread:
        args = [x if i in WRITTEN_OVER.get(name, []) else each_array(spread_out, x) for i, x in enumerate(args)]
    result = cuda_twin(DEFINITIONS[name])(*args, **kwargs)
    return each_array(to_host, [result, args])


def spread_out(x):
    """`x` as a view that is not contiguous."""
    holder = array_module(x).zeros((*x.shape, 2), x.dtype)
    holder[..., 0] = x
    return holder[..., 0]


def by_definition(name):
    args, kwargs = CALLS[name](Draw(np.float32))
    return [DEFINITIONS[name](*args, **kwargs), args]


def assert_close(actual, expected):
    for a, b in zip(arrays(actual), arrays(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@over_twins
def test_it_gives_the_numbers_of_the_definition(xp, name):
    """And writes over the same arguments with the same numbers, if over any."""
    assert_close(run(xp, name), by_definition(name))


@over_twins
def test_it_keeps_what_is_not_meant_to_be_written_over(xp, name):
    before, _ = CALLS[name](Draw(np.float32))
    _, after = run(xp, name)
    for position, (now, then) in enumerate(zip(after, before, strict=True)):
        if position not in WRITTEN_OVER.get(name, []):
            for a, b in zip(arrays(now), arrays(then), strict=True):
                np.testing.assert_array_equal(a, b)


@over_twins
def test_it_gives_the_same_bits_again(xp, name):
    for a, b in zip(arrays(run(xp, name)), arrays(run(xp, name)), strict=True):
        assert a.tobytes() == b.tobytes()


@over_twins
def test_the_layout_of_what_it_reads_does_not_matter(xp, name):
    assert_close(run(xp, name, spread=True), run(xp, name))


@over_twins
def test_float64_is_refused(cupy, name):
    args, kwargs = each_array(cupy.asarray, CALLS[name](Draw(np.float64)))
    if name in TAKES_A_SHAPE or all(x.dtype != np.float64 for x in arrays([args, kwargs])):
        pytest.skip("takes no such numbers")
    with pytest.raises(TypeError, match="float64"):
        cuda_twin(DEFINITIONS[name])(*args, **kwargs)
