"""Output sizes and padding of sliding windows: once, for every kernel, on both devices.

A window of `window` pixels moves by `stride` over `size` pixels with `before` and `after` pixels of padding. The
number of places it stops at, with the division rounded down or up:

    outputs = (before + size + after - window) / stride + 1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Rounding = Literal["floor", "ceil"]
Convention = Literal["caffe", "cudaconvnet"]

#: (top, bottom, left, right), in pixels
Padding: TypeAlias = tuple[int, int, int, int]

NO_PADDING: Padding = (0, 0, 0, 0)

#: How each framework rounds (convolutions, poolings). 224 pixels reach fc6 as 6×6 under both, and as 5×5 all-floor.
ROUNDING: dict[Convention, tuple[Rounding, Rounding]] = {"caffe": ("floor", "ceil"), "cudaconvnet": ("ceil", "ceil")}


@dataclass(frozen=True, slots=True)
class Windows:
    """Where the windows of a convolution or a pooling lie over an image.

    `overhang` is how far the last window reaches beyond the padded image, (bottom, right); it is 0 unless rounding up.
    """

    outputs: tuple[int, int]
    padding: Padding
    overhang: tuple[int, int]

    @property
    def padding_and_overhang(self) -> Padding:
        """All the pixels that must stand around the image so that every window is inside."""
        top, bottom, left, right = self.padding
        return top, bottom + self.overhang[0], left, right + self.overhang[1]


@dataclass(frozen=True, slots=True)
class Pooling:
    """Where the windows of a pooling lie: the arguments of `place_windows` that are not the image's."""

    window: tuple[int, int]
    stride: int
    padding: Padding = NO_PADDING
    rounding: Rounding = "floor"

    def place(self, size: tuple[int, int]) -> Windows:
        """The windows over an image of (H, W) pixels; ValueError where none fits, or one could hold only padding."""
        require_pixels_in_every_window(self.window, self.padding)
        return place_windows(size, self.window, self.stride, self.padding, self.rounding)


def place_windows(
    size: tuple[int, int],
    window: tuple[int, int],
    stride: int,
    padding: Padding = NO_PADDING,
    rounding: Rounding = "floor",
) -> Windows:
    """Places windows of (R, S) pixels over an image of (H, W) pixels; see the module's formula.

    Raises ValueError where not even one window fits.
    """
    top, bottom, left, right = padding
    if stride < 1 or min(window) < 1 or min(padding) < 0:
        raise ValueError(f"window {window} and stride {stride} must be positive and padding {padding} not negative")
    p, overhang_bottom = _count(size[0], window[0], stride, top, bottom, rounding)
    q, overhang_right = _count(size[1], window[1], stride, left, right, rounding)
    return Windows((p, q), padding, (overhang_bottom, overhang_right))


def _count(size: int, window: int, stride: int, before: int, after: int, rounding: Rounding) -> tuple[int, int]:
    room = before + size + after - window
    if room < 0:
        raise ValueError(f"a window of {window} pixels does not fit into {before} + {size} + {after} pixels")
    count = room // stride + 1
    if rounding == "ceil" and room % stride and count * stride < before + size:
        # One more window, unless it would start in the padding behind the image (the rule of Caffe and PyTorch).
        count += 1
    return count, max(0, (count - 1) * stride - room)


def require_pixels_in_every_window(window: tuple[int, int], padding: Padding) -> None:
    """Raises ValueError where a window could hold nothing but padding: it would have no maximum and no average."""
    top, bottom, left, right = padding
    if max(top, bottom) >= window[0] or max(left, right) >= window[1]:
        raise ValueError(f"the padding {padding} of a pooling must be smaller than its window {window}")
