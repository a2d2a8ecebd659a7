"""The filters that a signal comes back to.

Behind a class score that is one filter of the last convolution, and behind a unit that is looked at, one of its own.
The others add nothing to dx, under any ReLU rule: what is zero stays zero.
"""

import numpy as np

from npconvnet.backend import Array, is_on_gpu

#: With fewer filters or channels it costs more to look than it may save: measured.
LOOK = 128


def with_signal(dy: Array, y: Array | None, w: Array) -> tuple[Array, Array | None, Array]:
    """`dy` and `y` (N, P, Q, K) and `w` (K, R, S, C) without the filters whose dy is zero, where they are the most.

    They stay as they are on a GPU, which would have to wait for the answer. `y` may be None.
    """
    if is_on_gpu(dy) or min(len(w), w.shape[3]) < LOOK:
        return dy, y, w
    lit = np.asarray(dy.any(axis=(0, 1, 2)))
    if not 0 < 2 * lit.sum() < len(lit):
        return dy, y, w
    return dy[..., lit], None if y is None else y[..., lit], w[lit]
