"""A kernel with all that is hard to get right computes a product; where one part is wrong, the emulator shows it."""

from pathlib import Path

import numpy as np
import pytest

from npconvnet.kernels.cpu.bfloat16 import from_bfloat16, to_bfloat16
from tests.cuda_on_cpu import emulator

SOURCE = Path(__file__).with_name("tiled_product.cu").read_text()
STAGE_BYTES = (32 + 16) * 64

#: What is to be replaced by what.
BUGS = {
    "no wait for the copies": ("cp_async_wait<STAGES - 2>();", ""),
    "a wait for one copy less": ("cp_async_wait<STAGES - 2>();", "cp_async_wait<STAGES - 1>();"),
    "no barrier": ("__syncthreads();", ""),
    "a barrier for a warp only": ("__syncthreads();", "__syncwarp();"),
    "a barrier before the wait": (
        "cp_async_wait<STAGES - 2>();\n        __syncthreads();",
        "__syncthreads();\n        cp_async_wait<STAGES - 2>();",
    ),
    "no group behind the last copy": (
        "if (step + STAGES - 1 < steps) copy(step + STAGES - 1);\n        cp_async_commit();",
        "if (step + STAGES - 1 < steps) { copy(step + STAGES - 1); cp_async_commit(); }",
    ),
    "a copy into the stage that is read": ("copy(step + STAGES - 1);", "copy(step + STAGES);"),
    "the next stage is read": (
        "* const stage = memory + step % STAGES * STAGE_BYTES;\n        for (int half",
        "* const stage = memory + (step + 1) % STAGES * STAGE_BYTES;\n        for (int half",
    ),
    "chunks of b stay in their places": ("stage + A_BYTES + place(row - 32, chunk)", "stage + A_BYTES + i % 64 * 16"),
    "chunks change places by other rows": ("place(warp * 16 + lane % 16,", "place(warp * 16 + lane % 16 + 2,"),
    "halves of a row are swapped": ("half * 2 + lane / 16)", "half * 2 + 1 - lane / 16)"),
    "halves of b are swapped": ("{y[j * 2], y[j * 2 + 1]}", "{y[j * 2 + 1], y[j * 2]}"),
    "a fragment of b is taken twice": ("{y[j * 2], y[j * 2 + 1]}", "{y[0], y[1]}"),
    "one row too few is copied": ("i < 48 * 4;", "i < 47 * 4;"),
    "one row too many is copied": ("i < 48 * 4;", "i < 49 * 4;"),
    "the sums begin with what was there": (
        "float sum[2][4] = {};",
        "float sum[2][4]; sum[0][0] = ((float*)memory)[0];",
    ),
    "a barrier in a branch": ("__syncthreads();", "if (warp == 0) __syncthreads();"),
    "a barrier that the last step skips": ("__syncthreads();", "if (step + lane / 31 < steps) __syncthreads();"),
    "an odd address": ("chunk ^ row / 2 % 4) * 16;", "chunk ^ row / 2 % 4) * 16 + 8;"),
}


def product(cupy, code, a, b):
    function = cupy.RawModule(code=code).get_function("tiled_product")
    (rows, length), columns = a.shape, len(b)
    c = cupy.empty((rows, columns), np.float32)
    arguments = cupy.asarray(a), cupy.asarray(b), c, np.int32(columns), np.int32(length)
    function((columns // 16, rows // 32), (64,), arguments, shared_mem=3 * STAGE_BYTES)
    return c.get()


def is_right(cupy, rng, code, shape=(64, 32, 224)):
    rows, columns, length = shape
    a, b = (to_bfloat16(rng.normal(size=(size, length)).astype("f4")) for size in (rows, columns))
    expected = from_bfloat16(a).astype(float) @ from_bfloat16(b).T
    return np.allclose(product(cupy, code, a, b), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(32, 16, 32), (32, 16, 64), (64, 32, 224), (96, 48, 512)])
def test_it_is_right(cupy, rng, backwards, shape):
    assert is_right(cupy, rng, SOURCE, shape)


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_shows_in_one_order_or_the_other(cupy, rng, monkeypatch, bug):
    right, wrong = BUGS[bug]
    assert right in SOURCE
    found = []
    for backwards in False, True:
        monkeypatch.setattr(emulator, "backwards", backwards)
        try:
            found.append(not is_right(cupy, rng, SOURCE.replace(right, wrong)))
        except RuntimeError as error:
            found.append(True)
            assert any(words in str(error) for words in ("deadlock", "multiple of 16", "beside", "shared memory"))
    assert any(found)
