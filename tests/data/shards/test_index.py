import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from npconvnet.data.ilsvrc import Box
from npconvnet.data.shards.index import Index, Record

numbers = st.integers(0, 2**31 - 1)
boxes = st.builds(Box, *[st.integers(-(2**31), 2**31 - 1)] * 5)
names = st.binary(max_size=9).map(lambda data: data.decode("utf-8", "surrogateescape"))
records = st.builds(
    Record, numbers, names, st.tuples(numbers, numbers), numbers, st.integers(0, 2**64 - 1), st.lists(boxes, max_size=3)
)

RECORDS = [
    Record(2, "train/n1/a.JPEG", (500, 375), 432, 2**64 - 1, [Box(2, 0, -1, 499, 374), Box(1, 3, 4, 5, 6)]),
    Record(0, "val/grün 魚.JPEG", (1, 9), 432, 0),
    Record(1, "val/\udcff\udc80.jpg", (9, 1), 432, 7, [Box(0, 1, 2, 3, 4)]),
]


def records_of(index):
    return [
        Record(
            int(index.labels[n]),
            index.name(n),
            tuple(index.sizes[n].tolist()),
            int(index.lengths[n]),
            int(index.checksums[n]),
            index.boxes_of(n),
        )
        for n in range(len(index))
    ]


def with_lists(records):
    return [Record(each.label, each.name, each.size, each.length, each.checksum, list(each.boxes)) for each in records]


@given(st.lists(records, max_size=6))
def test_records_come_back(records):
    index = Index.of(records)
    assert len(index) == len(records)
    assert records_of(index) == records_of(Index.from_bytes(index.to_bytes())) == with_lists(records)


@given(st.lists(st.lists(records, max_size=3), max_size=4))
def test_joined_parts_are_the_index_of_all_records(parts):
    joined = Index.joined([Index.of(records) for records in parts])
    whole = Index.of([record for records in parts for record in records])
    assert joined.to_bytes() == whole.to_bytes()


# ---- What is refused ------------------------------------------------------------------------------------------------


def changed(**columns):
    """The file of RECORDS with other columns; None takes one away."""
    found = {**load(Index.of(RECORDS).to_bytes()), **columns}
    return save({name: column for name, column in found.items() if column is not None})


def test_an_unchanged_file_is_read():
    assert records_of(Index.from_bytes(changed())) == with_lists(RECORDS)


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\xff" * 8, b"\0" * 8, b"{" * 99, b"\x02\0\0\0\0\0\0\0{}"[:9]])
def test_files_that_are_no_safetensors(data):
    with pytest.raises(ValueError, match="not a safetensors file"):
        Index.from_bytes(data)


@pytest.mark.parametrize(
    "columns",
    [
        {"labels": None},
        {"more": np.zeros(3, np.int32)},
        {"labels": np.zeros(3, np.int64)},
        {"labels": np.zeros((3, 1), np.int32)},
        {"labels": np.zeros((), np.int32)},
        {"sizes": np.zeros((3, 3), np.int32)},
        {"boxes": np.zeros((3, 4), np.int32)},
        {"checksums": np.zeros(3, np.int64)},
    ],
    ids=str,
)
def test_other_columns(columns):
    with pytest.raises(ValueError, match="not those of an index"):
        Index.from_bytes(changed(**columns))


HUGE = 2**62 + 99
LENGTH = sum(len(record.name.encode("utf-8", "surrogateescape")) for record in RECORDS)


@pytest.mark.parametrize(
    "columns",
    [
        {"labels": np.zeros(2, np.int32)},
        {"sizes": np.zeros((4, 2), np.int32)},
        {"name_ends": np.array([1, 2, LENGTH - 1])},
        {"name_ends": np.array([1, 2, LENGTH + 1])},
        {"name_ends": np.array([2, 1, LENGTH])},
        {"name_ends": np.array([-1, 1, LENGTH])},
        {"name_ends": np.array([HUGE, -HUGE, LENGTH])},  # differences of these overflow to positive numbers
        {"box_ends": np.array([0, 0, 4])},
        {"names": np.zeros(0, np.uint8)},
    ],
    ids=str,
)
def test_columns_that_do_not_fit_together(columns):
    with pytest.raises(ValueError, match="don't fit together"):
        Index.from_bytes(changed(**columns))
