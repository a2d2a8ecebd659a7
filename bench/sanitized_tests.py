"""Runs tests of every kernel for a tool of compute-sanitizer, under which a kernel takes many times as long.

    compute-sanitizer --tool memcheck --error-exitcode 9 python bench/sanitized_tests.py tests/kernels/cuda

Which tests is said as to pytest, by its options too. Of each test that needs a GPU, those with the first and the last
of its parameters are run. Every array gets memory of its own, or an access outside of it would fall into memory of
CuPy's pool.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, Python looks in bench/ only

import click
import pytest

from bench.gpu import require_gpu
from npconvnet.backend import module_of
from npconvnet.cli import run

#: Those with arrays of gigabytes, and those that draw a hundred examples, would take all the time.
NOT_THESE = "not an_int_counts and not random_shapes"


class FirstAndLast:
    """Of each test function, leaves pytest the tests with the first and the last of its parameters."""

    @pytest.hookimpl(trylast=True)  # when those that need no GPU are gone
    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Called by pytest with all tests."""
        items[:] = first_and_last(items)


def first_and_last(items: Iterable[Any]) -> list[Any]:
    """Of tests that follow each other and are of the same function, the first and the last."""
    groups = ([*tests] for _, tests in groupby(items, key=lambda item: (item.path, item.originalname)))
    return [test for tests in groups for test in (*tests[:1], *tests[1:][-1:])]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "ignore_unknown_options": True})
@click.argument("tests", nargs=-1, required=True)
def main(tests: tuple[str, ...]) -> None:
    """Run tests of every kernel, under a tool of compute-sanitizer."""
    require_gpu()
    module_of("gpu").cuda.set_allocator(None)
    sys.exit(pytest.main(["-q", "-m", "gpu", "-k", NOT_THESE, "-p", "no:cacheprovider", *tests], [FirstAndLast()]))


if __name__ == "__main__":
    run(main)
