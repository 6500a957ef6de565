"""A folder that is made when something is written into it, and not before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib_pm.core.errors import MergeInputError
from lib_pm.files.whole_file import reason


def check_can_be_made(folder: Path, root: Path) -> None:
    """Raise a MergeInputError if something in the way of the folder, which is below `root`, is no folder itself."""
    there = next(place for place in (folder, *folder.parents) if place == root or place.exists())
    if there != root and not there.is_dir():
        name = folder.relative_to(root).as_posix()
        raise MergeInputError(f"The folder {name!r} cannot be created: {there.name} is a file.")


@contextmanager
def made(folder: Path, root: Path) -> Iterator[None]:
    """With the folder there; if what it was made for fails, it is gone again, and so are those made above it."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MergeInputError(
            f"The folder {folder.relative_to(root).as_posix()!r} cannot be created: {reason(error)}."
        ) from error
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # something else is in it by now
            for place in missing:
                place.rmdir()
        raise
