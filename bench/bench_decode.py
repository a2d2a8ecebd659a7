"""Times from the bytes of a JPEG to its pixels, by Pillow and by simplejpeg, and to a square; in one thread and in two.

The JSON file holds under `extra_info` what the median comes to in images/s. See bench/layer_shapes.py.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from npconvnet.data import image
from npconvnet.preprocessing import Picture, Preprocessing

PHOTO = Path(__file__).resolve().parents[1] / "npconvnet" / "assets" / "coffee.jpg"
SQUARE = Preprocessing(256, 224)
N = 16
#: (H, W), JPEG quality
FILES = {
    "most of ImageNet": ((375, 500), 92),
    "larger": ((1125, 1500), 92),
    "a prepared square": ((256, 256), 90),
}


def jpeg(size: tuple[int, int], quality: int) -> bytes:
    """A piece of the photo, mirrored on where it ends: as much detail a pixel at every size."""
    photo = image.read_image(PHOTO)
    beyond = [(0, max(0, length - had)) for length, had in zip(size, photo.shape, strict=False)]
    picture = np.pad(photo, [*beyond, (0, 0)], "symmetric")[: size[0], : size[1]]
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return file.getvalue()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("decoder", ["Pillow", "simplejpeg"])
@pytest.mark.parametrize("file", FILES)
def test_decode_image(
    benchmark: BenchmarkFixture, monkeypatch: pytest.MonkeyPatch, file: str, decoder: str, threads: int
) -> None:
    """All pixels of N files."""
    if decoder == "Pillow":
        monkeypatch.setattr(image, "simplejpeg", None)
    else:
        pytest.importorskip("simplejpeg")
    measure(benchmark, lambda data: image.decode_image(data, "x"), file, threads)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("file", FILES)
def test_load_square(benchmark: BenchmarkFixture, file: str, threads: int) -> None:
    """The squares of 256×256 of N files."""
    measure(benchmark, lambda data: image.load_square(data, "x", SQUARE), file, threads)


def measure(benchmark: BenchmarkFixture, load: Callable[[bytes], Picture], file: str, threads: int) -> None:
    """Times N files from memory, in so many threads."""
    data = jpeg(*FILES[file])
    with ThreadPoolExecutor(threads) as pool:
        benchmark(lambda: list(pool.map(load, N * [data])))
    if benchmark.stats is not None:  # None under --benchmark-disable
        benchmark.extra_info["images/s"] = round(N / benchmark.stats.stats.median)
