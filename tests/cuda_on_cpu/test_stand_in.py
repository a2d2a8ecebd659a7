"""Graphs and memory pools of the stand-in do what CuPy's do, and find out who relies on more."""

import gc
from functools import partial

import numpy as np
import pytest

DOUBLE = 'extern "C" __global__ void k(const float* x, float* y, float by) { y[threadIdx.x] = by * x[threadIdx.x]; }'


@pytest.fixture
def times(cupy):
    """Launches a kernel that makes y = by · x of (x, y, by)."""
    function = cupy.RawModule(code=DOUBLE).get_function("k")
    return lambda x, y, by: function((1,), (x.size,), (x, y, np.float32(by)))


@pytest.fixture
def stream(cupy):
    return cupy.cuda.Stream(non_blocking=True)


@pytest.fixture
def x(cupy):
    return cupy.asarray(np.arange(4, dtype=np.float32))


def captured(stream, work):
    with stream:
        stream.begin_capture()
        assert stream.is_capturing()
        result = work()
        return stream.end_capture(), result


def test_nothing_runs_before_the_graph_is_launched(cupy, stream, times, x):
    y = cupy.zeros(4, np.float32)
    graph, _ = captured(stream, lambda: times(x, y, 2))
    assert not stream.is_capturing()
    assert not y.get().any()
    graph.launch()
    assert y.get().tolist() == [0, 2, 4, 6]


def test_a_graph_takes_what_its_memory_holds_by_then(cupy, stream, times, x):
    y = cupy.zeros(4, np.float32)
    graph, _ = captured(stream, lambda: times(x, y, 3))
    for k in range(3):
        x[...] = cupy.full((4,), k, np.float32)
        graph.launch(stream=stream)
        stream.synchronize()
        assert y.get().tolist() == [3 * k] * 4


def test_it_waits_for_its_turn(cupy, stream, times, x):
    y = cupy.zeros(4, np.float32)
    graph, _ = captured(stream, lambda: times(x, y, 1))
    graph.launch(stream)
    assert not y.get().any()
    stream.synchronize()
    assert y.get().any()


def test_copies_are_recorded(cupy, stream, x):
    a, b, c, d, e = (cupy.zeros((2, 4), np.float32) for _ in range(5))

    def work():
        a[0] = x
        cupy.copyto(b[1], x)
        c[...] = 5
        d.fill(6)
        e[:, ::-2] = a[:, :2]
        return a.copy(), cupy.zeros((3,), np.int32)

    graph, (copied, zeros) = captured(stream, work)
    assert not any(array.get().any() for array in (a, b, c, d, e))
    x += 1
    graph.launch()
    assert a.get().tolist() == copied.get().tolist() == [[1, 2, 3, 4], [0] * 4]
    assert b.get().tolist() == [[0] * 4, [1, 2, 3, 4]]
    assert c.get().tolist() == [[5] * 4] * 2
    assert d.get().tolist() == [[6] * 4] * 2
    assert e.get().tolist() == [[0, 2, 0, 1], [0] * 4]
    assert zeros.get().tolist() == [0, 0, 0]


def test_views_are_no_work(cupy, stream, times, x):
    y = cupy.zeros((2, 4), np.float32)

    def work():
        flat = y.reshape(-1)[4:]
        times(cupy.ascontiguousarray(x).reshape(2, 2).ravel(), flat.view(np.float32), 2)
        assert len(y) == 2

    graph, _ = captured(stream, work)
    graph.launch()
    assert y.get().tolist() == [[0] * 4, [0, 2, 4, 6]]


@pytest.mark.parametrize(
    "work",
    [
        lambda cupy, x: cupy.asarray(np.zeros(4)),
        lambda cupy, x: x.set(np.zeros(4, np.float32)),
        lambda cupy, x: x.get(),
        lambda cupy, x: cupy.cuda.get_current_stream().synchronize(),
        lambda cupy, x: cupy.cuda.get_current_stream().begin_capture(),
        lambda cupy, x: x + 1,
        lambda cupy, x: x.__iadd__(1),
        lambda cupy, x: x.sum(),
        lambda cupy, x: cupy.exp(x),
        lambda cupy, x: float(x[0]),
        lambda cupy, x: bool(x[0]),
        lambda cupy, x: cupy.ascontiguousarray(x[::2]),
        lambda cupy, x: x.reshape(2, 2).T.reshape(-1),
        lambda cupy, x: x[x],
        lambda cupy, x: x.astype(np.float64),
        lambda cupy, x: x.__setitem__(x > 0, 0),
    ],
)
def test_what_a_capture_refuses(cupy, stream, x, work):
    before = x.get()
    with stream:
        stream.begin_capture()
        with pytest.raises((RuntimeError, IndexError)):
            work(cupy, x)
        stream.end_capture()
    np.testing.assert_array_equal(x.get(), before)


def test_the_null_stream_captures_nothing(cupy, stream):
    with pytest.raises(RuntimeError, match="default"):
        cupy.cuda.Stream.null.begin_capture()
    with pytest.raises(RuntimeError, match="IllegalState"):
        stream.end_capture()


def test_memory_of_a_pool_stays_its_own(cupy, stream, times, x):
    """What a capture has let go may be written again and again, and each time holds nonsense at first."""
    pool, y = cupy.cuda.MemoryPool(), cupy.zeros(4, np.float32)

    def work():
        between = cupy.empty(4, np.float32)
        times(x, between, 2)
        times(between, y, 5)

    with cupy.cuda.using_allocator(pool.malloc):
        graph, _ = captured(stream, work)
    others = [cupy.full((4,), 7, np.float32) for _ in range(50)]
    for _ in range(2):
        graph.launch()
        assert y.get().tolist() == [0, 10, 20, 30]
        y.fill(0)
    assert all((other.get() == 7).all() for other in others)


def test_a_part_that_a_replay_leaves_out_is_nonsense_each_time(cupy, stream, times, x):
    def work():
        y = cupy.empty(6, np.float32)
        times(x, y[:4], 2)
        return y

    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        graph, y = captured(stream, work)
    for _ in range(2):
        y.fill(1)
        graph.launch()
        np.testing.assert_array_equal(y.get(), [0, 2, 4, 6, np.nan, np.nan])


def test_memory_that_went_back_to_the_default_pool_is_found_out(cupy, stream, times, x):
    y = cupy.zeros(4, np.float32)

    def work():
        between = cupy.empty(4, np.float32)
        times(x, between, 2)
        times(between, y, 5)

    graph, _ = captured(stream, work)
    others = [cupy.full((4,), 7, np.float32) for _ in range(50)]
    with pytest.raises(RuntimeError, match="has gone back to the default pool"):
        graph.launch()
    assert all((other.get() == 7).all() for other in others)


def test_so_is_an_argument_that_nobody_holds_any_more(cupy, stream, times, x):
    y = cupy.zeros(4, np.float32)
    graph, _ = captured(stream, partial(times, x, y, 2))
    graph.launch()
    del y
    gc.collect()
    with pytest.raises(RuntimeError, match="has gone back"):
        graph.launch()


def test_a_pool_counts_its_bytes(cupy):
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        x = cupy.empty(100, np.float32)
        y = cupy.empty(1000, np.uint8)
    outside = cupy.empty(100, np.float32)
    assert (pool.used_bytes(), pool.total_bytes()) == (512 + 1024, 512 + 1024)
    del x, outside
    assert (pool.used_bytes(), pool.total_bytes()) == (1024, 512 + 1024)
    with cupy.cuda.using_allocator(pool.malloc):
        z = cupy.empty(100, np.float32)
    assert (pool.used_bytes(), pool.total_bytes()) == (512 + 1024, 512 + 1024)
    assert np.isnan(z.get()).all()
    del y


def test_memory_of_a_pool_is_used_again_at_its_address(cupy):
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        x = cupy.zeros(100, np.float32)
        address = x.data.ptr
        del x
        assert cupy.memory_at(address, 400).nbytes == 400
        x = cupy.zeros(100, np.float32)
        assert x.data.ptr == address
        assert not x.get().any()
        del x
    del pool
    with pytest.raises(ValueError, match="no 400 bytes"):
        cupy.memory_at(address, 400)


def test_an_array_outlives_its_pool(cupy):
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        x = cupy.ones(100, np.float32)
    address = x.data.ptr
    del pool
    assert x.get().all()
    del x
    with pytest.raises(ValueError, match="no 400 bytes"):
        cupy.memory_at(address, 400)


def test_a_pool_with_a_limit_runs_out_of_memory(cupy):
    pool = cupy.cuda.MemoryPool()
    pool.set_limit(size=2048)
    with cupy.cuda.using_allocator(pool.malloc):
        x = cupy.empty(1024, np.uint8)
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError, match="Out of memory allocating 1,536 bytes"):
            cupy.empty(1025, np.uint8)
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)
    del x


def test_the_default_pool(cupy):
    pool = cupy.get_default_memory_pool()
    before = pool.used_bytes()
    x = cupy.empty(10_000, np.uint8)
    assert pool.used_bytes() - before == 10_240
    assert pool.total_bytes() >= pool.used_bytes()
    del x
    assert pool.used_bytes() == before


def test_the_device(cupy, monkeypatch):
    device = cupy.cuda.Device()
    assert device.compute_capability == "90"
    assert device.attributes["MultiProcessorCount"] == 132
    assert cupy.cuda.runtime.getDeviceProperties(0)["multiProcessorCount"] == 132
    free, total = device.mem_info
    assert 0 < free < total
    monkeypatch.setattr(cupy.cuda.Device, "compute_capability", "75")
    assert cupy.cuda.Device().compute_capability == "75"
