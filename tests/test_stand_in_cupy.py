"""The stand-in itself: copies come late and in order, and memory that nobody has written holds nonsense."""

from concurrent.futures import ThreadPoolExecutor

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


def test_memory_that_nobody_holds_is_good_until_its_stream_gets_on(cupy, stream):
    for owner, other in [(cupy.cuda.Stream.null, stream), (stream, cupy.cuda.Stream.null)]:
        with owner:
            x = cupy.zeros((2, 3), np.float32)
        seen = cupy.memory_at(x[1].data.ptr, 12)
        del x
        other.synchronize()
        assert not seen.any()
        owner.synchronize()
        assert (seen == 255).all()


@pytest.mark.parametrize("view", [lambda x: x[1:, ::-1].T, lambda x: x.reshape(-1)[3:], lambda x: x[:, :, None]])
def test_views_hold_the_memory_that_they_show(cupy, view):
    host = np.arange(12.0).reshape(3, 4)
    x = cupy.asarray(host)
    shown = view(x)
    x += 1
    del x
    assert np.array_equal(shown.get(), view(host + 1))


def test_no_memory_beyond_that_of_an_array(cupy):
    x = cupy.zeros(4, np.float32)
    assert len(cupy.memory_at(x.data.ptr + 4, 12)) == 12
    with pytest.raises(ValueError, match="no 16 bytes"):
        cupy.memory_at(x.data.ptr + 4, 16)


def test_each_thread_begins_on_the_first_gpu(cupy, monkeypatch):
    monkeypatch.setattr(cupy.runtime, "getDeviceCount", lambda: 2)
    with ThreadPoolExecutor(1) as pool:
        on_first = cupy.ones(3)

        def on_second():
            cupy.Device(1).use()
            stream, x = cupy.cuda.Stream(non_blocking=True), cupy.ones(3)
            with pytest.raises(ValueError, match=r"resides \(0\) is different from the current device \(1\)"):
                x += on_first
            return stream, cupy.Device().pci_bus_id

        stream, address = pool.submit(on_second).result()
    assert address != cupy.Device().pci_bus_id == cupy.Device(0).pci_bus_id
    with pytest.raises(RuntimeError, match="does not match with the current device"), stream:
        pass
    with pytest.raises(RuntimeError, match="invalid device"):
        cupy.Device(2).use()
