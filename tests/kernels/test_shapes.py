import pytest
from hypothesis import given

from npconvnet.kernels.shapes import ROUNDING, Rounding, place_windows, require_pixels_in_every_window
from tests.kernels.geometry import Geometry, geometries, over_the_table


def starts_along(size: int, window: int, stride: int, before: int, after: int, rounding: Rounding) -> list[int]:
    """Where the windows start, found by walking; the padding in front starts at 0."""
    end = before + size + after
    starts = [0]
    while True:
        start = starts[-1] + stride
        fits = start + window <= end
        pixels_are_left_over = starts[-1] + window < end and start < before + size
        if not (fits or (rounding == "ceil" and pixels_are_left_over)):
            return starts
        starts.append(start)


def assert_windows_are_where_walking_finds_them(g: Geometry) -> None:
    windows = place_windows(g.size, g.window, g.stride, g.padding, g.rounding)
    for axis, (before, after) in enumerate([g.padding[:2], g.padding[2:]]):
        starts = starts_along(g.size[axis], g.window[axis], g.stride, before, after, g.rounding)
        assert windows.outputs[axis] == len(starts)
        assert windows.overhang[axis] == max(0, starts[-1] + g.window[axis] - (before + g.size[axis] + after))
    if g.rounding == "floor":
        assert windows.overhang == (0, 0)


@over_the_table
def test_windows_are_where_walking_finds_them(geometry):
    assert_windows_are_where_walking_finds_them(geometry)


@given(geometries())
def test_windows_are_where_walking_finds_them_on_any_shape(geometry):
    assert_windows_are_where_walking_finds_them(geometry)


def test_by_hand():
    windows = place_windows((5, 6), (3, 3), stride=2, padding=(1, 0, 0, 0), rounding="ceil")
    assert windows.outputs == (3, 3)  # rows −1…1, 1…3, 3…5 and columns 0…2, 2…4, 4…6
    assert windows.overhang == (1, 1)
    assert windows.padding_and_overhang == (1, 1, 0, 1)


def sizes_through_the_network(conv_rounding: Rounding, pool_rounding: Rounding) -> list[int]:
    """The side of the image after each convolution and pooling of the paper's network, 224 pixels at its entrance."""

    def after(size: int, window: int, stride: int, padding: int, rounding: Rounding) -> int:
        return place_windows((size, size), (window, window), stride, (padding,) * 4, rounding).outputs[0]

    sizes = [after(224, 11, 4, 0, conv_rounding)]
    sizes += [after(sizes[-1], 3, 2, 0, pool_rounding)]
    sizes += [after(sizes[-1], 5, 1, 2, conv_rounding)]
    sizes += [after(sizes[-1], 3, 2, 0, pool_rounding)]
    sizes += [after(sizes[-1], 3, 1, 1, conv_rounding)]
    sizes += [after(sizes[-1], 3, 2, 0, pool_rounding)]
    return sizes


def test_both_conventions_bring_224_pixels_to_6():
    assert sizes_through_the_network(*ROUNDING["caffe"]) == [54, 27, 27, 13, 13, 6]
    assert sizes_through_the_network(*ROUNDING["cudaconvnet"]) == [55, 27, 27, 13, 13, 6]
    assert sizes_through_the_network("floor", "floor")[-1] == 5


@pytest.mark.parametrize(
    ("window", "stride", "padding"),
    [
        ((4, 1), 1, (0, 0, 0, 0)),
        ((1, 4), 1, (3, 3, 0, 0)),
        ((0, 1), 1, (0, 0, 0, 0)),
        ((1, 1), 0, (0, 0, 0, 0)),
        ((1, 1), 1, (0, 0, -1, 0)),
    ],
)
def test_what_cannot_be_is_refused(window, stride, padding):
    with pytest.raises(ValueError, match="window"):
        place_windows((3, 3), window, stride, padding)


def test_a_pooling_padded_by_a_whole_window_is_refused():
    require_pixels_in_every_window((2, 3), (1, 1, 2, 2))
    for padding in [(2, 0, 0, 0), (0, 2, 0, 0), (0, 0, 3, 0), (0, 0, 0, 3)]:
        with pytest.raises(ValueError, match="smaller than its window"):
            require_pixels_in_every_window((2, 3), padding)
