"""Barriers in shared memory: their phases, who waits for the end of which, and what is wrong with how they are used."""

import numpy as np
import pytest

BEGIN = """
    __shared__ Barrier barriers[3];  // the last is not begun
    if (threadIdx.x == 0) {
        barrier_init(barriers, 3);
        barrier_init(barriers + 1, 1);
        fence_barrier_init();
    }
    __syncthreads();
"""


def test_a_new_barrier_is_past_the_odd_phase(run_90, backwards):
    run_90("", f"{BEGIN} barrier_wait(barriers, 1);", block=(64,))
    with pytest.raises(RuntimeError, match="the end of phase 0: 3 of 3 arrivals and 0 bytes are missing"):
        run_90("", f"{BEGIN} barrier_wait(barriers, 0);", block=(64,))


def test_a_phase_ends_when_all_have_arrived(cupy, run_90, backwards):
    """One waits for three of other warps, who in turn wait for it, five times."""
    x = cupy.zeros((5, 3), np.int32)
    body = """
        __shared__ int y[3];
        const int warp = threadIdx.x / 32;
        if (threadIdx.x % 32) return;
        for (int phase = 0; phase < 5; phase++)
            if (warp == 1) {
                barrier_wait(barriers, phase % 2);
                for (int i = 0; i < 3; i++) x[phase * 3 + i] = y[i];
                barrier_arrive(barriers + 1);
            } else {
                if (phase > 0) barrier_wait(barriers + 1, (phase + 1) % 2);
                y[warp > 1 ? warp - 1 : warp] = phase * 10 + warp;
                barrier_arrive(barriers);
            }
    """
    run_90("int* x", BEGIN + body, x, block=(128,))
    assert x.get().tolist() == [[10 * phase, 10 * phase + 2, 10 * phase + 3] for phase in range(5)]


def test_threads_of_one_warp_wait_one_by_one(cupy, run_90, backwards):
    x = cupy.zeros(32, np.int32)
    body = """
        __shared__ int y;
        if (threadIdx.x == 17) {
            y = 5;
            for (int i = 0; i < 3; i++) barrier_arrive(barriers);
        } else {
            barrier_wait(barriers, 0);
        }
        x[threadIdx.x] = y;
    """
    run_90("int* x", BEGIN + body, x, block=(32,))
    assert x.get().tolist() == [5] * 32


def test_every_block_has_its_own(run_90, backwards):
    body = "barrier_arrive(barriers); if (threadIdx.x < 2) barrier_arrive(barriers); barrier_wait(barriers, 0);"
    run_90("", f"{BEGIN} if (threadIdx.x == 0) {{ {body} }} else barrier_arrive(barriers);", grid=(4,), block=(2,))


#: What is wrong, by one thread after the other or by all at once, and the words for it.
WRONG = {
    "barrier_arrive(barriers + 2)": "barrier_init has begun no barrier here",
    "*barriers = 0; barrier_arrive(barriers)": "barrier_init has begun no barrier here, or it was overwritten",
    "barrier_arrive(barriers + 3)": "8 bytes of shared memory",
    "barrier_arrive((Barrier*)((char*)barriers + 4))": "8 bytes of shared memory, at a multiple of 8",
    "barrier_arrive((Barrier*)x)": "8 bytes of shared memory",
    "barrier_init(barriers, 0)": r"barrier_init \(.*\): 0 arrivals",
    "barrier_init(barriers, 1 << 20)": r"barrier_init \(.*\): 1048576 arrivals",
    "barrier_expect(barriers, 1 << 20)": r"barrier_expect \(.*\): 1048576 bytes",
    "barrier_wait(barriers, 2)": r"barrier_wait \(.*\): the parity 2",
    "barrier_expect(barriers + 1, 16); barrier_arrive(barriers + 1)": "more than 1 arrive at a barrier in one phase",
    "if (!threadIdx.x) barrier_init(barriers, 1); __syncthreads(); barrier_arrive(barriers)": "no fence_barrier_init",
    "if (!threadIdx.x) barrier_init(barriers + 2, 1), fence_barrier_init(); barrier_wait(barriers + 2, 1)": (
        "no __syncthreads|begun no barrier"
    ),
    "barrier_wait(barriers, 0)": r"deadlock in block \(0, 0, 0\):\n.*waits at barrier_wait",
    "if (threadIdx.x == 0) barrier_wait(barriers, 0); __syncthreads()": "deadlock",
}
CASES = "\n".join(f"case {i}: {{ {wrong}; break; }}" for i, wrong in enumerate(WRONG))


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong(cupy, run_90, backwards, wrong):
    x, which = cupy.zeros(1, np.uint64), np.int32(list(WRONG).index(wrong))
    body = f"{BEGIN} switch (which) {{ {CASES} }}"
    with pytest.raises(RuntimeError, match=WRONG[wrong]):
        run_90("unsigned long long* x, int which", body, x, which, block=(2,))
