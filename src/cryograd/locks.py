"""Locks on open files that die with the process that holds them, however it ends."""

import fcntl
from typing import IO, Any


def acquired(file: IO[Any]) -> bool | None:
    """Try to lock an open file; the lock is gone when the file is closed or its process is.

    Returns
    -------
    bool or None
        Whether it is locked now: False where another process has it, None where the file system knows no
        locks, as some that are reached over a network.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
