"""Errors counted by hand: a network that is told its scores, so that right and wrong are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from npconvnet.data.batch import Batch
from npconvnet.data.ilsvrc import Dataset, Example
from npconvnet.errors import InputError
from npconvnet.layers import EVERYTHING, Layer
from npconvnet.network import Network
from npconvnet.preprocessing import Preprocessing
from npconvnet.synsets import Synset
from npconvnet.training.distributed.ranks import Ranks
from npconvnet.training.evaluation import evaluate, labelled_for, places_of_classes

CLASSES = 8


class Script(Layer):
    """The red value of a view's first pixel picks its scores from a table."""

    def __init__(self, table):
        super().__init__()
        self.table = np.array(table, np.float64)

    def output_shape(self, *x_shapes):
        return self.table.shape[1:]

    def forward(self, *xs, chances=None):
        return self.table[xs[0][:, 0, 0, 0].astype(int)], None

    def backward(self, dy, saved, options=EVERYTHING):
        raise NotImplementedError


def scripted(scores_of_a_view):
    return Network("scripted", [("scores", Script(scores_of_a_view))], Preprocessing(resize=4, crop=2))


def batch(reds, labels):
    squares = np.zeros((len(reds), 4, 4, 3), np.uint8)
    squares[..., 0] = np.array(reds)[:, None, None]
    return Batch(squares, np.array(labels), np.arange(len(reds)))


#: Scores by rank: class 0 is the best, class 7 the worst.
DESCENDING = [list(range(CLASSES, 0, -1))]


@pytest.mark.parametrize("views", [1, 10])
def test_top1_and_top5_by_rank(views):
    errors = evaluate(scripted(DESCENDING), [batch([0] * 4, [0, 1, 4, 5]), batch([0] * 2, [7, 0])], views)
    assert errors.pictures == 6
    assert errors.top1 == 4 / 6
    assert errors.top5 == 2 / 6


def test_loss_is_the_mean_cross_entropy():
    scores = np.array(DESCENDING[0], float)
    log_probabilities = scores - np.log(np.exp(scores).sum())
    errors = evaluate(scripted(DESCENDING), [batch([0, 0], [1, 3])])
    assert errors.loss == pytest.approx(-(log_probabilities[1] + log_probabilities[3]) / 2)


class OneOfTwo(Ranks):
    """The second rank has counted what `other` says."""

    def __init__(self, *other):
        self.other = other

    def sum(self, *numbers):
        return tuple(own + other for own, other in zip(numbers, self.other, strict=True))


def test_the_errors_of_all_ranks():
    batches = [batch([0] * 4, [0, 1, 4, 5])]
    alone = evaluate(scripted(DESCENDING), batches)
    errors = evaluate(scripted(DESCENDING), batches, ranks=OneOfTwo(1, 1, 3.5, 2))
    assert (errors.pictures, errors.top1, errors.top5) == (6, 4 / 6, 2 / 6)
    np.testing.assert_allclose(errors.loss, (4 * alone.loss + 3.5) / 6)
    nothing = evaluate(scripted(DESCENDING), [], ranks=OneOfTwo(1, 1, 3.5, 2))
    assert (nothing.pictures, nothing.top1, nothing.loss) == (2, 0.5, 1.75)


def test_equal_scores_are_no_free_hits():
    errors = evaluate(scripted([[0.0] * CLASSES]), [batch([0] * CLASSES, range(CLASSES))])
    assert errors.top1 == 1 - 1 / CLASSES
    assert errors.top5 == 1 - 5 / CLASSES


def test_probabilities_of_the_ten_views_are_averaged():
    """Nine views mildly for class 0, one strongly for class 1: the sum of scores would say 1, the vote says 0."""
    mild, strong = [1.0] + [0.0] * 7, [0.0, 100.0] + [0.0] * 6
    squares = np.zeros((1, 4, 4, 3), np.uint8)
    squares[0, 0, 0, 0] = 1  # only the unreflected view from the top left corner begins with this pixel
    errors = evaluate(scripted([mild, strong]), [Batch(squares, np.array([0]), np.array([0]))], 10)
    assert errors.top1 == 0


def test_nothing_to_count():
    errors = evaluate(scripted(DESCENDING), [batch([], [])])
    assert errors.pictures == 0
    assert np.isnan(errors.top1)
    assert errors.to_json() == {"top1": None, "top5": None, "loss": None, "pictures": 0}


def data_set(*wnids):
    synsets = tuple(Synset(wnid, wnid) for wnid in wnids)
    examples = [Example(f"{n}", n, Path(f"{n}")) for n in range(len(wnids))]
    return Dataset(Path("data"), "class folders", synsets, examples, examples, frozenset(), "")


def test_labels_follow_the_wnids_of_the_network():
    network = scripted(DESCENDING)
    network.synsets = data_set("n3", "n1", "n2").synsets
    data = data_set("n1", "n2", "n3")
    assert [example.label for example in labelled_for(network, data)] == [1, 2, 0]
    assert labelled_for(network, data)[0] == replace(data.validation[0], label=1)
    np.testing.assert_array_equal(places_of_classes(network, data), [1, 2, 0])
    with pytest.raises(InputError, match="1 of its 2 classes, such as n9"):
        labelled_for(network, data_set("n1", "n9"))
