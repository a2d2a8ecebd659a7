"""Generators depend on seed, purpose and position, and on nothing else."""

import numpy as np
import pytest
from scipy.stats import kstest

from npconvnet.randomness import Chances, Purpose, generator, philox, uniforms


def draw(*arguments):
    return tuple(generator(*arguments).integers(0, 2**62, 4))


def test_same_place_same_numbers():
    assert draw(3, Purpose.AUGMENT, 5, 7) == draw(3, Purpose.AUGMENT, 5, 7)


def test_other_places_other_numbers():
    places = [
        (3, Purpose.AUGMENT, 5, 7),
        (4, Purpose.AUGMENT, 5, 7),
        (3, Purpose.DROPOUT, 5, 7),
        (3, Purpose.AUGMENT, 7, 5),
        (3, Purpose.AUGMENT, 5),
    ]
    assert len({draw(*place) for place in places}) == len(places)


def test_purposes_keep_their_numbers():
    """They are part of the random state of every checkpoint."""
    assert [p.value for p in Purpose] == [0, 1, 2, 3]
    assert [p.name for p in Purpose] == ["INITIALIZE", "SHUFFLE", "AUGMENT", "DROPOUT"]


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_known_answers(counter, key, words):
    """Of its authors: kat_vectors in Random123."""
    assert [int(word[0]) for word in philox([np.array([n], np.uint64) for n in counter], key)] == words


def test_every_item_has_chances_of_its_own():
    items = np.array([5, 0, 2**40, 2**40 + 2**32])
    together = uniforms(7, items, 3, Purpose.AUGMENT, 5)
    assert together.shape == (4, 7)
    assert len(np.unique(together)) == 28
    for row, item in zip(together, items, strict=True):
        np.testing.assert_array_equal(uniforms(7, np.array([item]), 3, Purpose.AUGMENT, 5)[0], row)
        np.testing.assert_array_equal(uniforms(3, np.array([item]), 3, Purpose.AUGMENT, 5)[0], row[:3])
    for seed, purpose, epoch in ((4, Purpose.AUGMENT, 5), (3, Purpose.DROPOUT, 5), (3, Purpose.AUGMENT, 6)):
        assert not np.isin(uniforms(7, items, seed, purpose, epoch), together).any()


def test_chances_are_uniform_and_independent():
    chances = uniforms(12, np.arange(5000), 0, Purpose.AUGMENT, 0)
    assert 0 < chances.min() < chances.max() < 1
    assert all(kstest(column, "uniform").pvalue > 0.001 for column in chances.T)
    np.testing.assert_allclose(np.corrcoef(chances.T), np.eye(12), atol=0.06)
    assert abs(np.corrcoef(chances[:-1].ravel(), chances[1:].ravel())[0, 1]) < 0.02  # from item to item


def test_uniforms_keep_their_bits():
    """They are part of every run; computed before there were streams."""
    words = uniforms(5, np.array([5, 2**40 + 7]), 3, Purpose.AUGMENT, 5) * 2**32 - 0.5
    assert words.tolist() == [
        [2178737473, 3433481198, 1481318900, 3263589618, 2536399186],
        [3948959060, 13975351, 1132351169, 1226661652, 4061836635],
    ]


def words(chances, count=4):
    """Words 0 to `count` − 1, a multiple of four, of every item, as a list."""
    rows, blocks = np.indices((len(chances.items), count // 4))
    return np.stack(chances.words(rows, blocks), axis=2).reshape(len(rows), count).tolist()


def test_words_are_philox_of_block_stream_and_item():
    item, key = 7 * 2**32 + 9, np.random.SeedSequence([3, Purpose.DROPOUT, 5]).generate_state(2)
    chances = Chances.of(np.array([2, item]), 3, Purpose.DROPOUT, 5).in_stream(11)
    expected = philox([np.array([n], np.uint64) for n in (6, 11, 9, 7)], key)
    assert words(chances, 28)[1][24:] == [int(word[0]) for word in expected]


def test_items_keep_their_words_in_any_company():
    items = np.array([5, 0, 2**40, 2**40 + 2**32])
    chances = Chances.of(items, 3, Purpose.DROPOUT, 5)
    together = words(chances, 8)
    assert len({word for row in together for word in row}) == 32
    assert words(chances[1:3], 8) == together[1:3]
    assert words(Chances.of(items[::-1], 3, Purpose.DROPOUT, 5), 8) == together[::-1]
    assert words(chances[2:2], 8) == []


def test_every_stream_seed_purpose_and_position_has_other_words():
    items = np.arange(3)
    found = [
        words(Chances.of(items, *place).in_stream(stream))
        for place in (
            (3, Purpose.DROPOUT, 5),
            (4, Purpose.DROPOUT, 5),
            (3, Purpose.AUGMENT, 5),
            (3, Purpose.DROPOUT, 6),
        )
        for stream in (0, 1)
    ]
    assert len({word for rows in found for row in rows for word in row}) == 8 * 3 * 4
