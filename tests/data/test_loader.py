"""The loader: each image once an epoch, in an order that a resumed run repeats; its threads neither hang nor stay.

Picture n is grey, of the value 10·n, and of class n % 3.
"""

import signal
import threading
import time
import tracemalloc
from contextlib import suppress
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from npconvnet.data.ilsvrc import Example
from npconvnet.data.image_files import ImageFiles, UnreadableImage
from npconvnet.data.loader import BUFFERS, PIECE, UNREADABLE_SHOWN, Loader
from npconvnet.data.shards.reading import open_prepared
from npconvnet.errors import InputError
from npconvnet.parallel import threads, use_threads
from npconvnet.preprocessing import Preprocessing
from tests.data.prepared import write_prepared

COUNT, SIZE = 23, 16


@pytest.fixture(autouse=True)
def no_hang():
    """Whatever hangs is interrupted, and so fails."""
    signal.alarm(60)
    yield
    signal.alarm(0)


@pytest.fixture
def examples(tmp_path):
    paths = [tmp_path / f"{number}.JPEG" for number in range(COUNT)]
    for number, path in enumerate(paths):
        Image.new("RGB", (20, 24), (10 * number,) * 3).save(path, "PNG")
    return [Example(path.name, number % 3, path) for number, path in enumerate(paths)]


@pytest.fixture(params=["files", "shards"])
def source(request, tmp_path):
    if request.param == "files":
        return ImageFiles(request.getfixturevalue("examples"), Preprocessing(SIZE, SIZE))
    squares = np.broadcast_to(10 * np.arange(COUNT)[:, None, None, None], (COUNT, SIZE, SIZE, 3)).astype(np.uint8)
    return open_prepared(write_prepared(tmp_path / "prepared", squares, squares[:2])).train


class Greys:
    """As many pictures as wanted, from nowhere; those in `errors` raise theirs. Counts what is read."""

    def __init__(self, count=1000, errors=(), size=8):
        self.size, self.labels, self.errors = size, np.arange(count) % 3, dict(errors)
        self.count, self.reads = count, 0
        self._lock = threading.Lock()

    def __len__(self):
        return self.count

    def name(self, number):
        return str(number)

    def read(self, number, square):
        with self._lock:
            self.reads += 1
        if number in self.errors:
            raise self.errors[number]
        square[...] = number % 256


def numbers(batches):
    return [number for batch in batches for number in batch.numbers.tolist()]


def test_batches_hold_what_they_say(source):
    loader = Loader(source, 5)
    sizes = []
    for batch in loader.epoch(seed=1, epoch=0):
        sizes.append(len(batch.numbers))
        assert batch.squares.shape == (len(batch.numbers), SIZE, SIZE, 3)
        np.testing.assert_array_equal(batch.squares, np.broadcast_to(batch.squares[:, :1, :1, :1], batch.squares.shape))
        np.testing.assert_array_equal(batch.squares[:, 0, 0, 0], 10 * batch.numbers)
        np.testing.assert_array_equal(batch.labels, batch.numbers % 3)
        assert batch.labels.dtype == batch.numbers.dtype == np.int64
    assert loader.batches == len(sizes)
    assert sizes == [5, 5, 5, 5, 3]


def test_an_epoch_is_a_permutation_by_seed_and_number(source):
    loader = Loader(source, 5)
    first = numbers(loader.epoch(1, 0))
    assert sorted(first) == list(range(COUNT))
    assert first == numbers(Loader(source, 5).epoch(1, 0))
    assert first == numbers(Loader(source, 7).epoch(1, 0))
    assert first != numbers(loader.epoch(1, 1))
    assert first != numbers(loader.epoch(2, 0))
    assert numbers(loader.in_order()) == list(range(COUNT))


@pytest.mark.parametrize("first_batch", [0, 2, 4, 5])
def test_resumes_at_the_exact_next_image(source, first_batch):
    whole = numbers(Loader(source, 5).epoch(1, 3))
    assert numbers(Loader(source, 5).epoch(1, 3, first_batch)) == whole[5 * first_batch :]


@pytest.mark.parametrize("count", [1, 7])
def test_the_same_on_any_number_of_threads(count, own_threads):
    use_threads(count)
    seen = 0
    for batch in Loader(Greys(), 3 * PIECE + 1).epoch(1, 0):
        np.testing.assert_array_equal(batch.squares[:, 0, 0, 0], batch.numbers % 256)
        seen += len(batch.numbers)
    assert seen == 1000


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [2, 4, 7, 23, 40])
def test_shares_are_parts_of_the_batches_of_one(source, ranks, batch_size):
    """No picture twice, none lost, also where there are more ranks than pictures in a batch."""
    whole = [batch.numbers for batch in Loader(source, batch_size).epoch(5, 2, first_batch=1)]
    parts = [
        [batch.numbers for batch in Loader(source, batch_size, share=share(rank, ranks)).epoch(5, 2, first_batch=1)]
        for rank in range(ranks)
    ]
    for numbers, *of_ranks in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate(of_ranks), numbers)
        assert max(map(len, of_ranks)) - min(map(len, of_ranks)) <= 1


def share(rank, ranks):
    return lambda count: slice(count * rank // ranks, count * (rank + 1) // ranks)


def test_labels_other_than_the_source_s():
    batch = next(Loader(Greys(), 5, labels=np.arange(1000) * 2).epoch(1, 0))
    np.testing.assert_array_equal(batch.labels, 2 * batch.numbers)


def test_unreadable_images_are_named_once_and_left_out(examples, capsys):
    examples[4].path.write_bytes(examples[4].path.read_bytes()[:40])
    examples[9].path.unlink()
    loader = Loader(ImageFiles(examples, Preprocessing(SIZE, SIZE)), 5)
    for epoch in range(2):
        seen = []
        for batch in loader.epoch(1, epoch):
            np.testing.assert_array_equal(batch.squares[:, 0, 0, 0], 10 * batch.numbers)
            np.testing.assert_array_equal(batch.labels, batch.numbers % 3)
            seen += batch.numbers.tolist()
        assert sorted(seen) == sorted(set(range(COUNT)) - {4, 9})
    assert sorted(loader.unreadable) == ["4.JPEG", "9.JPEG"]
    assert capsys.readouterr().err.count("skipped: ") == 2


def test_not_all_of_many_unreadable_images_are_shown(capsys):
    loader = Loader(Greys(errors={number: UnreadableImage(f"{number} is torn") for number in range(100)}), 64)
    assert len(numbers(loader.epoch(1, 0))) == 900
    assert len(loader.unreadable) == 100
    assert capsys.readouterr().err.count("skipped: ") == UNREADABLE_SHOWN


def test_a_batch_of_nothing_readable_is_empty(examples):
    for example in examples:
        example.path.write_bytes(b"")
    loader = Loader(ImageFiles(examples, Preprocessing(SIZE, SIZE)), 5)
    assert [len(batch.labels) for batch in loader.epoch(1, 0)] == [0] * 5
    with pytest.raises(InputError, match="not one of the training images can be read"):
        loader.colour_statistics()


def test_colour_statistics_are_those_of_the_pictures(source):
    statistics = Loader(source, 5).colour_statistics()
    np.testing.assert_allclose(statistics.mean, [110, 110, 110])
    np.testing.assert_allclose(statistics.covariance, np.full((3, 3), 4400))


def test_a_damaged_shard_is_an_error_in_its_place(tmp_path):
    squares = np.zeros((40, SIZE, SIZE, 3), np.uint8)
    folder = write_prepared(tmp_path / "prepared", squares, squares[:2], per_shard=10)
    with (folder / "train-00002.raw").open("r+b") as file:
        file.seek(5 * SIZE * SIZE * 3)
        file.write(b"x")
    batches = Loader(open_prepared(folder).train, 5).in_order()
    assert len(numbers(islice(batches, 5))) == 25
    with pytest.raises(InputError, match=r"train-00002\.raw: damaged at picture train/25"):
        next(batches)
    assert next(batches, None) is None


def test_a_shard_that_is_cut_off_while_it_is_read(tmp_path):
    squares = np.zeros((40, SIZE, SIZE, 3), np.uint8)
    prepared = open_prepared(write_prepared(tmp_path / "prepared", squares, squares[:2], per_shard=10))
    (prepared.root / "train-00003.raw").write_bytes(b"")
    with pytest.raises(InputError, match=r"train-00003\.raw: damaged"):
        numbers(Loader(prepared.train, 5).epoch(1, 0))


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, KeyError, SystemExit, KeyboardInterrupt])
def test_whatever_a_thread_dies_of_is_raised(error):
    before = threading.active_count()
    batches = Loader(Greys(errors={700: error("of this")}), 64).in_order()
    with pytest.raises(error, match="of this"):
        numbers(batches)
    assert threading.active_count() == before


def test_the_batches_before_an_error_are_whole():
    batches = Loader(Greys(errors={700: RuntimeError()}), 64).in_order()
    assert numbers(islice(batches, 10)) == list(range(640))
    with pytest.raises(RuntimeError):
        next(batches)


def settled(source):
    """How much is read once nothing more comes."""
    reads = -1
    while reads != source.reads:
        reads = source.reads
        time.sleep(0.1)
    return reads


def test_a_slow_network_is_not_run_away_from():
    source = Greys(10_000)
    batches = Loader(source, 100).epoch(1, 0)
    places = set()
    for n, batch in enumerate(islice(batches, 3 * BUFFERS)):
        places.add(batch.squares.__array_interface__["data"][0])
        if n in (0, 5):
            assert settled(source) == (n + BUFFERS) * 100
    assert len(places) == BUFFERS


def test_a_batch_is_left_alone_until_the_next_is_asked_for():
    source = Greys(10_000)
    for batch in islice(Loader(source, 100).epoch(1, 0), 3):
        settled(source)
        np.testing.assert_array_equal(batch.squares[:, 0, 0, 0], batch.numbers % 256)


def test_memory_does_not_grow_with_the_number_of_batches():
    source = Greys(1000, size=64)
    peaks = []
    for count in (2 * BUFFERS, 10 * BUFFERS):
        tracemalloc.start()
        for _ in islice(Loader(source, 16).in_order(), count):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 16 * 64 * 64 * 3


def test_a_million_pictures_cost_a_few_numbers_each():
    count = 1_281_167
    source = Greys(count)
    tracemalloc.start()
    batch = next(Loader(source, 128).epoch(1, 0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(batch.numbers.tolist())) == 128
    assert peak < 16 * count
    assert source.reads <= BUFFERS * 128


def test_leaving_an_epoch_early_ends_its_threads(source):
    before = threading.active_count()
    batches = Loader(source, 5).epoch(1, 0)
    next(batches)
    assert threading.active_count() > before
    del batches
    assert threading.active_count() == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_loop_over_an_epoch_ends_its_threads(error):
    def train():
        for _ in Loader(Greys(100_000), 64).epoch(1, 0):
            raise error

    before = threading.active_count()
    with suppress(error):
        train()
    assert threading.active_count() == before


def test_ctrl_c_while_waiting_for_a_batch():
    """Only the pieces that the threads are at are waited for."""

    class Slow(Greys):
        def read(self, number, square):
            super().read(number, square)
            time.sleep(0.01)

    source = Slow()
    before = threading.active_count()
    threading.Timer(0.1, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        next(Loader(source, 1000).epoch(1, 0))
    assert threading.active_count() == before
    assert source.reads < 10 * PIECE * threads()
