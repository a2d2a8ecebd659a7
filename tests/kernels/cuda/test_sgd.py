"""SGD by the CUDA kernels, one parameter at a time and all at once, against the definition in float64 and PyTorch."""

from dataclasses import replace

import numpy as np
import pytest

from npconvnet.backend import to_host
from npconvnet.kernels.cpu import sgd as definition
from npconvnet.kernels.cpu.bfloat16 import to_bfloat16
from npconvnet.kernels.cuda.sgd import MOST, PER_BLOCK, ParameterUpdate, sgd_update, sgd_update_all
from tests.kernels.cuda.agreement import assert_agrees

#: Fewer numbers than are moved at once, and more; less than a block, and more; and none.
SIZES = [1, 3, 4, 5, 0, 1021, PER_BLOCK - 1, PER_BLOCK, PER_BLOCK + 1, 2 * PER_BLOCK + 6]
RATE, MOMENTUM = 0.1, 0.9

over_sizes = pytest.mark.parametrize("size", SIZES)


def draw(rng, size):
    """(w, velocity, dw)."""
    return tuple(rng.standard_normal(size, np.float32) for _ in range(3))


def one_step(given, rate=RATE, decay=0.0):
    """The new (w, velocity) of (w, velocity, dw) by the definition, in float64."""
    w, velocity, dw = (x.astype(np.float64) for x in given)
    definition.sgd_update(w, velocity, dw, rate, MOMENTUM, decay)
    return w, velocity


# ---- one parameter ---------------------------------------------------------------------------------------------------


@over_sizes
@pytest.mark.parametrize("decay", [0, 0.05])
def test_one_parameter(xp, rng, size, decay):
    given = draw(rng, size)
    w, velocity, dw = (xp.asarray(x) for x in given)
    sgd_update(w, velocity, dw, RATE, MOMENTUM, decay)
    for actual, expected in zip((w, velocity), one_step(given, decay=decay), strict=True):
        assert_agrees(actual, expected)
    np.testing.assert_array_equal(to_host(dw), given[2])


def test_a_gradient_need_not_be_contiguous(xp, rng):
    given = [x.reshape(7, 5) for x in draw(rng, 35)]
    w, velocity = (xp.asarray(x) for x in given[:2])
    sgd_update(w, velocity, xp.asarray(given[2].T.copy()).T, RATE, MOMENTUM, 0.05)
    for actual, expected in zip((w, velocity), one_step(given, decay=0.05), strict=True):
        assert_agrees(actual, expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.update(w=arrays["w"].T),
        lambda arrays: arrays.update(velocity=arrays["velocity"].T),
        lambda arrays: arrays.update(velocity=arrays["velocity"][:3]),
        lambda arrays: arrays.update(dw=arrays["dw"].reshape(2, 8)),
        lambda arrays: arrays.update(w=arrays["w"].astype(np.float64)),
        lambda arrays: arrays.update(dw=arrays["dw"].astype(np.uint16)),
    ],
)
def test_other_arrays_are_refused(xp, change):
    """A copy of a parameter that is not contiguous would move, and the parameter itself would not."""
    arrays = {name: xp.zeros((4, 4), np.float32) for name in ("w", "velocity", "dw")}
    change(arrays)
    with pytest.raises(TypeError, match="sgd_update: "):
        sgd_update(**arrays, learning_rate=RATE, momentum=MOMENTUM, weight_decay=0)
    with pytest.raises(TypeError, match="sgd_update_all: "):
        sgd_update_all([ParameterUpdate(**arrays)], xp.zeros(1, np.float32), MOMENTUM)


# ---- all at once -----------------------------------------------------------------------------------------------------


def in_the_midst(xp, x, offset):
    """`x` on the device, beginning `offset` numbers after a multiple of 16 bytes; and the array around it."""
    around = np.full(len(x) + 32, 77, x.dtype)
    part = slice(16 + offset, 16 + offset + len(x))
    around[part] = x
    around = xp.asarray(around)
    return around[part], around


def check_all(xp, rng, sizes, offsets=(0, 0, 0, 0)):
    """Two steps at two rates, of parameters that differ in all that they may; nothing beside them is written."""
    updates, expected, held = [], [], []
    for number, size in enumerate(sizes):
        given = [*draw(rng, size), np.zeros(size, np.uint16)]
        own = [in_the_midst(xp, x, offset) for x, offset in zip(given, offsets, strict=True)]
        w, velocity, dw, words = (x for x, _ in own)
        updates.append(
            ParameterUpdate(w, velocity, dw, words if number % 3 else None, 1.0 + number % 2, 0.05 * (number % 4))
        )
        expected.append(given[:3])
        held += own

    learning_rate = xp.zeros(1, np.float32)
    for rate in (RATE, 3 * RATE):
        learning_rate.set(np.array([rate], np.float32))
        sgd_update_all(updates, learning_rate, MOMENTUM)
        for update, own in zip(updates, expected, strict=True):
            own[:2] = one_step(own, update.rate_factor * rate, update.weight_decay)

    for update, (w, velocity, dw) in zip(updates, expected, strict=True):
        assert_agrees(update.w, w)
        assert_agrees(update.velocity, velocity)
        np.testing.assert_array_equal(to_host(update.dw), dw)
        if update.words is not None:
            np.testing.assert_array_equal(to_host(update.words), to_bfloat16(to_host(update.w)))
    for x, around in held:
        x.fill(77)
        assert (to_host(around) == 77).all()


def test_many_parameters(xp, rng):
    check_all(xp, rng, SIZES)


@pytest.mark.parametrize("moved", range(4))
@pytest.mark.parametrize("offset", [1, 2, 3])
def test_arrays_may_begin_anywhere(xp, rng, moved, offset):
    """One that does not begin at a multiple of 16 bytes, or of 8 for words, is moved number by number."""
    offsets = [0, 0, 0, 0]
    offsets[moved] = offset
    check_all(xp, rng, [5, 1021, PER_BLOCK + 5], offsets)


@pytest.mark.parametrize("count", [1, MOST - 1, MOST, MOST + 1, 2 * MOST + 3])
def test_as_many_parameters_as_one_likes(xp, rng, count):
    check_all(xp, rng, [1 + number % 5 for number in range(count)])


@pytest.mark.parametrize("sizes", [[], [0], [0, 0, 3], [3, 0, 0]])
def test_parameters_without_numbers(xp, rng, sizes):
    check_all(xp, rng, sizes)


def test_any_shape(xp, rng):
    given = [x.reshape(4, 3, 2, 5) for x in draw(rng, 120)]
    w, velocity, dw = (xp.asarray(x) for x in given)
    sgd_update_all([ParameterUpdate(w, velocity, dw)], xp.asarray(np.array([RATE], np.float32)), MOMENTUM)
    for actual, expected in zip((w, velocity), one_step(given), strict=True):
        assert_agrees(actual, expected)


def test_what_it_cannot_find_by_an_address_is_refused(xp):
    w, velocity, dw = (xp.zeros((4, 4), np.float32) for _ in range(3))
    words, rate = xp.zeros((4, 4), np.uint16), xp.zeros(1, np.float32)
    fine = ParameterUpdate(w, velocity, dw, words)
    for wrong in (
        replace(fine, dw=dw.T),  # a copy would be gone when a graph is replayed
        replace(fine, words=words.T),
        replace(fine, words=dw),
        replace(fine, words=words[:2]),
    ):
        with pytest.raises(TypeError, match=r"sgd_update_all: (dw|words)"):
            sgd_update_all([fine, wrong], rate, MOMENTUM)
    for wrong_rate in (xp.zeros((), np.float32), xp.zeros(2, np.float32), xp.zeros(1, np.float64)):
        with pytest.raises(TypeError, match="sgd_update_all: learning_rate"):
            sgd_update_all([fine], wrong_rate, MOMENTUM)


def test_like_pytorch(xp, torch, rng):
    """At a constant rate, at which it does not matter what the rate multiplies."""
    given = [draw(rng, size)[0] for size in (7, 1000)]
    torch_ws = [torch.tensor(w, requires_grad=True) for w in given]
    optimizer = torch.optim.SGD(torch_ws, lr=0.05, momentum=MOMENTUM, weight_decay=0.01)
    rate = xp.asarray(np.array([0.05], np.float32))
    ws = [xp.asarray(w) for w in given]
    updates = [ParameterUpdate(w, xp.zeros_like(w), xp.zeros_like(w), weight_decay=0.01) for w in ws]
    for _ in range(5):
        for update, w_torch in zip(updates, torch_ws, strict=True):
            dw = rng.standard_normal(update.w.shape, np.float32)
            w_torch.grad = torch.tensor(dw)
            update.dw[...] = xp.asarray(dw)
        optimizer.step()
        sgd_update_all(updates, rate, MOMENTUM)
        for update, w_torch in zip(updates, torch_ws, strict=True):
            assert_agrees(update.w, w_torch.detach().numpy())
