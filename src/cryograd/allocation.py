"""Memory that is freed stays with the process.

The C library gives large blocks back to the system as soon as they are freed. The next array of that size
then faults in every page anew, which takes as long as transforming it.
"""

import ctypes

# Parameters of glibc's mallopt, and the most that it takes.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_MOST = 2**31 - 1


def keep_freed_memory() -> None:
    """Let later arrays reuse the memory of earlier ones; nothing where the C library has no such setting."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, _MOST)
    mallopt(_TOP_PAD, 2**26)
