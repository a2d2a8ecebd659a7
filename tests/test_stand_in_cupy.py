"""The stand-in itself: copies come late and in order, and memory that nobody has written holds nonsense."""

import numpy as np
import pytest


@pytest.fixture
def stream(cupy):
    return cupy.cuda.Stream(non_blocking=True)


@pytest.fixture
def pinned(cupy):
    """Four ones in pinned memory."""
    x = np.frombuffer(cupy.cuda.alloc_pinned_memory(16), np.float32, 4)
    x[:] = 1
    return x


def test_a_copy_on_a_stream_waits(cupy, stream, pinned):
    x = cupy.zeros(4, np.float32)
    x.set(pinned, stream=stream)
    assert not x.get().any()
    stream.synchronize()
    assert x.get().all()


def test_a_buffer_that_is_written_too_early_gives_the_wrong_numbers(cupy, stream, pinned):
    x = cupy.empty(4, np.float32)
    x.set(pinned, stream=stream)
    pinned[:] = 2
    stream.synchronize()
    assert x.get().tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("wait", ["synchronize", "wait_event"])
def test_an_event_stands_behind_what_came_before_it_alone(cupy, stream, pinned, wait):
    x, y = cupy.zeros(4, np.float32), cupy.zeros(4, np.float32)
    x.set(pinned, stream=stream)
    event = stream.record()
    y.set(pinned, stream=stream)
    if wait == "synchronize":
        event.synchronize()
    else:
        cupy.cuda.get_current_stream().wait_event(event)
    assert x.get().all()
    assert not y.get().any()


def test_one_stream_waits_for_another(cupy, stream, pinned):
    x, event, other = cupy.zeros(4, np.float32), cupy.cuda.Event(), cupy.cuda.Stream(non_blocking=True)
    x.set(pinned, stream=stream)
    event.record(stream)
    other.wait_event(event)
    assert not x.get().any()
    other.synchronize()
    assert x.get().all()


def test_with_stream(cupy, stream, pinned):
    y = cupy.zeros(4, np.float32)
    with stream:
        assert cupy.cuda.get_current_stream() is stream
        x = cupy.asarray(pinned)
        pinned[:] = 2
        y.set(pinned)
    assert cupy.cuda.get_current_stream() is cupy.cuda.Stream.null
    assert not y.get().any()
    assert np.isnan(x.get()).all()
    with stream:
        assert (x + y).get().tolist() == [3, 3, 3, 3]


def test_what_set_refuses(cupy):
    x = cupy.zeros((2, 3), np.float32)
    for host, error in [
        (x, TypeError),
        (np.zeros((2, 3)), TypeError),
        (np.zeros((3, 2), np.float32), ValueError),
    ]:
        with pytest.raises(error):
            x.set(host)
    with pytest.raises(RuntimeError):
        x[:, ::2].set(np.zeros((2, 2), np.float32))


def test_fresh_memory_holds_nonsense(cupy):
    assert np.isnan(cupy.empty((2, 3), np.float32).get()).all()
    assert np.isnan(cupy.empty_like(cupy.zeros(2)).get()).all()
    assert (np.frombuffer(cupy.cuda.alloc_pinned_memory(600), np.uint8) == 255).sum() == 1024
