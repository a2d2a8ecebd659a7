"""Memory that is freed stays with the process, for the next array that needs as much."""

import ctypes
import sys

#: glibc's numbers of these settings (malloc.h), and what they are set to.
MALLOC_SETTINGS = {
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: how much may lie free before the system gets it back
    -4: 0,  # M_MMAP_MAX: how many arrays may have pages of their own, which the system gets back
    -8: 1,  # M_ARENA_MAX: the threads share one stock, and not each its own
}


def keep_freed_memory() -> None:
    """Lets malloc keep what is freed, where the C library is glibc; elsewhere nothing happens.

    A network allocates the same large arrays over and over. By default they go back to the system each time, and the
    system fills every page of the next ones with zeros first, which took a sixth of a training step and a third of a
    saliency map. For programs only: a library does not touch the malloc of the program that imports it.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    for setting, value in MALLOC_SETTINGS.items() if hasattr(libc, "mallopt") else ():
        libc.mallopt(setting, value)
