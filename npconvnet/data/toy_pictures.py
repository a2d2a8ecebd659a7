"""The pictures of the toy set: ten classes of drawn objects, in clutter.

Seven classes are told by their outline (whatever their fill) and three by their texture (on a blob of any outline).
Size, place, tilt, colour, light and clutter are drawn alike for all ten, so neither a colour nor a template gives the
class away. A picture holds one object, lighter than what is behind it; its bounding box comes from the object's mask.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from npconvnet.synsets import Synset

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

TOY_SYNSETS: tuple[Synset, ...] = tuple(Synset(toy_class.wnid, toy_class.name) for toy_class in _CLASSES)
"""The ten classes, in the order of their labels 0 to 9."""


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
    x_min, y_min, x_max, y_max = bounding_box(mask)
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


def bounding_box(mask: NDArray[np.bool_]) -> Box:
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
