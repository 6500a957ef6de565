"""Temporary files: recognised as ours, locked while they are written, and removed if whoever wrote them was killed.

The lock goes with the process that holds it, however that ends. So one that can be had belongs to nobody who lives,
which a process number could not tell: numbers are used again, and are others in a container.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import secrets
import time
from pathlib import Path
from typing import IO

WINDOWS = os.name == "nt"
_HERE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_OURS = re.compile(r"\.power-merger-(?P<host>[0-9a-f]{8})-[0-9a-f]{16}\.tmp")
_MINUTE, _DAY = 60, 24 * 60 * 60


def new_temporary(folder: Path) -> IO[bytes]:
    """Return a new file of our own in the folder, open and locked, with the file mode that any new file gets."""
    while True:
        file = open(folder / f".power-merger-{_HERE}-{secrets.token_hex(8)}.tmp", "x+b")  # noqa: SIM115 (the caller's)
        if _lock(file) is not False and os.path.exists(file.name):
            return file
        file.close()  # another process was sweeping in the moment before it was locked


def sweep(folder: Path) -> None:
    """Remove what killed processes left in the folder; what is being written stays, whoever writes it."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:  # what cannot be read cannot be swept
        for entry in entries:
            found = _OURS.fullmatch(entry.name)
            if found and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):  # it is gone already, or it may not be touched
                    _remove_if_left(entry.path, found["host"] == _HERE)


def _remove_if_left(path: str, here: bool) -> None:
    """here: this machine made it. Locks of others may be out of sight, but they do not pause for a day."""
    if WINDOWS:  # an open file cannot be removed; it is closed for the moment before it is put in its place
        if _age(path) > _MINUTE:
            os.remove(path)
        return
    with open(path, "r+b") as file:
        locked = _lock(file)
        if (locked and here) or (locked is not False and _age(path) > _DAY):
            os.remove(path)


def _age(path: str) -> float:
    """Return the seconds since it was last written to."""
    return time.time() - os.stat(path).st_mtime


def _lock(file: IO[bytes]) -> bool | None:
    """Return whether the lock is ours now; None where the file system has no locks."""
    if WINDOWS:
        return None
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
