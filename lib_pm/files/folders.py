"""A folder's sub-folders and files, whatever its links lead to."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path


def walk(top: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield every folder from `top` down, itself first, each with the names of its regular files: no pipe is one.

    Links are followed, but no folder is entered twice, as they may lead in circles. One that is also there without a
    link comes under its own name. What cannot be read is passed over.
    """
    seen: set[str] = set()
    folders, links = deque([top]), deque[Path]()
    while folders or links:
        folder = (folders or links).popleft()
        place = os.path.realpath(folder)
        if place in seen:
            continue
        seen.add(place)
        try:
            with os.scandir(folder) as entries:
                found = [(entry, _kind(entry)) for entry in entries]
        except OSError:
            continue
        folders += [Path(entry.path) for entry, kind in found if kind == "folder"]
        links += [Path(entry.path) for entry, kind in found if kind == "link to a folder"]
        yield folder, [entry.name for entry, kind in found if kind == "file"]


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_dir():
            return "link to a folder" if entry.is_symlink() else "folder"
        return "file" if entry.is_file() else ""
    except OSError:  # a link to itself
        return ""
