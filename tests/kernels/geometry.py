"""The one place for the shapes that convolutions and poolings are tested on: a table, and a hypothesis strategy."""

from dataclasses import dataclass

import pytest
from hypothesis import strategies as st

from npconvnet.kernels.shapes import NO_PADDING, Padding, Rounding


@dataclass(frozen=True)
class Geometry:
    """Windows over an image: (H, W), (R, S), and how they lie."""

    size: tuple[int, int]
    window: tuple[int, int]
    stride: int = 1
    padding: Padding = NO_PADDING
    rounding: Rounding = "floor"

    @property
    def is_symmetric(self) -> bool:
        """Whether the padding is alike on both sides, which is all that PyTorch's poolings can do."""
        top, bottom, left, right = self.padding
        return (top, left) == (bottom, right)


TABLE = {
    "one pixel": Geometry((1, 1), (1, 1)),
    "1x1": Geometry((4, 3), (1, 1)),
    "the whole image": Geometry((4, 5), (4, 5)),
    "3x3 same size": Geometry((6, 5), (3, 3), padding=(1, 1, 1, 1)),
    "5x5 same size": Geometry((6, 7), (5, 5), padding=(2, 2, 2, 2)),
    "11x11 by 4, down": Geometry((24, 21), (11, 11), stride=4),
    "11x11 by 4, up": Geometry((24, 21), (11, 11), stride=4, rounding="ceil"),
    "3x3 by 2, down": Geometry((8, 7), (3, 3), stride=2),
    "3x3 by 2, up": Geometry((8, 7), (3, 3), stride=2, rounding="ceil"),
    "3x3 by 2, padded, up": Geometry((6, 8), (3, 3), stride=2, padding=(1, 1, 1, 1), rounding="ceil"),
    "asymmetric, down": Geometry((6, 7), (3, 2), stride=2, padding=(1, 0, 0, 1)),
    "asymmetric, up": Geometry((6, 7), (3, 2), stride=2, padding=(0, 2, 1, 1), rounding="ceil"),
    "gaps between": Geometry((9, 8), (2, 2), stride=3),
    "no window in the padding behind": Geometry((4, 4), (2, 2), stride=3, padding=(1, 1, 1, 1), rounding="ceil"),
}

over_the_table = pytest.mark.parametrize("geometry", TABLE.values(), ids=TABLE.keys())


@st.composite
def geometries(draw: st.DrawFn, padding_smaller_than_window: bool = False) -> Geometry:
    """Small ones of every kind, the window never larger than the padded image (nor the padding than the window)."""

    def along() -> tuple[int, int, int, int]:
        size, window = draw(st.integers(1, 6)), draw(st.integers(1, 4))
        padding = st.integers(0, window - 1 if padding_smaller_than_window else 3)
        before, after = draw(padding), draw(padding)
        return max(size, window - before - after), window, before, after

    h, r, top, bottom = along()
    w, s, left, right = along()
    stride = draw(st.integers(1, 4))
    rounding: Rounding = draw(st.sampled_from(["floor", "ceil"]))
    return Geometry((h, w), (r, s), stride, (top, bottom, left, right), rounding)
