import io
import re
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image, ImageSequence

from npconvnet.data import image as image_module
from npconvnet.data.image import decode_image, decoder_name, load_square, read_image
from npconvnet.errors import InputError
from npconvnet.preprocessing import Preprocessing, resize_and_centre_crop


@pytest.fixture(params=["simplejpeg", "Pillow"], autouse=True)
def decoder(request, monkeypatch):
    """Every test runs with simplejpeg and without it."""
    if request.param == "Pillow":
        monkeypatch.setattr(image_module, "simplejpeg", None)
    else:
        pytest.importorskip("simplejpeg")
    return request.param


def encode(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def photograph(height=90, width=120, seed=0):
    """Smooth colours, which every codec keeps within a few grey levels."""
    grid = np.random.default_rng(seed).integers(20, 236, (5, 6, 3), np.uint8)
    return Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)


def ramp16():
    return (np.arange(60, dtype=np.uint16).reshape(6, 10) * 1092).astype(np.uint16)


def difference(a, b):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int))


def corrupt_exif():
    """A directory that promises more entries than there are bytes: Pillow warns of it when it opens the file."""
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 500) + bytes(30)


# ---- Decoding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_formats_come_back_exactly(format):
    picture = photograph()
    image = decode_image(encode(picture, format), "x.JPEG")
    assert image.dtype == np.uint8
    assert image.shape == (90, 120, 3)
    assert np.array_equal(image, picture)
    assert image.flags.writeable


JPEG_OPTIONS: dict[str, dict[str, Any]] = {
    "4:2:0": {},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 2},
    "stored as RGB": {"keep_rgb": True},
}


@pytest.mark.parametrize("options", JPEG_OPTIONS.values(), ids=list(JPEG_OPTIONS))
def test_jpeg(options):
    picture = photograph()
    assert difference(decode_image(encode(picture, "JPEG", quality=95, **options), "x"), picture).mean() < 2


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_modes_give_three_equal_channels(mode):
    picture = photograph().convert("L").convert(mode)
    image = decode_image(encode(picture), "x")
    assert np.array_equal(image, np.repeat(np.asarray(picture.convert("L"))[..., None], 3, axis=2))


def test_alpha_is_dropped_and_the_colour_under_it_kept():
    picture = photograph()
    see_through = picture.copy()
    see_through.putalpha(Image.linear_gradient("L").resize(picture.size))
    assert np.array_equal(decode_image(encode(see_through), "x"), picture)


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(0, 250, 25))], ids=["none", "index", "bytes"])
def test_palette(transparency):
    picture = photograph().quantize(10)
    data = encode(picture, transparency=transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode_image(data, "x")
    assert np.array_equal(image, picture.convert("RGB"))


def test_cmyk_which_adobe_stores_inverted_in_a_jpeg():
    cyan, magenta, yellow = photograph().split()
    black = Image.linear_gradient("L").resize(cyan.size)
    picture = Image.merge("CMYK", (cyan, magenta, yellow, black))
    jpeg = encode(picture, "JPEG", quality=95)
    assert b"Adobe" in jpeg[:64]
    assert difference(decode_image(jpeg, "x"), picture.convert("RGB")).mean() < 2
    assert np.array_equal(decode_image(encode(picture, "TIFF"), "x"), np.asarray(picture.convert("RGB")))


def ycck():
    """A JPEG as Photoshop writes CMYK: cyan, magenta and yellow turned into YCbCr; and the CMYK picture in it."""
    cyan, magenta, yellow = photograph().split()
    black = Image.linear_gradient("L").resize(cyan.size)
    planes = Image.merge("RGB", (cyan, magenta, yellow)).convert("YCbCr").split()
    inverted = [plane.point(lambda value: 255 - value) for plane in planes]  # as Pillow inverts all when it writes
    jpeg = bytearray(encode(Image.merge("CMYK", (*inverted, black)), "JPEG", quality=95))
    jpeg[jpeg.index(b"Adobe") + 11] = 2  # the colour transform: YCCK
    return bytes(jpeg), Image.merge("CMYK", (cyan, magenta, yellow, black))


def test_ycck():
    jpeg, picture = ycck()
    assert difference(decode_image(jpeg, "x"), picture.convert("RGB")).mean() < 2


def arithmetic_coded():
    """A grey JPEG whose arithmetic code is empty: the decoder reads zeros, which stand for some picture."""
    jpeg = encode(Image.new("L", (24, 16)), "JPEG")
    end_of_header = jpeg.index(b"\xff\xda") + 10
    return jpeg[:end_of_header].replace(b"\xff\xc0", b"\xff\xc9") + b"\xff\xd9"


def test_arithmetic_coded_jpeg():
    image = decode_image(arithmetic_coded(), "x")
    assert image.shape == (16, 24, 3)
    assert image.std() > 10


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (7, 7), (8, 1)])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_very_small_and_very_long_images(format, size):
    picture = photograph(*size)
    options = {"quality": 95, "subsampling": 0} if format == "JPEG" else {}
    data = encode(picture, format, **options)
    assert difference(decode_image(data, "x"), picture).max() <= 12
    assert load_square(data, "x", Preprocessing(16, 16)).shape == (16, 16, 3)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF"])
def test_bytes_after_the_end_of_the_image_do_not_count(format):
    data = encode(photograph(), format)
    for rest in (bytes(1000), b"\xff", data, b"\xff\xd9\xff"):
        assert np.array_equal(decode_image(data + rest, "x"), decode_image(data, "x"))


def test_a_jpeg_of_which_only_adobe_says_that_it_is_stored_as_rgb():
    data = bytearray(encode(photograph(), "JPEG", quality=95, keep_rgb=True))
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    for component in range(3):  # named 1, 2, 3 in place of R, G, B, as those of YCbCr usually are
        data[frame + 10 + 3 * component] = data[scan + 5 + 2 * component] = component + 1
    assert difference(decode_image(bytes(data), "x"), photograph()).mean() < 2


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_16_bit_grey_keeps_its_high_byte(byte_order):
    values = ramp16()
    format = "PNG" if byte_order == "<" else "TIFF"
    image = decode_image(encode(Image.fromarray(values.astype(byte_order + "u2")), format), "x")
    assert np.array_equal(image[..., 1], values >> 8)
    assert np.array_equal(image[..., 0], image[..., 2])


def test_16_bit_grey_ppm_is_mode_i():
    values = ramp16()
    data = b"P5 10 6 65535\n" + values.astype(">u2").tobytes()
    assert Image.open(io.BytesIO(data)).mode.startswith("I")
    assert difference(decode_image(data, "x")[..., 0], values >> 8).max() <= 1


@pytest.mark.parametrize("white", [1.0, 255.0, 1e6])
def test_floating_point_images_are_scaled_by_their_white(white):
    values = (np.linspace(0, 1, 60).reshape(6, 10) * white).astype(np.float32)
    values[0, 0] = np.nan
    image = decode_image(encode(Image.fromarray(values), "TIFF"), "x")
    assert difference(image[..., 0], np.linspace(0, 255, 60).reshape(6, 10)).max() <= 1


def test_integer_image_of_8_bit_values_keeps_them():
    values = np.arange(60, dtype=np.int32).reshape(6, 10) * 4
    assert np.array_equal(decode_image(encode(Image.fromarray(values), "TIFF"), "x")[..., 0], values)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_gives_its_first_frame(format):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("#c81414", "#1414c8")]
    data = encode(frames[0], format, save_all=True, append_images=frames[1:])
    assert len(list(ImageSequence.Iterator(Image.open(io.BytesIO(data))))) == 2
    image = decode_image(data, "x")
    assert image.shape == (10, 20, 3)
    assert difference(image, frames[0]).max() <= 8


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_never_turns_the_picture(format):
    picture = photograph()
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(
        decode_image(encode(picture, format, exif=exif), "x"), decode_image(encode(picture, format), "x")
    )


def test_corrupt_exif_is_harmless_and_silent():
    data = encode(photograph(), "JPEG", exif=corrupt_exif())
    with pytest.warns(UserWarning):
        Image.open(io.BytesIO(data)).getexif()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode_image(data, "x")
    assert np.array_equal(image, decode_image(encode(photograph(), "JPEG"), "x"))


# ---- What is no image -----------------------------------------------------------------------------------------------


def header_of_png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


DAMAGED = {
    "empty": b"",
    "text": b"<!DOCTYPE html><title>404</title>",
    "truncated jpeg": encode(photograph(), "JPEG")[:-300],
    "jpeg cut in its header": encode(photograph(), "JPEG")[:100],
    "jpeg marker only": b"\xff\xd8\xff",
    "truncated png": encode(photograph())[:-3000],
    "png cut in its header": encode(photograph())[:20],
    "truncated gif": encode(photograph(), "GIF")[:-2000],
    "without pixels": b"P6 0 5 255\n",
}


@pytest.mark.parametrize(
    "load",
    [decode_image, partial(load_square, preprocessing=Preprocessing(16, 16))],
    ids=["decode_image", "load_square"],
)
@pytest.mark.parametrize("data", DAMAGED.values(), ids=list(DAMAGED))
def test_what_is_not_a_whole_image_is_refused_by_name(data, load):
    with pytest.raises(InputError, match=r"^train/n1/a.JPEG: cannot be read as an image \(.+\)$") as caught:
        load(data, "train/n1/a.JPEG")
    assert "0x" not in str(caught.value)


def header_of_jpeg(width, height):
    jpeg = encode(photograph(16, 16), "JPEG")
    frame = jpeg.index(b"\xff\xc0")
    return jpeg[: frame + 5] + struct.pack(">HH", height, width) + jpeg[frame + 9 :]


@pytest.mark.parametrize("header", [header_of_png, header_of_jpeg])
@pytest.mark.parametrize("side", [10_000, 65_000], ids=["Pillow warns", "Pillow refuses"])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused_before_memory_is_taken(header, side, monkeypatch):
    data = header(side, side)
    monkeypatch.setattr(image_module, "_pixels", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("loaded"))
    reason = rf"({side} x {side} pixels|{side * side} pixels)"
    with pytest.raises(InputError, match=rf"^x: cannot be read as an image \(.*{reason}"):
        decode_image(data, "x")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF"])
def test_no_damage_gives_anything_but_an_image_or_an_input_error(format):
    rng = np.random.default_rng(1)
    data = np.frombuffer(encode(photograph(40, 50), format), np.uint8)
    for _ in range(150):
        damaged = data.copy()
        damaged[rng.integers(0, len(data), 8)] = rng.integers(0, 256, 8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert decode_image(damaged.tobytes(), "x").shape[2] == 3
            except InputError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_jpeg_cut_anywhere_is_refused(options):
    data = encode(photograph(40, 50), "JPEG", **options)
    for length in range(0, len(data) - 2, 7):
        with pytest.raises(InputError, match=r"^x: cannot be read as an image \(.+\)$"):
            decode_image(data[:length], "x")


def test_read_image(tmp_path):
    path = tmp_path / "Fußball 猫.JPEG"
    path.write_bytes(encode(photograph()))  # a PNG by its bytes
    assert np.array_equal(read_image(path), photograph())
    with pytest.raises(InputError, match=r"gone\.png: cannot be opened \(No such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(InputError, match="cannot be opened"):
        read_image(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(InputError, match=r"empty\.png: .*the file is empty"):
        read_image(tmp_path / "empty.png")


def test_threads_decode_alike_and_leave_the_warning_filters_alone():
    files = [encode(photograph(seed=seed), "JPEG", exif=corrupt_exif()) for seed in range(4)]
    expected = [decode_image(data, "x") for data in files]
    filters = list(warnings.filters)
    start = threading.Barrier(4)

    def decode(at):
        start.wait()
        return [decode_image(files[(at + step) % 4], "x") for step in range(20)]

    with ThreadPoolExecutor(4) as pool:
        for at, images in enumerate(pool.map(decode, range(4))):
            for step, image in enumerate(images):
                assert np.array_equal(image, expected[(at + step) % 4])
    assert warnings.filters == filters


# ---- Resizing -------------------------------------------------------------------------------------------------------


def test_load_square_of_what_is_not_a_large_jpeg_is_decode_and_resize():
    for data in (
        encode(photograph(375, 500), "JPEG"),
        encode(photograph(750, 1000)),
        encode(photograph(30, 40), "GIF"),
    ):
        expected = resize_and_centre_crop(decode_image(data, "x"), Preprocessing(256, 256))
        assert np.array_equal(load_square(data, "x", Preprocessing(256, 256)), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_load_square_of_a_large_jpeg_is_close_to_decode_and_resize(mode):
    picture = photograph(750, 1001)
    noise = np.random.default_rng(0).normal(128, 60, (300, 300)).clip(0, 255).astype(np.uint8)
    picture.paste(Image.fromarray(noise), (300, 200))  # detail that the small scale cannot show
    data = encode(picture.convert(mode), "JPEG", quality=95)
    square = load_square(data, "x", Preprocessing(64, 64))
    error = difference(square, resize_and_centre_crop(decode_image(data, "x"), Preprocessing(64, 64)))
    assert square.shape == (64, 64, 3)
    assert 0 < error.max() <= 16  # 0 < : the reduced scale is in use
    assert error.mean() < 1.5


def test_decoder_name(decoder):
    pillow = rf"Pillow {re.escape(PIL.__version__)} \(libjpeg.*\d\)"
    assert re.fullmatch(pillow, decoder_name())
