"""The kernel of warpgroup_product.cu computes a product; where one part is wrong, the emulator shows it."""

import re

import numpy as np
import pytest

from npconvnet.kernels.cpu.bfloat16 import from_bfloat16, to_bfloat16
from tests.cuda_on_cpu import emulator
from tests.cuda_on_cpu.warpgroup_product import SOURCE, warpgroup_product

#: What is to be replaced by what, and the words for it if it is refused; else the product is wrong.
BUGS = {
    "no wait for the copies": ("barrier_wait(full + i, turn % 2);", "", "more than 1 arrive at a barrier in one phase"),
    "a wait for the other parity": (
        "barrier_wait(full + i, turn % 2);",
        "barrier_wait(full + i, (turn + 1) % 2);",
        "more than 1 arrive|deadlock",
    ),
    "no wait for an empty stage": ("barrier_wait(empty + i, (turn + 1) % 2);", "", "more than 1 arrive"),
    "a wait for a stage that was never full": (
        "barrier_wait(empty + i, (turn + 1) % 2);",
        "barrier_wait(empty + i, turn % 2);",
        "deadlock(?s:.*) 2 of 2 arrivals and 0 bytes are missing",
    ),
    "a stage is handed back at once": (
        "step > 0) barrier_arrive(empty + (step - 1) % STAGES)",
        "step >= 0) barrier_arrive(empty + i)",
        "deadlock",
    ),
    "a stage is handed back before it is read": ("wgmma_wait<1>();", "", ""),
    "a stage is not handed back": ("t == 0 && step > 0", "t == 1 && step > 2", "deadlock"),
    "all threads hand a stage back": ("t == 0 && step > 0", "step > 0", "deadlock"),
    "the sums are not awaited": ("wgmma_wait<0>(sum);", "", "ends before its last wgmma were awaited"),
    "the products are not committed": ("wgmma_commit();", "", "deadlock|ends before"),
    "the last products are not committed": ("wgmma_commit();", "if (step + 1 < steps) wgmma_commit();", "ends before"),
    "the sums are used too early": ("wgmma_commit();", "wgmma_commit(); sum[0] += 1;", "overwritten before wgmma_wait"),
    "one fence for all": ("wgmma_fence();", "", r"no wgmma_fence\(\)"),
    "more bytes are expected": (
        "full + i, STAGE_BYTES",
        "full + i, STAGE_BYTES + 16",
        "0 of 1 arrivals and 16 bytes are missing",
    ),
    "fewer bytes are expected": ("full + i, STAGE_BYTES", "full + i, STAGE_BYTES - 16", "16 bytes more were copied"),
    "the bytes of a alone are expected": (
        "full + i, STAGE_BYTES",
        "full + i, A_BYTES",
        "bytes more were copied",
    ),
    "no fence behind barrier_init": ("fence_barrier_init();", "", r"no fence_barrier_init\(\)"),
    "no barrier behind barrier_init": ("__syncthreads();", "", r"begun no barrier here|no __syncthreads\(\)"),
    "too few arrivals are asked for": ("empty + i, CONSUMERS", "empty + i, 1", "deadlock"),
    "too many arrivals are asked for": (
        "empty + i, CONSUMERS",
        "empty + i, 3",
        "1 of 3 arrivals and 0 bytes are missing",
    ),
    "barriers lie in a stage": ("memory + STAGES * STAGE_BYTES)", "memory + STAGE_BYTES)", "it was overwritten"),
    "stages begin anywhere": (
        "copy<A_LIES, CONSUMERS>(stage,",
        "copy<A_LIES, CONSUMERS>(stage + 512,",
        "no multiple of",
    ),
    "a stage too few": ("STAGES = 3", "STAGES = 4", "shared memory"),
    "rows of eight elsewhere": ("(A_LIES ? 2048 : 32), 8192, 1024)", "(A_LIES ? 2048 : 32), 8192, 2048)", ""),
    "steps of eight elsewhere": (
        "(B_LIES ? 2048 : 32), 8192, 1024)",
        "(B_LIES ? 2048 : 32), 8192, 2048)",
        "not in dynamic shared",
    ),
    "panels elsewhere": ("(B_LIES ? 2048 : 32), 8192, 1024)", "(B_LIES ? 2048 : 32), 4096, 1024)", ""),
    "steps of a lie one below the other": ("(A_LIES ? 2048 : 32)", "2048", ""),
    "steps of b stand side by side": ("(B_LIES ? 2048 : 32)", "32", ""),
    "rows begin within eight": ("k * (A_LIES ? 2048 : 32)", "k * 128", "begins in row 1 of 8"),
    "b is said to stand": (
        "<A_LIES, B_LIES>(",
        "<A_LIES, false>(",
        "not in dynamic shared memory",
    ),
    "both multiply the same rows": ("stage + warpgroup * PANEL_BYTES", "stage", ""),
    "a warp does not take part": ("wgmma_commit();", "if (t < 96) wgmma_commit();", "ends before its last wgmma"),
    "a warp does not multiply": ("float sum[128]", "if (t >= 96) return; float sum[128]", "deadlock"),
    "a thread does not take part": (
        "float sum[128]",
        "if (t == 5) return; float sum[128]",
        "takes all 32 threads of a warp",
    ),
    "a warpgroup too few": ("CONSUMERS = 2", "CONSUMERS = 1", "beside|deadlock"),
    "rows of the sums are swapped": ("j / 2 % 2 * 8", "(1 - j / 2 % 2) * 8", ""),
    "columns of the sums are swapped": ("t % 4 * 2 + j % 2", "t % 4 + j % 2 * 4", ""),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_shows_in_one_order_or_the_other(cupy, rng, monkeypatch, bug):
    right, wrong, words = BUGS[bug]
    assert SOURCE.count(right) == 1
    source = SOURCE.replace(right, wrong)
    a, b = (to_bfloat16(rng.normal(size=(128, 328)).astype("f4")) for _ in range(2))
    expected = from_bfloat16(a).astype(float) @ from_bfloat16(b).T
    shown = []
    for backwards in False, True:
        monkeypatch.setattr(emulator, "backwards", backwards)
        try:
            found = warpgroup_product(cupy, a, b, b_lies=True, source=source)
        except (RuntimeError, ValueError) as error:
            shown.append(True)
            assert words, error
            assert re.search(words, str(error)), error
        else:
            shown.append(not np.allclose(found, expected, rtol=1e-5, atol=1e-4))
    assert any(shown)
