"""Checkpoints: everything a run needs to go on with the same bits. `last`, the one before it, and the best.

A checkpoint is a weight file (weights/native.py) that also holds the velocities and where the run stands. The random
state is the seed and that position: every generator is made from them (npconvnet/randomness.py).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from npconvnet.backend import Precision, array_module, to_device
from npconvnet.errors import InputError
from npconvnet.network import Network
from npconvnet.training.optimizer import SGD
from npconvnet.weights import read_file, save_network

LAST, PREVIOUS, BEST = "last.safetensors", "previous.safetensors", "best.safetensors"
#: A whole checkpoint that is about to become the last.
_NEXT = "next.safetensors"
_VELOCITY = "velocity/"


@dataclass(slots=True)
class Position:
    """Where a run stands: `step` batches done in all, `batch` of them in `epoch`, which counts from 0.

    `top1` and `top5` are the last validation errors, `best_top1` the lowest so far (shares, 0 to 1); the losses are of
    the epoch that is under way; `unreadable` names the pictures skipped so far, with the reason.
    """

    seed: int
    step: int = 0
    epoch: int = 0
    batch: int = 0
    top1: float = 1.0
    top5: float = 1.0
    best_top1: float = 1.0
    last_loss: float = 0.0
    summed_loss: float = 0.0
    images: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def mean_loss(self) -> float:
        """Over the images of the epoch so far."""
        return self.summed_loss / max(self.images, 1)

    def add_loss(self, loss: float, images: int) -> None:
        """Counts in one batch."""
        self.last_loss = loss
        self.summed_loss += loss * images
        self.images += images

    def to_json(self) -> dict[str, Any]:
        """The fields by name. `unreadable` is copied first: the loader's threads may go on adding to it."""
        return asdict(replace(self, unreadable=dict(self.unreadable)))

    def begin_epoch(self, epoch: int) -> None:
        """Stands before the first batch of `epoch`."""
        self.epoch, self.batch, self.summed_loss, self.images = epoch, 0, 0.0, 0


def save_checkpoint(folder: Path, network: Network, optimizer: SGD, position: Position) -> None:
    """Writes `last.safetensors`; the one that was last becomes `previous.safetensors`.

    Raises InputError where it can't be written, and where a parameter is no longer finite; the earlier checkpoints
    are then as they were.
    """
    require_finite(network, position)
    velocities = {_VELOCITY + name: velocity for name, velocity in optimizer.velocities.items()}
    save_network(folder / _NEXT, network, velocities, position=position.to_json())
    _rotate(folder)


def save_best(folder: Path, network: Network, position: Position) -> None:
    """Writes `best.safetensors`, to be used and not to be resumed from; raises InputError as `save_checkpoint` does."""
    require_finite(network, position)
    save_network(folder / BEST, network, position=position.to_json())


def require_finite(network: Network, position: Position, precision: Precision = "float32") -> None:
    """Raises InputError where a parameter is NaN or infinite, after training in that `precision`."""
    for name, parameter in network.parameters.items():
        if not array_module(parameter).isfinite(parameter).all():
            raise InputError(diverged(f"{name} is not finite", position, precision))


def diverged(what: str, position: Position, precision: Precision = "float32") -> str:
    """The one line that says where a run in that `precision` broke down and what to do."""
    way_out = " or --precision float32" if precision == "bfloat16" else ""
    return (
        f"{what} after step {position.step} (epoch {position.epoch + 1}): the run has diverged; the last good "
        f"checkpoint is kept; try a smaller --learning-rate{way_out}"
    )


def load_checkpoint(folder: Path, network: Network, optimizer: SGD) -> tuple[Position, list[str]]:
    """Puts the latest whole checkpoint of `folder` into `network` and `optimizer`.

    Returns where the run stands and a line for each damaged checkpoint that was passed over. Raises InputError where
    there is none, where none is whole, or where it is not of this network.
    """
    _rotate(folder)
    present = [folder / name for name in (LAST, PREVIOUS) if (folder / name).is_file()]
    if not present:
        raise InputError(f"{folder}: no checkpoint to resume from; start afresh with another --output")
    refused: list[str] = []
    for path in present:
        try:
            return _read(path, network, optimizer), refused
        except InputError as error:
            refused.append(str(error))
            path.replace(path.with_suffix(".damaged"))  # or it would take the place of a whole one at the next save
    raise InputError(f"no whole checkpoint is left in {folder}: {'; '.join(refused)}")


def _rotate(folder: Path) -> None:
    """Lets `next` become `last` and `last` become `previous`; finishes it where a crash came between the two."""
    following, last = folder / _NEXT, folder / LAST
    try:
        if following.exists() and last.exists():
            last.replace(folder / PREVIOUS)
        if following.exists():
            following.replace(last)
    except OSError as error:
        raise InputError(
            f"{folder}: a checkpoint cannot be renamed ({error.strerror}); is the folder writable?"
        ) from error


def _read(path: Path, network: Network, optimizer: SGD) -> Position:
    tensors, header = read_file(path)
    device = network.device
    try:
        network.load({name: to_device(tensors[name], device) for name in network.parameters})
        optimizer.velocities = {name: to_device(tensors[_VELOCITY + name], device) for name in network.parameters}
        return Position(**header["position"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a checkpoint of this run ({error})") from error
