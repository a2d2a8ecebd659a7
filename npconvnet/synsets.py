"""The names of classes: ImageNet's synsets, and folder names where that is all there is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True, slots=True)
class Synset:
    """One class: its WordNet id, such as n02123045, and its names, such as "tabby, tabby cat"."""

    wnid: str
    names: str


@cache
def imagenet_synsets() -> tuple[Synset, ...]:
    """The 1000 classes of ILSVRC in the order of their scores, which is that of their wnids."""
    table = (resources.files("npconvnet") / "assets" / "imagenet_classes.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in table.splitlines()[1:])
    return tuple(Synset(wnid, names) for _, wnid, names in rows)
