"""Launches warpgroup_product.cu, by the emulator or on a GPU of compute capability 9.0."""

from pathlib import Path

import numpy as np

from npconvnet.backend import to_host
from npconvnet.kernels import cuda
from npconvnet.kernels.cuda.compile import OPTIONS, written_out
from npconvnet.kernels.cuda.tensor_map import tiled

SOURCE = Path(__file__).with_suffix(".cu").read_text()
INSTRUCTIONS = written_out(Path(cuda.__file__).with_name("ptx.cuh"))

#: Of the source: the size of a block's tile, and how many stages of it are on their way.
ROWS, COLUMNS, STAGES, THREADS = 128, 256, 3, 384


def warpgroup_product(xp, a, b, a_lies=False, b_lies=False, source=SOURCE):
    """a (M, K) b (N, K)^T of words of bfloat16, in float32, by the kernel of `source`."""
    options = *OPTIONS, "-arch=sm_90a", *constants(a_lies, b_lies)
    function = xp.RawModule(code=INSTRUCTIONS + source, options=options).get_function("warpgroup_product")
    shared = STAGES * (ROWS + COLUMNS) * 128 + 2 * STAGES * 8
    function.max_dynamic_shared_size_bytes = shared
    arrays = [xp.asarray(np.ascontiguousarray(x.T if lies else x)) for x, lies in ((a, a_lies), (b, b_lies))]
    c = xp.empty((len(a), len(b)), np.float32)
    arguments = *(tiled(x, (64, 64)) for x in arrays), c, np.int32(len(b)), np.int32(a.shape[1])
    function((-(-len(b) // COLUMNS), len(a) // ROWS), (THREADS,), arguments, shared_mem=shared)
    return to_host(c)


def constants(a_lies, b_lies):
    """What the source leaves open, as a compiler's options."""
    return f"-DA_LIES={int(a_lies)}", f"-DB_LIES={int(b_lies)}"
