"""Batches on their way to a GPU, by the stand-in: the right pixels, whether copies are done at once or at the last
moment, and copies under way while the network computes.
"""

import threading

import numpy as np
import pytest

from npconvnet.backend import host_memory
from npconvnet.data import loader as loader_module
from npconvnet.data.batch import Batch, copied_ahead
from npconvnet.data.image_files import UnreadableImage
from npconvnet.data.loader import BUFFERS, Loader
from npconvnet.errors import InputError
from tests.data.test_loader import Greys

SIZE = 4
SHAPE = (2, SIZE, SIZE, 3)


@pytest.fixture(params=["late", "at once"])
def copies(request, cupy, monkeypatch):
    """Copies are done as late as they may be, or as early."""
    if request.param == "at once":
        append = cupy.Stream._append

        def append_and_do(stream, work):
            append(stream, work)
            stream.synchronize()

        monkeypatch.setattr(cupy.Stream, "_append", append_and_do)


def in_one_buffer(count):
    """Batches of two that take turns in one buffer on the host, the last of one: number n has the value n."""
    buffer = host_memory(SHAPE, np.uint8, "gpu")
    for n in range(count):
        last = n == count - 1
        buffer[...] = n
        yield Batch(buffer[: 2 - last], np.array([n, n][: 2 - last]), np.array([n, n][: 2 - last]))


def test_a_buffer_is_filled_again_only_when_it_is_copied(copies, cupy):
    seen = 0
    for n, batch in enumerate(copied_ahead(in_one_buffer(7), SHAPE)):
        assert isinstance(batch.squares, cupy.ndarray)
        np.testing.assert_array_equal(batch.squares.get(), np.full((len(batch.labels), SIZE, SIZE, 3), n, np.uint8))
        seen += len(batch.labels)
    assert seen == 13


def test_the_next_batch_is_on_its_way_while_one_is_computed_with(cupy, monkeypatch):
    events = []
    set_ = cupy.ndarray.set

    def noted(array, host, stream=None):
        events.append(f"copy {host.flat[0]}")
        assert stream is not None
        assert stream is not cupy.cuda.get_current_stream()
        set_(array, host, stream)

    monkeypatch.setattr(cupy.ndarray, "set", noted)
    for n, _ in enumerate(copied_ahead(in_one_buffer(4), SHAPE)):
        events.append(f"compute {n}")
    assert events == [
        "copy 0", "copy 1", "compute 0", "copy 2", "compute 1", "copy 3", "compute 2", "compute 3",
    ]  # fmt: skip


def test_a_copy_waits_for_what_is_computed_with_the_array_that_it_overwrites(cupy, monkeypatch):
    """What the network has begun by then stands in its stream: an event behind it is waited for before every copy."""
    order = []
    wait_event, set_ = cupy.Stream.wait_event, cupy.ndarray.set

    def noted_wait(stream, event):
        assert event._stream is cupy.cuda.get_current_stream()
        order.append((stream, "wait"))
        wait_event(stream, event)

    def noted_set(array, host, stream=None):
        order.append((stream, "copy"))
        set_(array, host, stream)

    monkeypatch.setattr(cupy.Stream, "wait_event", noted_wait)
    monkeypatch.setattr(cupy.ndarray, "set", noted_set)
    assert len(list(copied_ahead(in_one_buffer(3), SHAPE))) == 3
    assert [what for _, what in order] == ["wait", "copy"] * 3
    assert len({id(stream) for stream, _ in order}) == 1


@pytest.mark.parametrize("leave_out", [[], [3, 17, 18, 19, 20, 39]])
def test_the_loader_feeds_a_gpu(copies, cupy, leave_out, monkeypatch):
    pinned = []
    alloc = cupy.cuda.alloc_pinned_memory

    def noted(size):
        pinned.append(size)
        return alloc(size)

    monkeypatch.setattr(cupy.cuda, "alloc_pinned_memory", noted)
    monkeypatch.setattr(loader_module, "PIECE", 2)
    source = Greys(39, {number: UnreadableImage("torn") for number in leave_out}, SIZE)
    seen = []
    for batch in Loader(source, 4, "gpu").epoch(1, 0):
        assert isinstance(batch.squares, cupy.ndarray)
        np.testing.assert_array_equal(batch.squares.get()[:, 0, 0, 0], batch.numbers)
        np.testing.assert_array_equal(batch.labels, batch.numbers % 3)
        seen += batch.numbers.tolist()
    assert sorted(seen) == sorted(set(range(39)) - set(leave_out))
    assert pinned == [4 * SIZE * SIZE * 3] * BUFFERS


def test_colour_statistics_are_measured_on_the_host(cupy):
    assert Loader(Greys(10, size=SIZE), 4, "gpu").colour_statistics().mean.tolist() == [4.5] * 3


def test_nothing_is_left_to_feed(cupy):
    assert list(Loader(Greys(8, size=SIZE), 4, "gpu").epoch(1, 0, first_batch=2)) == []


def test_an_error_of_the_loader_comes_through(cupy):
    with pytest.raises(InputError, match="damaged"):
        list(Loader(Greys(40, {7: InputError("damaged")}, SIZE), 4, "gpu").epoch(1, 0))


def test_leaving_early_waits_for_the_copy_that_is_under_way(cupy, monkeypatch):
    """The memory that it copies from is given back then."""
    waited: list[object] = []
    monkeypatch.setattr(cupy.Event, "synchronize", lambda event: waited.append(event))
    batches = copied_ahead(in_one_buffer(7), SHAPE)
    next(batches)
    before = len(waited)
    del batches
    assert len(waited) == before + 1


def test_leaving_early_ends_the_threads(cupy):
    before = threading.active_count()
    batches = Loader(Greys(1000, size=SIZE), 4, "gpu").epoch(1, 0)
    next(batches)
    assert threading.active_count() > before
    del batches
    assert threading.active_count() == before
