"""Second names of LoRAs, which only the files themselves know."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from lib_pm.files.stamps import Facts


class Aliases:
    """Each file's ss_output_name, which the WebUI takes as its second name: read once, until the file changes."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[Facts, str]] = {}

    def find(self, alias: str, files: Iterable[Path]) -> list[Path]:
        """Return those of the files that have this alias."""
        known = self._known
        self._known = {path: entry for path in files if (entry := _entry(path, known.get(path)))}
        return [path for path, (_, found) in self._known.items() if found == alias]


def _entry(path: Path, known: tuple[Facts, str] | None) -> tuple[Facts, str] | None:
    """Return what the file is known again by and its alias, "" for none; None if it is no file now."""
    try:
        now = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(now.st_mode):  # a pipe would wait for its writer
        return None
    seen = Facts.of(now)
    return known if known and known[0] == seen else (seen, _read(path))


def _read(path: Path) -> str:
    try:
        with safe_open(os.fspath(path), framework="np") as file:
            return str((file.metadata() or {}).get("ss_output_name", ""))
    except (SafetensorError, OSError):
        return ""  # a damaged file has no name; it is reported when it is asked for by its own
