"""Selection: x where a condition holds, 0 elsewhere.

Never by multiplying with a mask (inf · 0 is NaN), and on the CPU not by `where` either: its branch for every number,
on signs that nobody can predict, takes 40 times as long as taking the bits of x or none of them.
"""

import numpy as np

from npconvnet.backend import Array


def keep_where(condition: Array, x: Array) -> Array:
    """`x` where `condition`, 0 elsewhere; both of one shape."""
    bits = f"i{x.itemsize}"
    kept: Array = (-condition.view(np.int8)).astype(bits)  # −1 has every bit set
    kept &= x.view(bits)
    return kept.view(x.dtype)
