"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import IO

from lib_pm.core.errors import MergeInputError
from lib_pm.files import leftovers


class WholeFile:
    """Written under a temporary name in the target's folder; `place` puts it there, the `with` block removes the rest.

    file: open for writing and reading. What goes wrong is an OSError, see `reason`. Without `overwrite`, a file of that
    name is a FileExistsError even if it came a moment before: of several that write one name, one does.
    """

    def __init__(self, target: Path, *, overwrite: bool = False) -> None:
        leftovers.sweep(target.parent)
        self._target = target
        self._overwrite = overwrite
        self.file: IO[bytes] = leftovers.new_temporary(target.parent)

    def place(self) -> None:
        """Flush it to the disk and give it its name."""
        self.file.flush()
        os.fsync(self.file.fileno())
        if leftovers.WINDOWS:  # which renames no open file; elsewhere the lock holds until the end
            self.file.close()
        if self._overwrite:
            os.replace(self.file.name, self._target)
        elif leftovers.WINDOWS:
            os.rename(self.file.name, self._target)  # it replaces nothing there
        else:
            _link(self.file.name, self._target)

    def __enter__(self) -> WholeFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if leftovers.WINDOWS:
            self._close()
        Path(self.file.name).unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk fails again at this flush; the first failure is on its way
            self.file.close()


def _link(temporary: str, target: Path) -> None:
    """Give the file a second name, which cannot replace another; its first one is removed afterwards."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # no hard links on this file system: an empty file keeps the name until ours replaces it
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.replace(temporary, target)
        except OSError:
            os.unlink(target)
            raise


def write_text(target: Path, text: str, what: str, *, overwrite: bool = True) -> None:
    """Write a text file and its folder. what: it in words, for the MergeInputError if that cannot be done."""
    try:
        data = text.encode()
        target.parent.mkdir(parents=True, exist_ok=True)
        with WholeFile(target, overwrite=overwrite) as whole:
            whole.file.write(data)
            whole.place()
    except UnicodeEncodeError as error:
        why = f"it contains {text[error.start]!r}, which is not a complete character"
        raise MergeInputError(f"{what} could not be written: {why}.") from error
    except OSError as error:
        if isinstance(error, FileExistsError) and target.parent.is_dir():
            raise already_there(what) from error
        raise MergeInputError(f"{what} could not be written: {reason(error)}.") from error


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content; one that is there is a FileExistsError."""
    with source.open("rb") as file, WholeFile(target) as whole:
        shutil.copyfileobj(file, whole.file)
        whole.place()


def already_there(what: object) -> MergeInputError:
    return MergeInputError(f"{what} already exists; choose another name or allow overwriting.")


def reason(error: OSError) -> str:
    """Return why the system refused, in words of ours where we have them, never with a path."""
    refused = "writing to the folder or file is not permitted"
    if leftovers.WINDOWS:
        refused += ", or the file is open in another program or is one of the LoRAs being merged"
    reasons = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EACCES: refused,
        errno.EPERM: refused,
        errno.EROFS: "the folder is read-only",
    }
    return reasons.get(error.errno or 0) or error.strerror or str(error)
