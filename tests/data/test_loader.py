"""The loader: each image once an epoch, in an order that a resumed run repeats; what can't be read is left out."""

import io
import threading

import numpy as np
import pytest
from PIL import Image

from npconvnet.data import loader as loader_module
from npconvnet.data.ilsvrc import Example
from npconvnet.data.loader import Loader
from npconvnet.errors import InputError
from npconvnet.preprocessing import Preprocessing

SQUARES = Preprocessing(16, 16)


@pytest.fixture
def examples(tmp_path):
    """Twenty-three grey pictures: number n has label n % 3 and the grey value 10·n."""
    made = []
    for number in range(23):
        path = tmp_path / f"{number}.JPEG"
        buffer = io.BytesIO()
        Image.new("RGB", (20, 24), (10 * number,) * 3).save(buffer, "PNG")
        path.write_bytes(buffer.getvalue())
        made.append(Example(path.name, number % 3, path))
    return made


def numbers(batches):
    return [number for batch in batches for number in batch.numbers.tolist()]


def test_batches_hold_what_they_say(examples):
    loader = Loader(examples, SQUARES, 5)
    batches = list(loader.epoch(seed=1, epoch=0))
    assert loader.batches == len(batches) == 5
    assert [len(batch.numbers) for batch in batches] == [5, 5, 5, 5, 3]
    for batch in batches:
        assert batch.squares.shape == (len(batch.numbers), 16, 16, 3)
        np.testing.assert_array_equal(batch.squares[:, 0, 0, 0], 10 * batch.numbers)
        np.testing.assert_array_equal(batch.labels, batch.numbers % 3)


def test_an_epoch_is_a_permutation_by_seed_and_number(examples):
    loader = Loader(examples, SQUARES, 5)
    first = numbers(loader.epoch(1, 0))
    assert sorted(first) == list(range(23))
    assert first == numbers(Loader(examples, SQUARES, 5).epoch(1, 0))
    assert first != numbers(loader.epoch(1, 1))
    assert first != numbers(loader.epoch(2, 0))
    assert numbers(loader.in_order()) == list(range(23))


@pytest.mark.parametrize("first_batch", [0, 2, 4, 5])
def test_resumes_at_the_exact_next_image(examples, first_batch):
    whole = numbers(Loader(examples, SQUARES, 5).epoch(1, 3))
    assert numbers(Loader(examples, SQUARES, 5).epoch(1, 3, first_batch)) == whole[5 * first_batch :]


def test_unreadable_images_are_named_once_and_left_out(examples, capsys):
    examples[4].path.write_bytes(examples[4].path.read_bytes()[:40])
    examples[9].path.unlink()
    loader = Loader(examples, SQUARES, 5)
    for epoch in range(2):
        assert sorted(numbers(loader.epoch(1, epoch))) == sorted(set(range(23)) - {4, 9})
    assert sorted(loader.unreadable) == ["4.JPEG", "9.JPEG"]
    assert capsys.readouterr().err.count("skipped: ") == 2


def test_a_batch_of_nothing_readable_is_empty(examples):
    for example in examples:
        example.path.write_bytes(b"")
    batches = list(Loader(examples, SQUARES, 5).epoch(1, 0))
    assert [len(batch.labels) for batch in batches] == [0] * 5
    with pytest.raises(InputError, match="not one of the training images can be read"):
        Loader(examples, SQUARES, 5).colour_statistics()


def test_pictures_beyond_the_cache_are_read_again(examples, monkeypatch):
    monkeypatch.setattr(loader_module, "CACHE_BYTES", 16 * 16 * 3 * 4)
    loader = Loader(examples, SQUARES, 5)
    before = [batch.squares.copy() for batch in loader.in_order()]
    assert len(loader._cache) == 4
    for old, new in zip(before, loader.in_order(), strict=True):
        np.testing.assert_array_equal(old, new.squares)


def test_leaving_an_epoch_early_ends_its_threads(examples):
    before = threading.active_count()
    batches = Loader(examples, SQUARES, 5).epoch(1, 0)
    next(batches)
    assert threading.active_count() > before
    del batches
    assert threading.active_count() == before


def test_colour_statistics_are_those_of_the_pictures(examples):
    statistics = Loader(examples, SQUARES, 5).colour_statistics()
    np.testing.assert_allclose(statistics.mean, [110, 110, 110])
