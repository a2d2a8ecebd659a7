"""What the tests of the emulator share: kernels that are written in the test."""

from functools import partial

import pytest

from tests.cuda_on_cpu import emulator


@pytest.fixture
def run(cupy):
    """Runs a kernel, given its parameters, its body and its arguments: `run("float* x", "x[0] = 1;", x)`."""

    def run(parameters, body, *args, grid=(1,), block=(1,), shared_bytes=0, above="", options=()):
        code = f"""
            struct Pair {{ int a; float b; }};
            {above}
            extern "C" __global__ void k({parameters}) {{
                {body}
            }}"""
        function = cupy.RawModule(code=code, options=options).get_function("k")
        function.max_dynamic_shared_size_bytes = shared_bytes
        function(grid, block, args, shared_mem=shared_bytes)

    return run


@pytest.fixture
def run_90(run):
    """The same with the words of sm_90a."""
    return partial(run, options=("-arch=sm_90a",))


@pytest.fixture(params=[False, True], ids=["forwards", "backwards"])
def backwards(request, monkeypatch):
    """Whether the last thread goes first; the test is made twice."""
    monkeypatch.setattr(emulator, "backwards", request.param)
    return request.param
