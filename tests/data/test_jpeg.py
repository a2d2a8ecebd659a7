"""JPEGs by simplejpeg and by Pillow.

Both decode with libjpeg-turbo: to the same bits, as long as the versions that they bring along agree, which the 3.1.2
of simplejpeg 1.9 and the 3.2.0 of Pillow 13 do. Where they do not, these tests fail.
"""

import itertools
import warnings
from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from npconvnet.data import image as image_module
from npconvnet.data.image import decode_image, load_square
from npconvnet.errors import InputError
from npconvnet.preprocessing import Preprocessing
from tests.data.test_image import JPEG_OPTIONS, arithmetic_coded, encode, photograph, ycck

simplejpeg = pytest.importorskip("simplejpeg")


def by_both(load, monkeypatch):
    """What a call gives, or the message with which it refuses, with simplejpeg and without."""
    results = []
    for module in (simplejpeg, None):
        monkeypatch.setattr(image_module, "simplejpeg", module)
        try:
            results.append(load())
        except InputError as error:
            results.append(str(error))
    return results


def assert_both_agree(load, monkeypatch):
    fast, slow = by_both(load, monkeypatch)
    assert type(fast) is type(slow)
    assert fast == slow if isinstance(slow, str) else np.array_equal(fast, slow)
    return slow


def noisy(height, width, seed=0):
    """Detail in every pixel."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.blend(photograph(height, width, seed), Image.fromarray(noise), 0.4)


JPEGS = {
    **{name: encode(noisy(45, 60), "JPEG", **options) for name, options in JPEG_OPTIONS.items()},
    "grey": encode(noisy(45, 60).convert("L"), "JPEG"),
    "grey, progressive": encode(noisy(45, 60).convert("L"), "JPEG", progressive=True),
    "CMYK": encode(noisy(45, 60).convert("CMYK"), "JPEG"),
    "YCCK": ycck()[0],
    "arithmetic code": arithmetic_coded(),
}


@pytest.mark.parametrize("data", JPEGS.values(), ids=list(JPEGS))
def test_both_decode_to_the_same_bits(data, monkeypatch):
    assert assert_both_agree(lambda: decode_image(data, "x"), monkeypatch).shape[2] == 3


@pytest.mark.parametrize("options", JPEG_OPTIONS.values(), ids=list(JPEG_OPTIONS))
def test_both_decode_to_the_same_bits_at_any_size(options, monkeypatch):
    for size in itertools.product((1, 2, 7, 8, 9, 16, 17, 131), repeat=2):
        load = partial(decode_image, encode(noisy(*size), "JPEG", **options), "x")
        assert assert_both_agree(load, monkeypatch).shape == (*size, 3)


def test_both_agree_on_damaged_jpegs(monkeypatch):
    """The same picture, or the same refusal: where simplejpeg is not sure, Pillow has the last word."""
    rng = np.random.default_rng(0)
    outcomes: Counter[type] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(4000):
            data = bytearray(list(JPEGS.values())[number % len(JPEGS)])
            end = len(data) if number % 2 else data.index(b"\xff\xda")  # every other one in its header
            for at in rng.integers(0, end, rng.integers(1, 4)).tolist():
                match rng.integers(5):
                    case 0:
                        data[at : at + 1] = rng.bytes(1)
                    case 1:
                        data[at : at + 3] = b"\xff\xff\xff"
                    case 2:
                        data[at:at] = rng.bytes(int(rng.integers(1, 20)))
                    case 3:
                        del data[at : at + int(rng.integers(1, 30))]
                    case 4:
                        data[at:at] = data[at // 2 : at // 2 + 40]
            if rng.integers(5) == 0:
                del data[rng.integers(1, len(data)) :]
            outcomes[type(assert_both_agree(partial(decode_image, bytes(data), "x"), monkeypatch))] += 1
    assert min(outcomes.values()) > 500


@pytest.mark.parametrize("name", JPEGS)
def test_simplejpeg_decodes_ordinary_jpegs_and_nothing_else(name, monkeypatch):
    shapes: list[Any] = []

    def decode_jpeg(*args, **kwargs):
        shapes.append(None)
        picture = simplejpeg.decode_jpeg(*args, **kwargs)
        shapes[-1] = picture.shape
        return picture

    monkeypatch.setattr(image_module, "simplejpeg", SimpleNamespace(decode_jpeg=decode_jpeg))
    decode_image(encode(photograph()), "png.JPEG")
    picture = decode_image(JPEGS[name], "x")
    assert shapes == ([] if name in ("CMYK", "YCCK") else [picture.shape])


def test_both_return_a_square_of_the_right_size_as_it_is(monkeypatch):
    monkeypatch.setattr(image_module, "centre_square", lambda *_: pytest.fail("resampled"))
    data = encode(noisy(64, 64), "JPEG")
    square = assert_both_agree(lambda: load_square(data, "x", Preprocessing(64, 64)), monkeypatch)
    assert np.array_equal(square, decode_image(data, "x"))


@pytest.mark.parametrize("result", [ValueError("a warning"), RuntimeError("no decoder"), np.zeros((1, 2, 3), np.uint8)])
def test_what_simplejpeg_refuses_or_sizes_otherwise_is_decoded_by_pillow(result, monkeypatch):
    expected = decode_image(JPEGS["4:2:0"], "x")

    def decode_jpeg(*args, **kwargs):
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(image_module, "simplejpeg", SimpleNamespace(decode_jpeg=decode_jpeg))
    assert np.array_equal(decode_image(JPEGS["4:2:0"], "x"), expected)
