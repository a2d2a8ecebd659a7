"""Checkpoints: whole, damaged, diverged, and on a full disk."""

import errno
import os
import threading

import numpy as np
import pytest

from npconvnet.errors import InputError
from npconvnet.models import MODELS
from npconvnet.training.checkpoint import (
    BEST,
    LAST,
    PREVIOUS,
    Position,
    load_checkpoint,
    save_best,
    save_checkpoint,
)
from npconvnet.training.optimizer import SGD
from npconvnet.weights import load_network


def trained(seed):
    """A network and an optimizer whose every number differs by `seed`."""
    network = MODELS["tiny"](classes=3)
    rng = np.random.default_rng(seed)
    network.initialize(rng)
    optimizer = SGD(network, 0.9, 5e-4)
    for velocity in optimizer.velocities.values():
        velocity[...] = rng.standard_normal(velocity.shape)
    return network, optimizer


def save(folder, step):
    network, optimizer = trained(seed=step)
    save_checkpoint(folder, network, optimizer, Position(0, step=step))


def assert_same(network, optimizer, other_network, other_optimizer):
    for name, parameter in network.parameters.items():
        np.testing.assert_array_equal(parameter, other_network.parameters[name])
        np.testing.assert_array_equal(optimizer.velocities[name], other_optimizer.velocities[name])


def test_comes_back_bit_for_bit(tmp_path):
    network, optimizer = trained(1)
    position = Position(seed=5, step=17, epoch=2, batch=3, best_top1=0.25, last_loss=1.5, summed_loss=0.1, images=96)
    save_checkpoint(tmp_path, network, optimizer, position)
    other = trained(2)
    assert load_checkpoint(tmp_path, *other) == (position, [])
    assert_same(network, optimizer, *other)


def test_the_one_before_is_kept(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step=step)
    assert sorted(file.name for file in tmp_path.iterdir()) == [LAST, PREVIOUS]
    (tmp_path / LAST).unlink()
    position, _ = load_checkpoint(tmp_path, *trained(9))
    assert position.step == 2


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:-9] + b"\0" + data[-8:]])
def test_damaged_one_is_passed_over(tmp_path, damage):
    for step in (1, 2):
        save(tmp_path, step=step)
    (tmp_path / LAST).write_bytes(damage((tmp_path / LAST).read_bytes()))
    other = trained(9)
    position, refused = load_checkpoint(tmp_path, *other)
    assert position.step == 1
    assert_same(*trained(1), *other)
    assert len(refused) == 1
    assert LAST in refused[0]
    assert "damaged" in refused[0]


def test_damaged_one_never_takes_the_place_of_a_whole_one(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    (tmp_path / LAST).write_bytes(b"damaged")
    network, optimizer = trained(9)
    position, _ = load_checkpoint(tmp_path, network, optimizer)
    save_checkpoint(tmp_path, network, optimizer, position)
    (tmp_path / LAST).unlink()
    assert load_checkpoint(tmp_path, *trained(8))[0].step == 1


@pytest.mark.parametrize("also_last", [True, False])
def test_a_crash_between_the_two_renames_loses_nothing(tmp_path, also_last):
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / LAST).rename(tmp_path / "next.safetensors")
    if also_last:
        (tmp_path / PREVIOUS).rename(tmp_path / LAST)
    assert load_checkpoint(tmp_path, *trained(9))[0].step == 3
    assert sorted(file.name for file in tmp_path.iterdir()) == [LAST, PREVIOUS]
    (tmp_path / LAST).unlink()
    assert load_checkpoint(tmp_path, *trained(9))[0].step == 2


def test_nothing_whole_is_left(tmp_path):
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        load_checkpoint(tmp_path, *trained(1))
    (tmp_path / LAST).write_bytes(b"")
    (tmp_path / PREVIOUS).write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="no whole checkpoint is left"):
        load_checkpoint(tmp_path, *trained(1))


def test_weights_without_velocities_are_no_checkpoint(tmp_path):
    network, _ = trained(1)
    save_best(tmp_path, network, Position(0))
    (tmp_path / BEST).rename(tmp_path / LAST)
    with pytest.raises(InputError, match="not a checkpoint of this run"):
        load_checkpoint(tmp_path, *trained(2))


def test_diverged_weights_are_never_written(tmp_path):
    network, optimizer = trained(1)
    save_checkpoint(tmp_path, network, optimizer, Position(0, step=7))
    network.parameters["fc7.bias"][3] = np.nan
    with pytest.raises(InputError, match=r"fc7\.bias is not finite after step 8"):
        save_checkpoint(tmp_path, network, optimizer, Position(0, step=8))
    with pytest.raises(InputError, match=r"fc7\.bias is not finite after step 8"):
        save_best(tmp_path, network, Position(0, step=8))
    assert load_checkpoint(tmp_path, *trained(2))[0].step == 7
    assert not (tmp_path / BEST).exists()


def test_full_disk_keeps_the_earlier_checkpoints(tmp_path, monkeypatch):
    for step in (1, 2):
        save(tmp_path, step=step)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left on device"):
            save(tmp_path, step=3)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_checkpoint_is_a_weight_file(tmp_path):
    network, optimizer = trained(1)
    save_checkpoint(tmp_path, network, optimizer, Position(0))
    assert load_network(tmp_path / LAST).parameters.keys() == network.parameters.keys()


def test_position_can_be_kept_while_the_loader_names_more_pictures():
    """dict() copies in one go; a copy item by item would meet a dictionary that changes under it."""
    position = Position(0, unreadable={"0": ""})
    ended = threading.Event()

    def name_more():
        number = 0
        while not ended.is_set():
            number = (number + 1) % 5000
            position.unreadable[f"{number}"] = "reason"
            position.unreadable.pop(f"{(number + 2500) % 5000}", None)

    thread = threading.Thread(target=name_more)
    thread.start()
    try:
        kept = [position.to_json()["unreadable"] for _ in range(300)]
    finally:
        ended.set()
        thread.join()
    assert all(set(names.values()) <= {"", "reason"} for names in kept)
