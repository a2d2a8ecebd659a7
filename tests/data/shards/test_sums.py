import numpy as np

from npconvnet.data.augment import ColourStatistics
from npconvnet.data.shards.sums import PixelSums

SIZE = 7


def sums_of(squares):
    sums = PixelSums.zero(SIZE)
    for square in squares:
        sums.add(square)
    return sums


def test_mean_and_colours_are_those_of_all_pixels(rng):
    squares = (255 * rng.random((9, SIZE, SIZE, 3)) ** [1, 2, 3]).astype(np.uint8)
    sums, pixels = sums_of(squares), squares.reshape(-1, 3).astype(np.float64)
    assert sums.images == 9
    np.testing.assert_allclose(sums.mean_image(), squares.mean(axis=0, dtype=np.float64), rtol=1e-7)
    assert sums.mean_image().dtype == np.float32
    colours = sums.colours()
    np.testing.assert_allclose(colours.mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(colours.covariance, np.cov(pixels.T, bias=True), rtol=1e-9)
    np.testing.assert_allclose(colours.covariance, ColourStatistics.of(squares).covariance, rtol=1e-9)


def test_sums_do_not_depend_on_the_order(rng):
    squares = rng.integers(0, 256, (12, SIZE, SIZE, 3), np.uint8)
    whole, joined = sums_of(squares), PixelSums.zero(SIZE)
    for part in (squares[7:], squares[:0], squares[:3], squares[3:7][::-1]):
        joined.add_all(sums_of(part))
    assert joined.images == whole.images
    assert np.array_equal(joined.total, whole.total)
    assert np.array_equal(joined.products, whole.products)


def test_products_of_the_largest_pictures_are_exact():
    """255² × 1024² pixels are more than float32 or int32 hold."""
    sums = PixelSums.zero(1024)
    sums.add(np.full((1024, 1024, 3), 255, np.uint8))
    assert sums.products.tolist() == [255**2 * 1024**2] * 6
    assert np.array_equal(sums.colours().covariance, np.zeros((3, 3)))
