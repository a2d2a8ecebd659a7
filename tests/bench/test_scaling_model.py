"""The model of scaling beside numbers worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.scaling_model import (
    CLUSTERS,
    SUMS,
    Cluster,
    Step,
    all_reduce,
    assumed_images_per_second,
    assumed_step,
    backward_operations,
    bucket_names,
    fit,
    level,
    operations,
    predict,
    predictions,
    rank_counts,
    sum_by_levels,
)
from npconvnet.errors import InputError
from npconvnet.models import MODELS

STEP = Step(batch=10, buckets=(8, 4, 2), ready=(1.0, 2.0, 5.0), backward=6.0, update=2.0)
NVLINK, ONE_PORT, EIGHT_PORTS = Cluster("", 256, 0), Cluster("", 8, 1), Cluster("", 8, 8)


@pytest.fixture(scope="module")
def paper():
    return MODELS["paper"]()


# -- a step ------------------------------------------------------------------------------------------------------------


def test_one_rank_takes_its_own_time():
    assert STEP.images_per_second(1) == 10 / 8
    for cluster in CLUSTERS:
        for wire in SUMS:
            assert predict(STEP, 1, cluster, wire) == 10 / 8


@pytest.mark.parametrize(
    ("sums", "exposed"),
    [
        ((0.0, 0.0, 0.0), 0.0),
        ((1.0, 1.0, 1.0), 0.0),  # all hide; the last just so
        ((1.0, 1.0, 3.0), 2.0),  # only the last outlasts the backward: 5 + 3 − 6
        ((6.0, 1.0, 1.0), 3.0),  # the others wait for the first: 1 + 6 + 1 + 1 − 6
        ((0.5, 2.0, 2.5), 1.5),  # the first doesn't matter
    ],
)
def test_what_outlasts_the_backward_is_exposed(sums, exposed):
    assert STEP.exposed(sums) == exposed
    assert STEP.images_per_second(4, exposed) == 40 / (8 + exposed)
    assert STEP.exposed(sums, overlap=False) == sum(sums)


@given(st.lists(st.floats(0, 100), min_size=3, max_size=3))
def test_overlap_never_costs_and_never_gives_time(sums):
    assert 0 <= STEP.exposed(sums) <= sum(sums) + 1e-9


def test_a_faster_gpu_updates_no_faster():
    assert STEP.faster(2) == Step(batch=10, buckets=(8, 4, 2), ready=(0.5, 1.0, 2.5), backward=3.0, update=2.0)


def test_operations_are_those_of_the_floor(paper):
    """1.45 GFLOP forward and 4.2 in a step, as bench/README.md has it; conv1 by hand."""
    forward, backward = operations(paper), backward_operations(paper)
    assert forward["conv1"] == backward["conv1"] == 2 * 54 * 54 * 64 * 11 * 11 * 3
    assert forward["fc8"] == 2 * 4096 * 1000 == backward["fc8"] / 2
    assert sum(forward.values()) == pytest.approx(1.45e9, rel=0.01)
    assert sum(forward.values()) + sum(backward.values()) == pytest.approx(4.2e9, rel=0.01)


def test_the_linear_layers_are_ready_first(paper):
    step = assumed_step(paper, 20000, 128)
    assert step.images_per_second(1) == pytest.approx(20000)
    assert sum(step.buckets) == sum(p.nbytes for p in paper.parameters.values())
    assert bucket_names(paper)[:3] == [["fc8.weight"], ["fc7.weight"], ["fc6.weight"]]
    assert sum(step.buckets[:3]) / sum(step.buckets) == pytest.approx(0.96, abs=0.005)
    assert list(step.ready) == sorted(step.ready)
    assert step.ready[2] < step.backward / 2
    assert step.ready[-1] == pytest.approx(step.backward)


def test_a_gpu_cannot_be_faster_than_its_memory(paper):
    with pytest.raises(InputError, match=r"^--images-per-second 1e\+06: the update alone takes a GPU 0.36 ms"):
        assumed_step(paper, 1e6, 128)


def test_fit_finds_the_line():
    line = fit([(size, 3e-4 + 2e-9 * size) for size in (2**10, 2**20, 2**27)])
    assert (line.latency, line.seconds_per_byte) == pytest.approx((3e-4, 2e-9))
    assert line.seconds(10**6) == pytest.approx(2.3e-3)
    assert fit([(1, 2.0), (2, 1.0)]).seconds_per_byte == 0  # noise makes no sum that is over before it begins


# -- a sum over GPUs ---------------------------------------------------------------------------------------------------


def test_a_ring_in_a_machine():
    """Half a ring of two is there, half back: once the bytes, 370 GB in a second, and two steps."""
    assert all_reduce(370e9, 2, EIGHT_PORTS) == pytest.approx(1 + 8.4e-6 + 2 * 3.4e-6, abs=1e-9)


def test_a_ring_between_machines():
    """Of 30 steps four lead from machine to machine; 15/16 of the bytes pass a port of 47 GB/s twice."""
    seconds = 2 * 15 / 16 + 8.4e-6 + 26 * 3.4e-6 + 4 * 14e-6
    assert all_reduce(47e9, 16, ONE_PORT) == pytest.approx(seconds, abs=1e-9)


def test_eight_ports_are_as_fast_as_nvlink():
    assert all_reduce(370e9, 16, EIGHT_PORTS) == pytest.approx(2 * 15 / 16, abs=1e-3)


def test_a_tree_takes_little_time_to_pass():
    """Seven steps within the machines, seven between 128 of them, up and down."""
    assert all_reduce(0, 1024, ONE_PORT) == pytest.approx(14e-6 + 2 * 7 * 1.25e-6 + 2 * 7 * 8.5e-6)


def test_a_level():
    """Of 370 GB in words three quarters go to three others, and come back; 185e9 numbers are moved as 2.5 bytes."""
    seconds = 2 * 0.75 + 2.5 * 185e9 / 3.35e12 + 4 * 5e-6 + 10e-6 + 2 * 8.4e-6 + 3 * 3.4e-6
    assert level(370e9, 4, 370e9, net=False) == pytest.approx(seconds, abs=1e-9)
    assert level(370e9, 4, 370e9, net=True) == pytest.approx(seconds + 3 * (14e-6 - 3.4e-6), abs=1e-9)
    assert level(370e9, 1, 370e9, net=False) == 0


def test_bfloat16_in_a_machine():
    """740 GB are 370 of words: half go to the other GPU, half come back; 185e9 numbers are moved as 20 + 3 bytes."""
    seconds = 2 * 0.5 + 23 * 185e9 / 3.35e12 + 2 * 5e-6 + 4 * 10e-6 + 2 * 8.4e-6 + 3.4e-6
    assert sum_by_levels(740e9, 2, ONE_PORT) == pytest.approx(seconds, abs=1e-9)


def test_bfloat16_between_machines():
    """Each of eight GPUs has an eighth of 47 GB of words and of the port: three quarters of all pass it, and again."""
    within = 2 * 7 / 8 * 47 / 370 + 8 * 5e-6 + 2 * 8.4e-6 + 7 * 3.4e-6
    between = 2 * 3 / 4 + 4 * 5e-6 + 2 * 8.4e-6 + 3 * 14e-6
    kernels = 5 * 10e-6 + (20 + 2.25 + 2.5 / 8) * 23.5e9 / 3.35e12
    assert sum_by_levels(94e9, 32, ONE_PORT) == pytest.approx(within + between + kernels, abs=1e-9)


def test_bfloat16_between_machines_by_nvlink():
    """As many levels and messages; out of a machine leads half of its NVLink."""
    within = 2 * 7 / 8 + 8 * 5e-6 + 2 * 8.4e-6 + 7 * 3.4e-6
    between = 2 * (3 / 4 / 8) * 2 + 4 * 5e-6 + 2 * 8.4e-6 + 3 * 3.4e-6
    kernels = 5 * 10e-6 + (20 + 2.25 + 2.5 / 8) * 185e9 / 3.35e12
    assert sum_by_levels(740e9, 32, NVLINK) == pytest.approx(within + between + kernels, abs=1e-9)


def test_bfloat16_sends_a_message_to_each_of_a_level_not_to_all():
    """8 and 128, the steps of two rings, and five launches."""
    seconds = 136 * 5e-6 + 2 * 8.4e-6 + (14e-6 + 7 * 1.9e-6) + (14e-6 + 127 * 4e-6) + 5 * 10e-6
    assert sum_by_levels(0, 1024, EIGHT_PORTS) == pytest.approx(seconds)


@pytest.mark.parametrize("wire", SUMS)
@pytest.mark.parametrize("cluster", CLUSTERS, ids=lambda cluster: cluster.name)
def test_more_gpus_are_never_more_efficient(cluster, wire, paper):
    step = assumed_step(paper, assumed_images_per_second(paper), 128)
    counts = [n for n in rank_counts(1024) if cluster.holds(n)]
    efficiencies = [predict(step, n, cluster, wire) / n for n in counts]
    assert efficiencies == sorted(efficiencies, reverse=True)
    assert efficiencies[0] == pytest.approx(assumed_images_per_second(paper))


@pytest.mark.parametrize("wire", SUMS)
def test_more_ports_are_never_slower(wire, paper):
    step = assumed_step(paper, 20000, 128)
    assert all(predict(step, n, EIGHT_PORTS, wire) >= predict(step, n, ONE_PORT, wire) for n in rank_counts(1024))


def test_machines_without_ports_are_not_connected(paper):
    rows = {row["cluster"]: row["images_per_second"] for row in predictions(assumed_step(paper, 20000, 128))}
    assert max(rows["NVLink throughout, 256 at most"]) == 256
    assert max(rows["machines of 8, 400 Gb/s a GPU"]) == 1024


def test_rank_counts():
    assert [rank_counts(most) for most in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]
