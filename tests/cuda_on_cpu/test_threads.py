"""Threads wait for one another where they are told to, and nowhere else; who waits in vain is told why."""

import numpy as np
import pytest

from tests.cuda_on_cpu import emulator


@pytest.fixture
def numbers(cupy):
    return cupy.zeros(1024, np.int32)


@pytest.mark.parametrize("threads", [1, 31, 32, 33, 100, 1024])
def test_a_barrier_waits_for_all_threads_of_the_block(run, numbers, backwards, threads):
    body = """
        __shared__ int from[1024];
        for (int round = 0; round < 3; round++) {
            from[threadIdx.x] = threadIdx.x + round;
            __syncthreads();
            x[threadIdx.x] += from[blockDim.x - 1 - threadIdx.x];
            __syncthreads();
        }
    """
    run("int* x", body, numbers, block=(threads,))
    expected = 3 * np.arange(threads)[::-1] + 3
    assert numbers.get()[:threads].tolist() == expected.tolist()


def test_without_a_barrier_there_is_nonsense(run, numbers, monkeypatch):
    seen = []
    for backwards in False, True:
        monkeypatch.setattr(emulator, "backwards", backwards)
        body = "__shared__ int y[64]; y[threadIdx.x] = threadIdx.x; x[threadIdx.x] = y[63 - threadIdx.x];"
        run("int* x", body, numbers, block=(64,))
        seen.append(numbers.get()[:64].tolist())
    assert seen[0] == [-1] * 32 + list(range(32))[::-1]
    assert seen[1] == list(range(64))[:31:-1] + [-1] * 32


def test_a_warp_runs_until_it_has_to_wait(run, numbers, backwards):
    """Past what its own threads do together, up to the barrier of the block; and so again from there on."""
    body = """
        __shared__ int times;
        times = 0;
        __syncthreads();
        for (int i = 0; i < 2; i++) {
            for (int j = 0; j < 2; j++) {
                __syncwarp();
                if (threadIdx.x % 32 == 0) x[times++] = threadIdx.x / 32;
            }
            __syncthreads();
        }
    """
    run("int* x", body, numbers, block=(96,))
    order = [2, 2, 1, 1, 0, 0] if backwards else [0, 0, 1, 1, 2, 2]
    assert numbers.get()[:12].tolist() == 2 * order


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "if (threadIdx.x != 5)\n__syncthreads();",
            r"thread \(0, 0, 0\) .* __syncthreads\(\) .*5, 0, 0\) has finished",
        ),
        (
            "if (threadIdx.x < 32) return;\n__syncthreads();",
            r"thread \(32, .*__syncthreads\(\).*\(0, 0, 0\) has finished",
        ),
        (
            "if (threadIdx.x == 7)\n__syncthreads(); else\n__syncthreads();",
            r"waits at __syncthreads\(\) .*waits at __sync",
        ),
        ("if (threadIdx.x == 7)\n__syncthreads(); else\n__syncwarp();", r"(?s)deadlock.*waits at"),
        ("__shfl_sync(1, 0, 0);", "not in its own mask"),
        ("if (threadIdx.x == 7)\n__shfl_sync(~0u, 0, 0); else\n__syncwarp();", "a shuffle"),
    ],
)
def test_who_waits_in_vain_is_told_why(run, backwards, body, message):
    with pytest.raises(RuntimeError, match=message):
        run("", body, block=(64,))


def test_a_message_names_the_line(run):
    with pytest.raises(RuntimeError, match=r"stdin>:7\)"):
        run("", "if (threadIdx.x)\n\n__syncthreads();", block=(64,))


@pytest.mark.parametrize(
    ("call", "source"),
    [
        ("__shfl_sync(~0u, mine, 5)", lambda lane: 5 + 0 * lane),
        ("__shfl_sync(~0u, mine, 5, 8)", lambda lane: lane // 8 * 8 + 5),
        ("__shfl_sync(~0u, mine, (lane + 3) % 32)", lambda lane: (lane + 3) % 32),
        ("__shfl_sync(~0u, mine, lane + 3)", lambda lane: (lane + 3) % 32),
        ("__shfl_xor_sync(~0u, mine, 6)", lambda lane: lane ^ 6),
        ("__shfl_xor_sync(~0u, mine, 16)", lambda lane: lane ^ 16),
        ("__shfl_down_sync(~0u, mine, 4)", lambda lane: np.where(lane < 28, lane + 4, lane)),
        ("__shfl_down_sync(~0u, mine, 3, 8)", lambda lane: np.where(lane % 8 < 5, lane + 3, lane)),
        ("__shfl_up_sync(~0u, mine, 4)", lambda lane: np.where(lane >= 4, lane - 4, lane)),
        ("__shfl_up_sync(~0u, mine, 3, 16)", lambda lane: np.where(lane % 16 >= 3, lane - 3, lane)),
    ],
)
@pytest.mark.parametrize("dtype", ["int", "float", "double", "unsigned long long"])
def test_shuffles(run, numbers, backwards, call, source, dtype):
    body = f"""
        const int lane = threadIdx.x % 32;
        const {dtype} mine = threadIdx.x;
        x[threadIdx.x] = (int){call};
    """
    run("int* x", body, numbers, block=(64,))
    expected = source(np.arange(32))
    assert numbers.get()[:64].tolist() == [*expected, *(32 + expected)]


def test_a_sum_over_a_warp(run, numbers, backwards):
    body = """
        int sum = threadIdx.x;
        for (int i = 16; i; i /= 2) sum += __shfl_xor_sync(~0u, sum, i);
        x[threadIdx.x] = sum;
    """
    run("int* x", body, numbers, block=(96,))
    assert numbers.get()[:96].tolist() == [sum(range(w, w + 32)) for w in (0, 32, 64) for _ in range(32)]


def test_part_of_a_warp(run, numbers, backwards):
    """Who is not named goes his own way; what is asked of him is nonsense."""
    body = """
        if (threadIdx.x % 32 < 8) {
            x[threadIdx.x] = __shfl_xor_sync(0xFF, (int)threadIdx.x, 1);
            x[threadIdx.x] += __shfl_sync(0xFF, 0, 9);
        }
        __syncthreads();
        x[threadIdx.x] += 100;
    """
    run("int* x", body, numbers, block=(64,))
    expected = [100 + (t ^ 1) - 1 if t % 32 < 8 else 100 for t in range(64)]
    assert numbers.get()[:64].tolist() == expected


def test_a_warp_does_not_wait_for_who_has_finished(run, numbers, backwards):
    run("int* x", "if (threadIdx.x % 2) return; x[threadIdx.x] = __shfl_sync(~0u, 5, 0);", numbers, block=(40,))
    assert numbers.get()[:40].tolist() == [5, 0] * 20


def test_votes(run, numbers, backwards):
    run("int* x", "x[threadIdx.x] = __popc(__ballot_sync(~0u, threadIdx.x % 3 == 0));", numbers, block=(32,))
    assert numbers.get()[:32].tolist() == [11] * 32


def test_many_blocks_after_one_another(cupy, run, backwards):
    x = cupy.zeros(500, np.int32)
    body = """
        __shared__ int sum[64];
        sum[threadIdx.x] = threadIdx.x;
        for (int half = 32; half; half /= 2) {
            __syncthreads();
            if (threadIdx.x < half) sum[threadIdx.x] += sum[threadIdx.x + half];
        }
        if (threadIdx.x == 0) x[blockIdx.x] = sum[0] + blockIdx.x;
    """
    run("int* x", body, x, grid=(500,), block=(64,))
    assert x.get().tolist() == [2016 + b for b in range(500)]
