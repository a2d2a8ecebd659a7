"""PyTorch's way from files to batches: a DataLoader with Pillow and torch tensors, doing npconvnet's work.

Per picture: decode, shorter side to 256, centre square, a random crop of 224, a reflection, a colour, the normalisation
and a zeroed rectangle, as npconvnet/data/augment.py draws them, but by torch's own generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from npconvnet.data.augment import COLOUR_NOISE, ERASE_PROBABILITY, ERASE_SIDES
from npconvnet.data.ilsvrc import Example
from npconvnet.preprocessing import Preprocessing


class _Augmented(Dataset[tuple[torch.Tensor, int]]):  # type: ignore[misc]
    """Squares, augmented; whoever derives from it says where they come from."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self.mean, self.std = (
            torch.tensor(numbers).view(3, 1, 1) for numbers in (preprocessing.mean, preprocessing.std)
        )

    def augmented(self, square: torch.Tensor) -> torch.Tensor:
        """float32 (3, crop, crop) of a square, uint8 (resize, resize, 3)."""
        crop = self.preprocessing.crop
        top, left = torch.randint(self.preprocessing.resize - crop + 1, (2,)).tolist()
        x = square[top : top + crop, left : left + crop].permute(2, 0, 1).float()
        if torch.rand(()) < 0.5:
            x = x.flip(2)
        x = x.add_(COLOUR_NOISE * torch.randn(3, 1, 1)).sub_(self.mean).div_(self.std)
        if torch.rand(()) < ERASE_PROBABILITY:
            height, width = (torch.empty(2).uniform_(*ERASE_SIDES) * crop).round().int().tolist()
            top, left = (int(torch.randint(crop - side + 1, ())) for side in (height, width))
            x[:, top : top + height, left : left + width] = 0
        return x


class PhotoFiles(_Augmented):
    """Files decoded by Pillow as they are asked for."""

    def __init__(self, examples: Sequence[Example], preprocessing: Preprocessing) -> None:
        super().__init__(preprocessing)
        self.examples = list(examples)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        example, size = self.examples[number], self.preprocessing.resize
        with Image.open(example.path) as image:
            image.draft("RGB", (2 * size, 2 * size))
            rgb = image.convert("RGB")
        side = min(rgb.size)
        left, top = (rgb.width - side) / 2, (rgb.height - side) / 2
        box = (left, top, left + side, top + side)
        square = np.array(rgb.resize((size, size), Image.Resampling.BILINEAR, box=box))
        return self.augmented(torch.from_numpy(square)), example.label


class SquaresInMemory(_Augmented):
    """Squares, uint8 (N, resize, resize, 3), that are decoded already: a shard mapped into memory."""

    def __init__(self, squares: npt.NDArray[np.uint8], labels: npt.NDArray[Any], preprocessing: Preprocessing) -> None:
        super().__init__(preprocessing)
        self.squares, self.labels = squares, labels

    def __len__(self) -> int:
        return len(self.squares)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        square = torch.from_numpy(np.array(self.squares[number]))
        return self.augmented(square), int(self.labels[number])


def data_loader(pictures: _Augmented, batch_size: int, workers: int, pinned: bool) -> DataLoader[Any]:
    """Shuffled batches by `workers` processes that stay alive from epoch to epoch; in pinned memory, for a GPU."""
    return DataLoader(
        pictures, batch_size, shuffle=True, num_workers=workers, persistent_workers=True, pin_memory=pinned
    )
