"""What the tests of the emulator share: kernels that are written in the test, and one for sm_90a."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from npconvnet.kernels.cuda.tensor_map import tiled
from tests.cuda_on_cpu import emulator

WARPGROUP_PRODUCT = Path(__file__).with_name("warpgroup_product.cu").read_text()


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


@pytest.fixture
def warpgroup_product(cupy):
    """a (M, K) b (N, K)^T of words of bfloat16, by the kernel of warpgroup_product.cu, or by that of `code`."""

    def product(a, b, a_lies=False, b_lies=False, code=WARPGROUP_PRODUCT):
        options = "-arch=sm_90a", f"-DA_LIES={int(a_lies)}", f"-DB_LIES={int(b_lies)}"
        function = cupy.RawModule(code=code, options=options).get_function("warpgroup_product")
        rows, columns, stages = 128, 256, 3
        shared = stages * (rows + columns) * 128 + 2 * stages * 8
        function.max_dynamic_shared_size_bytes = shared
        arrays = [cupy.asarray(np.ascontiguousarray(x.T if lies else x)) for x, lies in ((a, a_lies), (b, b_lies))]
        c = cupy.empty((len(a), len(b)), np.float32)
        arguments = *(tiled(x, (64, 64)) for x in arrays), c, np.int32(len(b)), np.int32(a.shape[1])
        function((-(-len(b) // columns), len(a) // rows), (384,), arguments, shared_mem=shared)
        return c.get()

    return product


@pytest.fixture(params=[False, True], ids=["forwards", "backwards"])
def backwards(request, monkeypatch):
    """Whether the last thread goes first; the test is made twice."""
    monkeypatch.setattr(emulator, "backwards", request.param)
    return request.param
