"""Processes that share work: results in order, errors and deaths told at once, nobody left behind."""

import os
import signal
import subprocess
import sys
import time
from itertools import count
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from npconvnet.errors import InputError
from npconvnet.processes import in_processes, process_pool


class _Bar:
    """What a progress bar would show."""

    def __init__(self, n=0):
        self.n = n
        self.shown = [n]

    def update(self, steps):
        self.n += steps
        self.shown.append(self.n)


def new_bar(n: int = 0) -> Any:
    return _Bar(n)


def square(number, step):
    for _ in range(number):
        step()
    return number**2


def fail_or_never_end(number, step):
    if number == 0:
        raise InputError("the first task has failed")
    for _ in count():
        step()
        time.sleep(0.001)


def die_or_never_end(number, step):
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    fail_or_never_end(1, step)


def slow(number, step):
    for _ in range(10):
        time.sleep(0.1)
        step()


def blas_threads(_number, _step):
    np.ones((8, 8)) @ np.ones((8, 8))
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def kill_yourself():
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_come_in_the_order_of_the_tasks():
    bar = new_bar(100)
    assert in_processes(square, iter([7, 0, 3, 1, 9]), 5, 2, bar) == [49, 0, 9, 1, 81]
    assert bar.n == 120


def test_no_tasks_need_no_process():
    assert in_processes(square, iter([]), 0, 2, new_bar()) == []


def test_tasks_are_taken_a_few_ahead():
    taken: list[int] = []
    ahead: list[int] = []

    def tasks():
        for number in range(9):
            taken.append(number)
            yield number

    bar = new_bar()
    bar.update = lambda steps: ahead.append(len(taken))
    in_processes(square, tasks(), 9, 1, bar)
    assert ahead[0] == 2
    assert taken == list(range(9))


def test_the_bar_moves_in_the_middle_of_a_task():
    bar = new_bar()
    in_processes(slow, [1], 1, 1, bar)
    assert bar.n == 10
    assert len({n for n in bar.shown if 0 < n < 10}) >= 2


def test_a_process_has_one_thread():
    for threads in in_processes(blas_threads, range(2), 2, 2, new_bar()):
        assert threads
        assert set(threads) == {1}


@pytest.mark.parametrize(
    ("function", "message"), [(fail_or_never_end, "the first task has failed"), (die_or_never_end, "a process died")]
)
def test_what_stops_one_task_stops_all(function, message):
    with pytest.raises(InputError, match=message) as caught:
        in_processes(function, range(20), 20, 2, new_bar())
    assert "\n" not in str(caught.value)


def test_a_process_that_dies_is_one_line():
    with pytest.raises(InputError, match="a process died"), process_pool(2) as pool:
        pool.submit(kill_yourself).result()


def start(code):
    """A script in a process group of its own, as a terminal starts it."""
    before = "import os, time, signal, sys\nfrom npconvnet.processes import process_pool\n"
    return subprocess.Popen(
        [sys.executable, "-c", before + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("pause", [0, 0.1])
def test_ctrl_c_is_the_business_of_the_parent_from_the_first_moment_on(pause):
    process = start(f"""
try:
    with process_pool(2) as pool:
        print("begun", flush=True)
        time.sleep({pause})
        os.killpg(0, signal.SIGINT)
        time.sleep(60)
except KeyboardInterrupt:
    sys.exit("interrupted")
""")
    assert process.communicate(timeout=60) == ("begun\n", "interrupted\n")


def test_processes_end_when_their_parent_is_killed():
    process = start("""
with process_pool(2) as pool:
    pool.submit(int).result()
    print("begun", flush=True)
    pool.submit(time.sleep, 1000).result()
""")
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.kill()
    process.communicate(timeout=60)  # returns once no process holds stdout any more
