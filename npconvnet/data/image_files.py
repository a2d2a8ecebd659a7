"""Pictures from image files that are decoded whenever they are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from npconvnet.data.ilsvrc import Example
from npconvnet.data.image import load_square
from npconvnet.errors import InputError
from npconvnet.preprocessing import Picture, Preprocessing


class UnreadableImage(InputError):  # noqa: N818 (it is no error of the run: one picture less)
    """An image file that can't be read; the other pictures can."""


class ImageFiles:
    """The squares of `examples`, resized as `preprocessing` says, and their `labels`, int64 (N,)."""

    def __init__(self, examples: Sequence[Example], preprocessing: Preprocessing) -> None:
        self.size = preprocessing.resize
        self.labels = np.array([example.label for example in examples], np.int64)
        self._examples, self._preprocessing = examples, preprocessing

    def __len__(self) -> int:
        return len(self._examples)

    def name(self, number: int) -> str:
        """The name of an image in its data set."""
        return self._examples[number].name

    def read(self, number: int, square: Picture) -> None:
        """Decodes image `number` into `square`, uint8 (size, size, 3); raises UnreadableImage where it can't."""
        example = self._examples[number]
        try:
            square[:] = load_square(example.read(), example.name, self._preprocessing)
        except InputError as error:
            raise UnreadableImage(str(error)) from error
