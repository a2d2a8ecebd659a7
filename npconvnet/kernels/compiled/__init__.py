"""The same operations on NumPy arrays as loops, which numba compiles where it is installed.

    pip install -e '.[compiled]'

NumPy goes through memory once for every step of an operation, and pooling has many small ones. A compiled loop takes
all of them while a pixel is in the registers. Only what was measured to pay is here: see bench/README.md. A function
has the stem and the name of its definition in `kernels/cpu`, and gives what that gives, bit for bit.

The first call compiles, for a second or two; what came of it is kept on disk, in `__pycache__` or the user's cache.
"""

from numba import njit

#: Divides as NumPy does, and leaves the interpreter to other threads.
compiled = njit(nogil=True, cache=True, error_model="numpy")
