"""A small, honest stand-in for ImageNet: drawn pictures of ten object classes, written in the layout of ILSVRC.

Seven classes are told by their outline (whatever their fill) and three by their texture (on a blob of any outline).
Size, place, tilt, colour, light and clutter are drawn alike for all ten, so neither a colour nor a template gives the
class away. A picture holds one object, lighter than what is behind it; its bounding box comes from the object's mask.
"""

import json
import multiprocessing
import os
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from glob import escape
from io import BytesIO
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tqdm import tqdm

from npconvnet.errors import InputError

Reals = NDArray[np.floating]
Box = tuple[int, int, int, int]  # x_min, y_min, x_max, y_max: first and last column and row

# ---- Outlines: closed polygons (points, 2), y down, of any size; _place scales them into the picture ----------------


def _polar(radius: float | Reals, angle: Reals) -> Reals:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _full_turn(points: int) -> Reals:
    return np.linspace(0, 2 * np.pi, points)


def _star(rng: Generator) -> Reals:
    inner = rng.uniform(0.38, 0.46)
    return _polar(np.array([1, inner] * 5), _full_turn(11)[:-1])


def _crescent(rng: Generator) -> Reals:
    """The unit disc less a disc of radius r around (d, 0)."""
    r, d = rng.uniform(0.7, 0.95), rng.uniform(0.4, 0.6)
    x = (1 - r * r + d * d) / (2 * d)  # the circles meet at (x, +y) and (x, -y)
    y = np.sqrt(1 - x * x)
    sweep = np.linspace(-1, 1, 40)  # both arcs pass through angle pi
    outer = _polar(1, np.pi + sweep * (np.pi - np.arctan2(y, x)))
    inner = _polar(r, np.pi - sweep * (np.pi - np.arctan2(y, x - d))) + np.array([d, 0])
    return np.concatenate([outer, inner])


def _arrow(rng: Generator) -> Reals:
    shaft, neck = rng.uniform(0.18, 0.32), rng.uniform(-0.15, 0.2)
    side = np.array([(-1, shaft), (neck, shaft), (neck, 0.75)])
    return np.concatenate([side, [(1, 0)], side[::-1] * (1, -1)])


def _cross(rng: Generator) -> Reals:
    arm = rng.uniform(0.24, 0.4)
    corners = np.array([(1, -arm), (1, arm), (arm, arm)])
    quarter_turn = np.array([(0, 1), (-1, 0)])  # (x, y) -> (-y, x) for row vectors
    return np.concatenate([corners @ np.linalg.matrix_power(quarter_turn, k) for k in range(4)])


def _ring(rng: Generator) -> Reals:
    circle = _polar(1, _full_turn(60) + np.pi / 4)  # Pillow leaves a hairline in the seam if it comes to lie level
    return np.concatenate([circle, circle[::-1] * rng.uniform(0.45, 0.7)])


def _heart(rng: Generator) -> Reals:
    t = _full_turn(60)
    notch = rng.uniform(4, 6)
    y = 13 * np.cos(t) - notch * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1)


def _hourglass(rng: Generator) -> Reals:
    waist = rng.uniform(0.06, 0.2)
    right = np.array([(0.8, -1), (waist, 0), (0.8, 1)])
    return np.concatenate([right, right[::-1] * (-1, 1)])


def _blob(rng: Generator) -> Reals:
    """A wobbly disc: its radius has a few low harmonics of the angle."""
    angle = _full_turn(60)
    radius = np.ones_like(angle)
    for harmonic in (2, 3, 4, 5):
        radius += rng.uniform(0, 0.4 / harmonic) * np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi))
    return _polar(radius, angle)


# ---- Fills: the share of the object's second colour in each pixel, (H, W) in 0..1 -----------------------------------


def _plain(rng: Generator, height: int, width: int) -> Reals:
    """One colour, a gradient or a soft marbling: nothing that passes for one of the textures."""
    cells = rng.choice([1, 2, 4])
    return _upsampled(rng.uniform(0, 255, (cells, cells)), height, width) / 255


def _texture_plane(rng: Generator, height: int, width: int) -> tuple[Reals, Reals, float]:
    """Two perpendicular phases u, v in radians of a texture, turned and bent at random, and its period in pixels."""
    period = max(np.sqrt(height * width) / rng.uniform(2.2, 4), 10.0)
    y, x = (axis.astype(np.float32) * (2 * np.pi / period) for axis in np.ogrid[:height, :width])
    turn, phase_u, phase_v = rng.uniform(0, 2 * np.pi, 3)
    u = np.cos(turn) * x + np.sin(turn) * y + phase_u
    v = np.cos(turn) * y - np.sin(turn) * x + phase_v
    return u + rng.uniform(0, 0.8) * np.sin(0.3 * v), v, period


def _striped(rng: Generator, height: int, width: int) -> Reals:
    u, _, period = _texture_plane(rng, height, width)
    return _thresholded(np.sin(u) - rng.uniform(-0.4, 0.4), period)


def _spotted(rng: Generator, height: int, width: int) -> Reals:
    """Round spots on a hexagonal lattice: three waves at 60 degrees."""
    u, v, period = _texture_plane(rng, height, width)
    waves = np.cos(u) + 2 * np.cos(u / 2) * np.cos(np.sqrt(3) / 2 * v)
    return _thresholded(waves - rng.uniform(0.2, 0.9), period)


def _chequered(rng: Generator, height: int, width: int) -> Reals:
    u, v, period = _texture_plane(rng, height, width)
    return _thresholded(np.sin(u) * np.sin(v), period)


def _thresholded(wave: Reals, period: float) -> Reals:
    """1 where the wave is positive, 0 where negative, with an edge about two pixels soft."""
    return np.asarray(np.clip(0.5 + wave * (period / 12), 0, 1))


# ---- The classes ----------------------------------------------------------------------------------------------------


class _ToyClass(NamedTuple):
    wnid: str  # not a wnid of WordNet: those end below n16000000
    name: str
    outline: Callable[[Generator], Reals]
    fill: Callable[[Generator, int, int], Reals]


_CLASSES = (
    _ToyClass("n99000001", "star", _star, _plain),
    _ToyClass("n99000002", "crescent", _crescent, _plain),
    _ToyClass("n99000003", "arrow", _arrow, _plain),
    _ToyClass("n99000004", "cross", _cross, _plain),
    _ToyClass("n99000005", "ring", _ring, _plain),
    _ToyClass("n99000006", "heart", _heart, _plain),
    _ToyClass("n99000007", "hourglass", _hourglass, _plain),
    _ToyClass("n99000008", "striped blob", _blob, _striped),
    _ToyClass("n99000009", "spotted blob", _blob, _spotted),
    _ToyClass("n99000010", "chequered blob", _blob, _chequered),
)

TOY_SYNSETS: tuple[tuple[str, str], ...] = tuple((toy_class.wnid, toy_class.name) for toy_class in _CLASSES)
"""The ten classes as (wnid, name), in the order of their labels 0 to 9."""


# ---- One picture ----------------------------------------------------------------------------------------------------

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue, as in JPEG


def draw_picture(label: int, rng: Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw one picture of the class `label` (0 to 9).

    Returns the image (H, W, 3), uint8 RGB with sides of 96 to 160 pixels, and the mask (H, W) of the object's pixels.
    """
    width, height = (int(side) for side in rng.integers(96, 161, 2))
    toy_class = _CLASSES[label]
    scene = _background(rng, height, width)
    coverage = _coverage(_place(rng, toy_class.outline(rng), height, width), height, width)
    mask = coverage > 0
    x_min, y_min, x_max, y_max = _bounding_box(mask)
    window = np.s_[y_min : y_max + 1, x_min : x_max + 1]
    share = toy_class.fill(rng, y_max - y_min + 1, x_max - x_min + 1)[..., None]
    first, second = _object_colours(rng, scene[window].mean(axis=(0, 1)), textured=toy_class.fill is not _plain)
    scene[window] += coverage[window][..., None] * (first + share * (second - first) - scene[window])
    return _lit(rng, scene), mask


def _upsampled(grid: NDArray[np.float64], height: int, width: int) -> Reals:
    """A coarse grid of values 0..255, (h, w) or (h, w, 3), smoothly resized to height x width."""
    image = Image.fromarray(np.clip(grid, 0, 255).astype(np.uint8))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32)


def _background(rng: Generator, height: int, width: int) -> Reals:
    """A gradient or soft clouds around one colour, with faded clutter on top, drawn at twice the size: (H, W, 3)."""
    cells = rng.integers(2, 8)
    grid = rng.uniform(10, 120, 3) + rng.normal(0, rng.uniform(4, 25), (cells, cells, 3))
    canvas = Image.fromarray(_upsampled(grid, 2 * height, 2 * width).astype(np.uint8))
    _draw_clutter(rng, canvas)
    return np.asarray(canvas.reduce(2), np.float32)


def _draw_clutter(rng: Generator, canvas: Image.Image) -> None:
    """Patches, rectangles, blobs, dots and lines: faded, plain, and never the outline or the texture of a class."""
    draw = ImageDraw.Draw(canvas, "RGBA")
    size = np.array(canvas.size)
    short = float(size.min())

    def colour() -> tuple[int, int, int, int]:
        red, green, blue = rng.integers(0, 256, 3).tolist()
        return red, green, blue, int(rng.integers(30, 100))

    def polygon(outline: Reals, scale: float) -> None:
        points = _turned(outline * (scale * short), rng.uniform(0, 2 * np.pi)) + rng.uniform(0, size)
        draw.polygon(points.ravel().tolist(), fill=colour())

    for _ in range(rng.integers(0, 3)):
        polygon(rng.uniform(-1, 1, (3, 2)), 0.6)
    for _ in range(rng.integers(0, 4)):
        polygon(np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * rng.uniform(0.3, 1, 2), 0.12)
    for _ in range(rng.integers(0, 4)):
        polygon(_blob(rng), rng.uniform(0.03, 0.12))
    for _ in range(rng.integers(0, 6)):
        polygon(_polar(1, _full_turn(12)), rng.uniform(0.01, 0.03))
    for _ in range(rng.integers(0, 5)):
        draw.line(rng.uniform(0, np.tile(size, 2)).tolist(), fill=colour(), width=int(rng.integers(1, 7)))


def _turned(points: Reals, angle: float) -> Reals:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(points @ np.array([(cos, sin), (-sin, cos)]))


def _place(rng: Generator, outline: Reals, height: int, width: int) -> Reals:
    """The outline mirrored, stretched, turned, scaled and moved into the picture at random, in pixels.

    Its box takes up to 48% of the picture, fits into the centre square (what a resize of the shorter side and a centre
    crop leave) and sticks out of that square by at most a twentieth of its own width and height.
    """
    stretch = np.exp(rng.uniform(-0.2, 0.2))
    mirror = rng.choice([-1, 1])
    outline = _turned(outline * (mirror * stretch, 1 / stretch), rng.uniform(-0.4, 0.4))
    low, high = outline.min(axis=0), outline.max(axis=0)
    extent = high - low
    short = min(height, width)
    scale = np.sqrt(rng.uniform(0.12, 0.48) * height * width / extent.prod())
    extent *= min(scale, 0.98 * short / extent.max())
    square = (np.array([width, height]) - short) / 2  # its upper left corner
    corner = rng.uniform(square - 0.05 * extent, square + short - 0.95 * extent)
    return np.asarray(corner + (outline - low) / (high - low) * extent)


def _coverage(outline: Reals, height: int, width: int) -> Reals:
    """How much of each pixel the polygon covers, (H, W) in 0..1, drawn at three times the size."""
    canvas = Image.new("L", (3 * width, 3 * height))
    ImageDraw.Draw(canvas).polygon((3 * outline).ravel().tolist(), fill=255)
    return np.asarray(canvas.reduce(3), np.float32) / 255


def _bounding_box(mask: NDArray[np.bool_]) -> Box:
    """The first and last column and row of the mask: (x_min, y_min, x_max, y_max), both ends inside."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def _object_colours(rng: Generator, backdrop: Reals, textured: bool) -> tuple[Reals, Reals]:
    """A colour clearly lighter than the backdrop, and a second: much darker in a texture, akin in a plain fill."""
    lights, darks = rng.uniform(0, 255, (2, 16, 3)).astype(np.float32)
    # argmax of what is cut off at 1: the first candidate that is good enough, or else the best.
    first = lights[np.argmax(np.minimum((lights - backdrop) @ _LUMA / 80, 1))]
    if not textured:
        return first, np.clip(first + rng.normal(0, 30, 3), 0, 255)
    darker = (first - darks) @ _LUMA / 80
    apart = np.linalg.norm(darks - backdrop, axis=1) / 60  # or the blob's outline, and its box, would be lost
    return first, darks[np.argmax(np.minimum(np.minimum(darker, apart), 1))]


def _lit(rng: Generator, scene: Reals) -> NDArray[np.uint8]:
    """The scene under a light from one side, with its own contrast, brightness and grain, as uint8."""
    height, width, _ = scene.shape
    angle, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.5)
    y, x = np.linspace(-1, 1, height)[:, None, None], np.linspace(-1, 1, width)[:, None]
    light = rng.uniform(0.7, 1.1) * (1 + fall * (np.cos(angle) * x + np.sin(angle) * y))
    grain = rng.uniform(0, 8) * rng.standard_normal((height, width, 1), np.float32)
    scene = 128 + (scene - 128) * light.astype(np.float32) + np.float32(rng.uniform(-25, 25)) + grain
    return np.clip(scene, 0, 255).astype(np.uint8)


# ---- The whole set --------------------------------------------------------------------------------------------------

_RECIPE = 1  # counts up whenever the pictures of a seed change, so that an older set is not taken for today's
_SPLITS = ("train", "val")
_SECONDS_OF_A_DAY = 24 * 60 * 60

_ANNOTATION = """\
<annotation>
\t<folder>{folder}</folder>
\t<filename>{image_id}</filename>
\t<source>
\t\t<database>npconvnet toy set</database>
\t</source>
\t<size>
\t\t<width>{width}</width>
\t\t<height>{height}</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>0</segmented>
\t<object>
\t\t<name>{wnid}</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>0</difficult>
\t\t<bndbox>
\t\t\t<xmin>{box[0]}</xmin>
\t\t\t<ymin>{box[1]}</ymin>
\t\t\t<xmax>{box[2]}</xmax>
\t\t\t<ymax>{box[3]}</ymax>
\t\t</bndbox>
\t</object>
</annotation>
"""


class _Picture(NamedTuple):
    split: str  # "train" or "val"
    label: int
    number: int  # among the pictures of its class and split, from 0
    image_id: str  # its file name without the suffix


def make_toy(
    directory: Path,
    seed: int = 0,
    train_per_class: int = 400,
    validation_per_class: int = 50,
    workers: int | None = None,
) -> None:
    """Write the toy set into `directory` as a miniature ILSVRC in Kaggle's layout, with a progress bar on stderr.

    `ILSVRC/Data/CLS-LOC/{train/<wnid>,val}` hold the JPEG pictures, `ILSVRC/Annotations/CLS-LOC` a VOC XML file for
    each, `LOC_synset_mapping.txt` the names and `LOC_{train,val}_solution.csv` labels and boxes. As in ILSVRC, a box
    gives its first and last column and row, counted from 0: it is xmax - xmin + 1 pixels wide, and one that touches
    the right edge has xmax = width - 1. Validation pictures are numbered in an order shuffled over the classes.

    The same arguments give the same files, bit for bit (with the same NumPy and Pillow), whatever the number of
    `workers` (processes; by default one a core, eight at most; 1 draws in this process). The set appears under its
    name only when it is complete; a folder that already holds it is left as it is.

    Raises InputError for impossible numbers, for a `directory` that is a file or holds anything but this very set, and
    when it cannot be written.
    """
    for name, value, least in (
        ("seed", seed, 0),
        ("train_per_class", train_per_class, 1),
        ("validation_per_class", validation_per_class, 1),
        ("workers", 1 if workers is None else workers, 1),
    ):
        if value < least:
            raise InputError(f"{name} is {value}; it must be at least {least}")
    recipe = {
        "recipe": _RECIPE,
        "seed": seed,
        "train_per_class": train_per_class,
        "validation_per_class": validation_per_class,
    }
    directory = directory.resolve()
    unfinished = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}.unfinished")
    try:
        if _holds_set(directory, recipe):
            return
        _remove_abandoned(directory)
        try:
            _write_set(unfinished, recipe, workers or min(os.cpu_count() or 1, 8))
            _rename(unfinished, directory, recipe)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{directory}: cannot write the toy set ({reason}); make room or name another folder"
        ) from error


def _holds_set(directory: Path, recipe: dict[str, int]) -> bool:
    """Whether the directory holds the finished set of this recipe; InputError if it holds anything else."""
    if not directory.exists():
        return False
    if not directory.is_dir():
        raise InputError(f"{directory}: this is a file; name a new or empty folder for the toy set")
    try:
        found = json.loads((directory / "toy.json").read_text())
    except (FileNotFoundError, ValueError):
        found = None
    if found == recipe:
        return True
    if found is not None:
        raise InputError(
            f"{directory}: holds a toy set made with other arguments or by another version of npconvnet; "
            "remove it or name another folder"
        )
    if any(directory.iterdir()):
        raise InputError(f"{directory}: not empty, and no finished toy set; name a new or empty folder")
    if directory == Path.cwd():
        raise InputError(f"{directory}: this is the current folder, which cannot be replaced; name a new folder in it")
    return False


def _remove_abandoned(directory: Path) -> None:
    """Remove what runs killed long ago left beside the directory; a younger one may belong to a live process."""
    for leftover in directory.parent.glob(f".{escape(directory.name)}.*.unfinished"):
        with suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > _SECONDS_OF_A_DAY:
                shutil.rmtree(leftover, ignore_errors=True)


def _rename(unfinished: Path, directory: Path, recipe: dict[str, int]) -> None:
    """Give the set its name, unless another process made the same set in the meantime."""
    try:
        unfinished.replace(directory)  # replaces an empty directory, never a full one
    except OSError:
        if not _holds_set(directory, recipe):
            raise


def _write_set(root: Path, recipe: dict[str, int], workers: int) -> None:
    pictures = _pictures(recipe)
    for kind in ("Data", "Annotations"):
        for folder in {_folder(picture) for picture in pictures}:
            (root / "ILSVRC" / kind / "CLS-LOC" / folder).mkdir(parents=True)
    with _mapper(workers) as mapped:
        rows = mapped(partial(_write_picture, root, recipe["seed"]), pictures)
        boxes = list(tqdm(rows, "drawing the toy set", len(pictures), unit="picture"))
    for split in _SPLITS:
        solution = ["ImageId,PredictionString"]
        for picture, box in zip(pictures, boxes, strict=True):
            if picture.split == split:
                solution.append(f"{picture.image_id},{' '.join(map(str, (TOY_SYNSETS[picture.label][0], *box)))}")
        (root / f"LOC_{split}_solution.csv").write_text("\n".join(solution) + "\n")
    (root / "LOC_synset_mapping.txt").write_text("".join(f"{wnid} {name}\n" for wnid, name in TOY_SYNSETS))
    (root / "toy.json").write_text(json.dumps(recipe) + "\n")


def _pictures(recipe: dict[str, int]) -> list[_Picture]:
    """All pictures of the set: training by class, then validation in its shuffled order."""
    train, validation = (
        [(label, number) for label in range(len(_CLASSES)) for number in range(recipe[f"{split}_per_class"])]
        for split in ("train", "validation")
    )
    default_rng([recipe["seed"], len(_SPLITS)]).shuffle(validation)
    return [
        *(_Picture("train", label, number, f"{_CLASSES[label].wnid}_{number + 1}") for label, number in train),
        *(
            _Picture("val", label, number, f"ILSVRC2012_val_{position:08d}")
            for position, (label, number) in enumerate(validation, start=1)
        ),
    ]


def _folder(picture: _Picture) -> str:
    return f"train/{_CLASSES[picture.label].wnid}" if picture.split == "train" else "val"


def _write_picture(root: Path, seed: int, picture: _Picture) -> Box:
    """Draw the picture and write its JPEG and its XML; returns its box (x_min, y_min, x_max, y_max)."""
    # Each picture has a generator of its own, so that neither order nor the number of workers matters.
    rng = default_rng([seed, _SPLITS.index(picture.split), picture.label, picture.number])
    image, mask = draw_picture(picture.label, rng)
    box = _bounding_box(mask)
    folder = _folder(picture)
    annotation = _ANNOTATION.format(
        folder=folder.rpartition("/")[2],
        image_id=picture.image_id,
        width=image.shape[1],
        height=image.shape[0],
        wnid=_CLASSES[picture.label].wnid,
        box=box,
    )
    jpeg = root / "ILSVRC" / "Data" / "CLS-LOC" / folder / f"{picture.image_id}.JPEG"
    encoded = BytesIO()  # not straight into the file: Pillow overlooks a write that a full disk cuts short
    Image.fromarray(image).save(encoded, "JPEG", quality=int(rng.integers(85, 91)))
    jpeg.write_bytes(encoded.getvalue())
    (root / "ILSVRC" / "Annotations" / "CLS-LOC" / folder / f"{picture.image_id}.xml").write_text(annotation)
    return box


_Map = Callable[[Callable[[_Picture], Box], list[_Picture]], Iterator[Box]]


@contextmanager
def _mapper(workers: int) -> Iterator[_Map]:
    """A `map` that shares the work among processes; the builtin one for a single worker."""
    if workers == 1:
        yield map
        return
    # spawn: forking a process that has threads (BLAS, a GPU's driver) is not safe.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_live_with_parent) as pool:
        try:
            yield partial(pool.map, chunksize=32)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # nobody may still be writing when the caller cleans up
            raise


def _live_with_parent() -> None:
    """Leave Ctrl-C to the parent process, and end when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
