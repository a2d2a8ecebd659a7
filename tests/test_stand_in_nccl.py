"""The stand-in for NCCL itself, between two processes: it is late, in order, and refuses what would wait for ever."""

import pytest

from tests.training.distributed.mpi import on_ranks

BEGIN = """
import numpy as np
from mpi4py import MPI
from tests import stand_in_cupy as cupy, stand_in_nccl as nccl

def raises(error, call, *args):
    try:
        call(*args)
    except error:
        return True

world = MPI.COMM_WORLD
rank, other = world.rank, 1 - world.rank
cupy.runtime.getDeviceCount = lambda: 2
cupy.Device(rank).use()
identity = world.bcast(nccl.get_unique_id())
communicator = nccl.NcclCommunicator(2, identity, rank)
stream = cupy.cuda.Stream(non_blocking=True)
x, y = cupy.asarray(np.full(3, 1.0 + rank)), cupy.zeros((2, 3))
floats, to = nccl.NCCL_FLOAT64, stream.ptr
"""

SUMS_ARE_LATE = """
communicator.allReduce(x.data.ptr, x.data.ptr, 3, floats, nccl.NCCL_SUM, to)
assert x.get().tolist() == [1 + rank] * 3
x += 10
stream.synchronize()
assert x.get().tolist() == [23] * 3
"""
GATHERED_IN_THE_ORDER_OF_RANKS = """
communicator.allGather(x.data.ptr, y.data.ptr, 3, floats, to)
assert not y.get().any()
stream.synchronize()
assert y.get().tolist() == [[1] * 3, [2] * 3]
"""
MESSAGES_CROSS = """
nccl.groupStart()
for peer in (0, 1):
    communicator.send(x.data.ptr, 3, floats, peer, to)
    communicator.recv(y[peer].data.ptr, 3, floats, peer, to)
nccl.groupEnd()
assert not y.get().any()
stream.synchronize()
assert y.get().tolist() == [[1] * 3, [2] * 3]
"""
MESSAGES_BETWEEN_TWO_KEEP_THEIR_ORDER = """
nccl.groupStart()
for number in range(3):
    communicator.send(x[number:].data.ptr, 1, floats, other, to)
    communicator.recv(y[1, 2 - number:].data.ptr, 1, floats, other, to)
nccl.groupEnd()
x += cupy.arange(3)
stream.synchronize()
assert y.get()[1].tolist() == [4 - rank, 3 - rank, 2 - rank]
"""
ANOTHER_ORDER_IS_REFUSED = """
calls = [
    lambda: communicator.allReduce(x.data.ptr, x.data.ptr, 3, floats, nccl.NCCL_SUM, to),
    lambda: communicator.allGather(x.data.ptr, y.data.ptr, 3, floats, to),
]
for call in calls if rank else reversed(calls):
    call()
assert raises(nccl.NcclError, stream.synchronize)
"""
ANOTHER_SIZE_IS_REFUSED = """
communicator.allReduce(x.data.ptr, x.data.ptr, 2 + rank, floats, nccl.NCCL_SUM, to)
assert raises(nccl.NcclError, stream.synchronize)
"""
A_MESSAGE_THAT_NOBODY_AWAITS_IS_REFUSED = """
nccl.groupStart()
communicator.send(x.data.ptr, 3, floats, other, to)
communicator.recv(y.data.ptr, 3, floats, rank, to)
nccl.groupEnd()
assert raises(nccl.NcclError, stream.synchronize)
"""
MESSAGES_GO_IN_GROUPS = """
assert raises(nccl.NcclError, communicator.send, x.data.ptr, 3, floats, other, to)
assert raises(nccl.NcclError, communicator.recv, x.data.ptr, 3, floats, other, to)
"""
MEMORY_OF_THE_HOST_IS_REFUSED = """
host = np.ones(3)
assert raises(ValueError, communicator.allReduce, host.ctypes.data, x.data.ptr, 3, floats, nccl.NCCL_SUM, to)
assert raises(ValueError, communicator.allReduce, x.data.ptr, x.data.ptr, 4, floats, nccl.NCCL_SUM, to)
"""
A_COMMUNICATOR_NEEDS_ONE_NAME_AND_A_GPU_FOR_EACH_RANK = """
assert raises(nccl.NcclError, nccl.NcclCommunicator, 2, nccl.get_unique_id(), rank)
assert raises(nccl.NcclError, nccl.NcclCommunicator, 3, identity, rank)
cupy.Device(0).use()
assert raises(nccl.NcclError, nccl.NcclCommunicator, 2, identity, rank)
"""

STORIES = {name.lower(): story for name, story in list(globals().items()) if name.isupper() and name != "BEGIN"}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_two_ranks(story):
    done = on_ranks(2, "-c", BEGIN + story)
    assert done.returncode == 0, done.stderr
