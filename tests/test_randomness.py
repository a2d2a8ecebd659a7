"""Generators depend on seed, purpose and position, and on nothing else."""

from npconvnet.randomness import Purpose, generator


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
