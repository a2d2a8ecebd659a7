"""Many things at once: in order, on as many threads as wanted, with BLAS held to one and left as it was."""

import os
import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from npconvnet.parallel import in_parallel, one_blas_thread, share_cores, threads, use_threads


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.fixture(params=[1, 2, 3])
def count(request, own_threads):
    use_threads(request.param)
    return request.param


def test_the_order_of_the_items_is_that_of_the_results(count):
    def wait_the_longer_the_earlier(item):
        time.sleep(0.002 * (7 - item))
        return item * 10

    assert in_parallel(wait_the_longer_the_earlier, range(7)) == [0, 10, 20, 30, 40, 50, 60]
    assert in_parallel(wait_the_longer_the_earlier, iter([6, 5])) == [60, 50]
    assert in_parallel(wait_the_longer_the_earlier, []) == []


def test_so_many_are_at_work_at_once(count):
    together = threading.Barrier(count)
    in_parallel(lambda _: together.wait(timeout=10), range(2 * count))  # a broken barrier raises

    def name_after_a_while(_):
        time.sleep(0.01)
        return threading.current_thread().name

    names = set(in_parallel(name_after_a_while, range(4 * count)))
    assert len(names) == count


def test_blas_is_held_to_one_thread_and_left_as_it_was(count):
    with threadpool_limits(2, "blas"):
        assert set(in_parallel(lambda _: max(blas_threads()), range(3))) == {1}
        assert max(blas_threads()) == 2
        with pytest.raises(ZeroDivisionError):
            in_parallel(lambda item: 1 / item, range(3))
        assert max(blas_threads()) == 2


def test_blas_is_released_by_the_last_who_holds_it():
    """Whoever comes second must not take the first one's limit for the program's own setting."""
    with threadpool_limits(2, "blas"):
        first, second = one_blas_thread(), one_blas_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert max(blas_threads()) == 1
        second.__exit__(None, None, None)
        assert max(blas_threads()) == 2


def test_a_call_within_a_call_runs_where_it_is(count):
    def outer(item):
        here = threading.current_thread().name
        assert in_parallel(lambda _: threading.current_thread().name, range(3)) == [here] * 3
        return item

    assert in_parallel(outer, range(5)) == list(range(5))


def test_an_error_stops_what_has_not_begun(count):
    begun = []

    def fail(item):
        begun.append(item)
        time.sleep(0.01)
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"):
        in_parallel(fail, range(100))
    assert len(begun) < 100


def test_numpys_settings_come_along(count):
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        in_parallel(lambda item: np.float64(1) / np.float64(item), range(2))


def test_threads_follow_the_machine_until_told_otherwise():
    machine = threads()
    assert machine == max(blas_threads())
    use_threads(5)
    assert threads() == 5
    use_threads(None)
    assert threads() == machine


def test_processes_on_the_same_cores_share_them():
    machine = threads()
    try:
        share_cores(2)
        assert threads() == max(1, machine // 2)
        share_cores(10 * machine)
        assert threads() == 1
        use_threads(3)
        assert threads() == 3
    finally:
        use_threads(None)
        share_cores(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python warns of forking with threads, which is the point
def test_a_forked_child_has_threads_of_its_own(own_threads):
    use_threads(2)
    in_parallel(abs, range(4))
    with one_blas_thread():
        child = os.fork()
        if not child:
            os._exit(int(in_parallel(abs, [-1, -2, -3]) != [1, 2, 3]))
    _, status = os.waitpid(child, 0)
    assert status == 0
