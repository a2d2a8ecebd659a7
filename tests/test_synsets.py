"""Which class a person means."""

import pytest

from npconvnet.errors import InputError
from npconvnet.synsets import Synset, find_class, imagenet_synsets


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("283", 283),
        ("n02123159", 282),
        ("N02123159", 282),
        ("tabby", 281),
        ("tabby, tabby cat", 281),
        ("Tiger Cat", 282),
        ("goose", 99),  # a whole name: not the mongoose
        ("Egyptian", 285),  # a whole word of a name
    ],
)
def test_wnid_index_name_or_part_of_a_name(text, index):
    assert find_class(imagenet_synsets(), text) == index


def test_a_whole_word_goes_before_a_part_of_one():
    synsets = [Synset("a", "mongoose"), Synset("b", "barnacle goose")]
    assert find_class(synsets, "goose") == 1
    assert find_class(synsets, "mongo") == 0


def test_a_folder_named_by_a_number_is_meant_before_an_index():
    synsets = [Synset("1", "one"), Synset("0", "zero")]
    assert find_class(synsets, "0") == 1


def test_an_ambiguous_name_lists_the_candidates():
    with pytest.raises(InputError, match=r"fits 2 classes: 550 n\d+ espresso maker; 967 n\d+ espresso; give") as error:
        find_class(imagenet_synsets(), "espress")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"; and \d+ more; give a wnid or an index"):
        find_class(imagenet_synsets(), "dog")


@pytest.mark.parametrize(
    ("text", "message"),
    [("unicorn", "no class is called 'unicorn'"), ("1000", "classes 0 to 999"), (" ", "no name"), ("-1", "no class")],
)
def test_classes_that_do_not_exist(text, message):
    with pytest.raises(InputError, match=message):
        find_class(imagenet_synsets(), text)


def test_special_characters_are_characters():
    assert find_class([Synset("a", "c++"), Synset("b", "cc")], "c+") == 0
