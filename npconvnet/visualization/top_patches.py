"""What excites a feature map: the patches of pictures with its strongest activations, each beside its reconstruction.

Zeiler & Fergus 2013, figure 2: over many pictures, the nine that excite a feature map most; of each the part that the
strongest unit sees, and what this one unit sends back to it, in proportion to its activation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array, to_device, to_host
from npconvnet.data.batch import Batch
from npconvnet.data.ilsvrc import Example
from npconvnet.data.image_files import ImageFiles
from npconvnet.data.layouts.listing import scan
from npconvnet.data.loader import Source
from npconvnet.data.opening import open_data
from npconvnet.data.shards.reading import holds_shards
from npconvnet.forward_pass import in_pieces
from npconvnet.kernels.cpu.relu import ReLURule
from npconvnet.network import INPUT, Network
from npconvnet.preprocessing import Picture, Preprocessing
from npconvnet.visualization.deconvnet import Unit, reconstruct, require_channel, require_layer
from npconvnet.visualization.receptive_field import Rectangle, patch, receptive_field

#: Pictures at a time.
BATCH = 32
#: So many feature maps are shown where none are asked for.
MAPS_SHOWN = 6


def pictures_to_scan(root: Path, preprocessing: Preprocessing) -> tuple[Source, str]:
    """The validation images of the data set in `root`, and a note on how they were chosen, or "".

    A folder that holds pictures and no folders is no data set: all its pictures are taken. Labels are not used. Raises
    InputError for anything else that `open_data` refuses.
    """
    with suppress(OSError):  # open_data says what is wrong with it
        folders, names = scan(root)
        if names and not folders and not holds_shards(root):
            return ImageFiles([Example(name, -1, root / name) for name in names], preprocessing), ""
    data = open_data(root, preprocessing)
    return data.validation, data.note


def require_maps(network: Network, layer: str, units: Iterable[int]) -> None:
    """Raises InputError, saying what there is, where the network has no such layer or the layer no such units."""
    require_layer(network, layer)
    for unit in units:
        require_channel(network, layer, unit)


@dataclass(frozen=True, slots=True)
class Ranking:
    """For each feature map of a layer, the pictures that excite it most, the strongest first: all are (maps, pictures).

    `activations`, the largest of the map in the picture; `numbers` of the pictures; `places` in the map, row by row.
    """

    activations: npt.NDArray[np.float32]
    numbers: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]

    def best_of(self, later: Ranking, top: int) -> Ranking:
        """The `top` strongest of both; of equals, those that come first."""
        activations = np.concatenate([self.activations, later.activations], axis=1)
        order = np.argsort(-activations, axis=1, kind="stable")[:, :top]
        return Ranking(
            np.take_along_axis(activations, order, axis=1),
            np.take_along_axis(np.concatenate([self.numbers, later.numbers], axis=1), order, axis=1),
            np.take_along_axis(np.concatenate([self.places, later.places], axis=1), order, axis=1),
        )

    def strongest_maps(self, count: int = MAPS_SHOWN) -> list[int]:
        """The maps that are most strongly excited even by the last of their pictures: no single picture decides."""
        return [int(unit) for unit in np.argsort(-self.activations[:, -1], kind="stable")[:count]]


def rank(network: Network, layer: str, batches: Iterable[Batch], top: int = 9) -> Ranking:
    """The `top` pictures for each feature map of `layer`, one place in each picture; only these are ever kept.

    A picture is seen by its centre crop. Without pictures the ranking is empty: (maps, 0).
    """
    none = np.empty((network.shapes[layer][-1], 0))
    ranking = Ranking(none.astype(np.float32), none.astype(np.int64), none.astype(np.int64))
    for batch in batches:
        if len(batch.squares):
            activations, places = _strongest_places(network, layer, batch.squares)
            numbers = np.broadcast_to(batch.numbers, activations.shape)
            ranking = ranking.best_of(Ranking(activations, numbers, places), top)
    return ranking


def _strongest_places(
    network: Network, layer: str, squares: Picture
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The largest activation of every map, and its place in the map, the first of equals: each (maps, N)."""

    def strongest(squares: Array) -> tuple[Array, Array]:
        activation = network.activation(network.preprocessing.views(squares), layer)
        maps = activation.reshape(len(squares), -1, activation.shape[-1])
        return maps.max(axis=1), maps.argmax(axis=1)

    parts = in_pieces(strongest, to_device(squares, network.device))
    activations, places = (np.concatenate([to_host(part) for part in column]).T for column in zip(*parts, strict=True))
    return activations, places


@dataclass(frozen=True, slots=True)
class TopPatch:
    """One picture that excites a feature map, the part of it that the strongest unit sees, and its reconstruction.

    `name` of the picture, `unit` the number of the map, (`row`, `column`) the place in the map, `box` the part of the
    network's input that this place sees. `picture`, uint8 (h, w, 3), and `reconstruction`, float32 (h, w, 3), show the
    receptive field, of one size for the whole layer, or all of the input where the field is larger. Beyond `box` the
    picture has the mean colour, which is what a network takes a zero of its padding for, and the reconstruction is 0.
    """

    unit: int
    name: str
    row: int
    column: int
    activation: float
    box: Rectangle
    picture: Picture
    reconstruction: npt.NDArray[np.float32]


def top_patches(
    network: Network,
    layer: str,
    pictures: Source,
    ranking: Ranking,
    unit: int,
    rule: ReLURule = "deconvnet",
) -> Iterator[TopPatch]:
    """The patches that excite the feature map `unit` according to `ranking`, the strongest first.

    Pictures that leave a map at exactly 0, which a ReLU does, do not excite it and are left out. The pictures are read
    again.
    """
    is_map = len(network.shapes[layer]) == 3
    columns = network.shapes[layer][1] if is_map else 1
    for n in np.flatnonzero(ranking.activations[unit]):
        number = int(ranking.numbers[unit, n])
        place = divmod(int(ranking.places[unit, n]), columns)
        activation = float(ranking.activations[unit, n])
        box, frame = patch(network, layer, *place), _frame(network, layer, *place)
        square = np.empty((pictures.size, pictures.size, 3), np.uint8)
        pictures.read(number, square)
        x = network.preprocessing.views(square[None])
        sent = Unit(layer, unit, place if is_map else None)
        back = to_host(reconstruct(network, to_device(x, network.device), sent, rule)) * abs(activation)
        grey = np.clip(np.rint(network.preprocessing.mean_colour), 0, 255)
        picture = _cut(network.preprocessing.picture(x[0]), box, frame, around=grey)
        yield TopPatch(unit, pictures.name(number), *place, activation, box, picture, _cut(back[0], box, frame))


def to_arrays(patches: Sequence[TopPatch]) -> dict[str, npt.NDArray[Any]]:
    """One array for each field, one row for each of `patches`; (row, column) are called `positions`."""
    return {
        "units": np.array([patch.unit for patch in patches], np.int64),
        "names": np.array([patch.name for patch in patches], np.str_),
        "positions": np.array([(patch.row, patch.column) for patch in patches], np.int64),
        "activations": np.array([patch.activation for patch in patches], np.float32),
        "boxes": np.array([patch.box for patch in patches], np.int64),
        "patches": np.array([patch.picture for patch in patches], np.uint8),
        "reconstructions": np.array([patch.reconstruction for patch in patches], np.float32),
    }


def name_of(network: Network, layer: str, unit: int) -> str:
    """The number of a feature map or, behind the last map, of a unit; for a class score the name of the class, too."""
    if layer == network.last:
        return f"class {unit}, {network.synsets[unit].names.partition(',')[0]}"
    return f"{'map' if len(network.shapes[layer]) == 3 else 'unit'} {unit}"


def _frame(network: Network, layer: str, row: int, column: int) -> Rectangle:
    """The receptive field of a place, or all of the input where the field is larger."""
    height, width, _ = network.shapes[INPUT]
    field = receptive_field(network, layer)
    if field.size[0] >= height or field.size[1] >= width:
        return Rectangle(0, 0, height, width)
    return field.at(row, column)


def _cut(image: npt.NDArray[Any], box: Rectangle, frame: Rectangle, around: npt.ArrayLike = 0) -> npt.NDArray[Any]:
    """`image` (H, W, 3) in `box`, and the colour `around` it as far as `frame`."""
    cut = np.empty((frame.bottom - frame.top, frame.right - frame.left, 3), image.dtype)
    cut[...] = around
    inside = cut[box.top - frame.top : box.bottom - frame.top, box.left - frame.left : box.right - frame.left]
    inside[...] = image[box.top : box.bottom, box.left : box.right]
    return cut
