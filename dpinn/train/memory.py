"""Keep freed memory for the next step instead of giving it back to the system."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's mallopt, from malloc.h
_TRIM_BYTES = 2**31 - 1
_MMAP_BYTES = 2**25  # the largest that glibc takes


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what a step frees, since the next one asks for the same.

    Every step on a CPU frees and allocates some ten megabytes of activations; given back to the
    system they come again as page faults. Has no effect on any number.

    Returns:
        Whether the allocator took it; False where there is no glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_TRIM_THRESHOLD, _TRIM_BYTES) and mallopt(_MMAP_THRESHOLD, _MMAP_BYTES))
