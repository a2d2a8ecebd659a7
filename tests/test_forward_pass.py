"""A batch in pieces: what the network computes in one, and the same bits on any number of threads."""

import threading

import numpy as np
import pytest

from npconvnet import forward_pass, kernels
from npconvnet.forward_pass import ForwardPass, class_scores, in_pieces, joint, pieces
from npconvnet.layers import Add, Conv2d, Dropout, GlobalAveragePool2d, Linear, ReLU
from npconvnet.models import MODELS
from npconvnet.network import INPUT, Network
from npconvnet.parallel import use_threads
from npconvnet.preprocessing import Preprocessing
from npconvnet.randomness import Chances, Purpose
from tests.conftest import assert_close

SIZE = 12


def network_of(*rows):
    network = Network("test", rows, Preprocessing(resize=SIZE, crop=SIZE)).astype(np.float64)
    network.initialize(np.random.default_rng(0))
    return network


def convolutional():
    return network_of(
        ("conv1", Conv2d(3, 8, 3, padding=1)), ("relu1", ReLU()), ("drop", Dropout()), ("pool", GlobalAveragePool2d())
    )


def with_linear():
    return network_of(
        ("conv1", Conv2d(3, 8, 3, stride=2)),
        ("relu1", ReLU()),
        ("fc", Linear(200, 6)),
        ("r", ReLU()),
        ("out", Linear(6, 4)),
    )


def only_linear():
    return network_of(("out", Linear(SIZE * SIZE * 3, 5)))


def around_the_linear():
    return network_of(
        ("conv1", Conv2d(3, 4, SIZE)),
        ("relu1", ReLU()),
        ("fc", Linear(4, 4)),
        ("pool", GlobalAveragePool2d(), ("conv1",)),
        ("out", Add(), ("fc", "pool")),
    )


NETWORKS = [convolutional, with_linear, only_linear, around_the_linear]
JOINTS = ["pool", "relu1", INPUT, "out"]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(forward_pass, "PIECE", 3)


def images(rng, count):
    return rng.standard_normal((count, SIZE, SIZE, 3))


def chances(numbers, seed=0):
    return Chances.of(np.array(numbers), seed, Purpose.DROPOUT, 0)


@pytest.mark.parametrize(
    ("count", "sizes"), [(0, [0]), (1, [1]), (2, [1, 1]), (5, [2, 3]), (6, [3, 3]), (7, [1, 2, 2, 2])]
)
def test_pieces_are_even_and_hold_every_image_once(count, sizes):
    x = np.arange(count)
    found = in_pieces(lambda piece: piece, x)
    assert [len(piece) for piece in found] == sizes
    assert np.concatenate(found).tolist() == x.tolist()


def test_a_batch_on_a_gpu_is_one_piece(cupy):
    assert pieces(cupy.asarray(np.zeros((9, 2)))) == [slice(0, 9)]


@pytest.mark.parametrize(("make", "expected"), list(zip(NETWORKS, JOINTS, strict=True)))
def test_the_pieces_join_where_the_first_linear_layer_reads(make, expected):
    assert joint(make()) == expected


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("count", [1, 2, 8])
def test_like_the_network_in_one(rng, make, count):
    network, x = make(), images(rng, count)
    scores, trace = network.forward(x)
    d_scores = rng.standard_normal(scores.shape)
    dx, gradients = network.backward(trace, d_scores, relu_rule="guided")

    run = ForwardPass(network, x)
    assert_close(run.scores, scores)
    assert_close(class_scores(network, x), scores)
    for _ in range(2):  # as often as one likes
        own_dx, own_gradients = run.backward(d_scores, relu_rule="guided")
        assert_close(own_dx, dx)
        assert own_gradients.keys() == gradients.keys()
        for name, gradient in gradients.items():
            assert_close(own_gradients[name], gradient)


@pytest.mark.parametrize("make", NETWORKS)
def test_only_what_is_asked_for(rng, make):
    network, x = make(), images(rng, 4)
    run = ForwardPass(network, x)
    dx, gradients = run.backward(np.ones_like(run.scores), input_gradient=False)
    assert dx is None
    assert gradients.keys() == network.parameters.keys()
    dx, gradients = run.backward(np.ones_like(run.scores), parameter_gradients=False)
    assert dx is not None
    assert dx.shape == x.shape
    assert gradients == {}


@pytest.mark.parametrize("model", ["tiny", "squeezenet"])
def test_the_same_bits_on_any_number_of_threads(model, own_threads):
    network = MODELS[model](classes=7)
    rng = np.random.default_rng(0)
    network.initialize(rng)
    size = network.preprocessing.crop
    x, labels = rng.standard_normal((8, size, size, 3), np.float32), rng.integers(0, 7, 8)
    found = []
    for count in (1, 2, 3):
        use_threads(count)
        run = ForwardPass(network, x, chances(range(8), seed=5))
        _, d_scores = kernels.softmax_cross_entropy(run.scores, labels, of=len(labels))
        dx, gradients = run.backward(d_scores)
        assert dx is not None
        found.append([a.tobytes() for a in (run.scores, dx, *gradients.values())])
    assert found[0] == found[1] == found[2]


def with_dropout():
    """Before the joint and behind it."""
    return network_of(
        ("conv1", Conv2d(3, 4, 3, stride=2)),
        ("drop1", Dropout()),
        ("fc", Linear(100, 30)),
        ("relu", ReLU()),
        ("drop2", Dropout(0.3)),
        ("out", Linear(30, 4)),
    )


@pytest.mark.parametrize("make", [convolutional, with_dropout])
def test_what_is_dropped_of_an_image_is_its_own_however_they_are_grouped(make, rng, monkeypatch):
    """In one batch, in other pieces, in other orders, dealt out to three."""
    network, x = make(), images(rng, 8)
    d_scores = rng.standard_normal((8, network.shapes[network.last][0]))

    def run(numbers):
        forward = ForwardPass(network, x[numbers], chances(numbers))
        dx, gradients = forward.backward(d_scores[numbers])
        return forward.scores, dx, gradients

    scores, dx, gradients = run(range(8))
    assert (scores != ForwardPass(network, x).scores).any()
    groupings = [[[5, 2, 7, 0, 1, 6, 4, 3]], [[0, 3, 6], [1, 4, 7], [2, 5]], [[n] for n in range(8)]]
    for piece, groups in [(1, [[*range(8)]]), *((3, groups) for groups in groupings)]:
        monkeypatch.setattr(forward_pass, "PIECE", piece)
        parts = [run(numbers) for numbers in groups]
        for numbers, (own_scores, own_dx, _) in zip(groups, parts, strict=True):
            assert_close(own_scores, scores[numbers])
            assert_close(own_dx, dx[numbers])
        for name, gradient in gradients.items():
            assert_close(sum(own[name] for _, _, own in parts), gradient)


def test_dropout_follows_the_chances(rng):
    network, x = with_dropout(), images(rng, 8)
    first, again, other = (ForwardPass(network, x, chances(range(8), seed)).scores for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0
    dropped = ForwardPass(network, np.repeat(x[:1], 8, axis=0), chances(range(8))).scores
    assert len(np.unique(dropped[:, 0])) == 8  # no image drops what another drops


def test_gradients_are_added_in_order_whoever_comes_first():
    total = forward_pass._SumInOrder()
    late = threading.Event()
    numbers = np.array([1e16, 1.0, -1e16])  # (a + b) + c is 0, in any other order it is not

    def second():
        late.wait()
        total.add(0, {"w": numbers[:1].copy()})

    thread = threading.Thread(target=second)
    thread.start()
    total.add(2, {"w": numbers[2:].copy()})
    total.add(1, {"w": numbers[1:2].copy()})
    late.set()
    thread.join()
    assert total.total["w"].tolist() == [0.0]


def test_linear_gradients_may_take_the_memory_of_the_last_ones(rng):
    network, x = with_linear(), images(rng, 8)
    run = ForwardPass(network, x)
    expected = {name: gradient.copy() for name, gradient in run.backward(np.ones_like(run.scores))[1].items()}
    before = {name: np.full_like(gradient, np.nan) for name, gradient in expected.items()}
    _, found = run.backward(np.ones_like(run.scores), into=before)
    assert np.shares_memory(found["fc.weight"], before["fc.weight"])
    for name, gradient in expected.items():
        np.testing.assert_array_equal(found[name], gradient)
