"""The names of classes: ImageNet's synsets, and folder names where that is all there is."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from npconvnet.errors import InputError

#: So many candidates of an ambiguous name are listed.
CANDIDATES_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Synset:
    """One class: its WordNet id, such as n02123045, and its names, such as "tabby, tabby cat"."""

    wnid: str
    names: str

    def __post_init__(self) -> None:
        # They may come from a file, and go to a terminal.
        for field in ("wnid", "names"):
            text = "".join(c if c.isprintable() else " " for c in getattr(self, field))
            object.__setattr__(self, field, text)


@cache
def imagenet_synsets() -> tuple[Synset, ...]:
    """The 1000 classes of ILSVRC in the order of their scores, which is that of their wnids."""
    table = (resources.files("npconvnet") / "assets" / "imagenet_classes.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in table.splitlines()[1:])
    return tuple(Synset(wnid, names) for _, wnid, names in rows)


def numbered_synsets(count: int) -> tuple[Synset, ...]:
    """The names of classes that have none."""
    return tuple(Synset(f"class{index}", f"class {index}") for index in range(count))


def find_class(synsets: Sequence[Synset], text: str) -> int:
    """The index of the class that `text` means: a wnid, an index, a name, or a part of a name; case doesn't matter.

    A whole name goes before a whole word of one, and that before a part of a word: "goose" is not the mongoose.
    Raises InputError where no class fits, or several do equally well, which it lists.
    """
    wanted = text.strip().casefold()
    if not wanted:
        raise InputError("the class has no name; give a class name, a part of one, a wnid or an index")
    if wanted.isdecimal() and wanted not in {synset.wnid for synset in synsets}:
        if int(wanted) >= len(synsets):
            raise InputError(f"no class {wanted}: the network has classes 0 to {len(synsets) - 1}")
        return int(wanted)
    for fits in _WAYS_TO_FIT:
        found = [index for index, synset in enumerate(synsets) if fits(wanted, synset)]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"'{text}' fits {len(found)} classes: {_listed(synsets, found)}; give a wnid or an index")
    raise InputError(f"no class is called '{text}'; give a class name, a part of one, a wnid or an index")


_WAYS_TO_FIT: tuple[Callable[[str, Synset], bool], ...] = (
    lambda wanted, synset: wanted == synset.wnid.casefold(),
    lambda wanted, synset: wanted in {synset.names.casefold(), *synset.names.casefold().split(", ")},
    lambda wanted, synset: re.search(rf"\b{re.escape(wanted)}\b", synset.names.casefold()) is not None,
    lambda wanted, synset: wanted in synset.names.casefold(),
)


def _listed(synsets: Sequence[Synset], found: Sequence[int]) -> str:
    shown = "; ".join(f"{index} {synsets[index].wnid} {synsets[index].names}" for index in found[:CANDIDATES_SHOWN])
    return shown + (f"; and {len(found) - CANDIDATES_SHOWN} more" if len(found) > CANDIDATES_SHOWN else "")
