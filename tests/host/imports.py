"""A double's modules have the hosts' names: importable while it runs, and gone without a trace afterwards."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lib_pm

HOSTS = Path(__file__).parent / "hosts"
_OURS = ("webui", "ui")  # parts of lib_pm that hold on to the host's modules


@contextmanager
def host_modules(kind: str) -> Iterator[None]:
    """`modules`, `networks`, `gradio` … are the double's; lib_pm.webui and lib_pm.ui are imported anew."""
    folders = [HOSTS / kind, *sorted((HOSTS / kind / "extensions-builtin").iterdir()), HOSTS / "common"]
    names = {path.stem for folder in folders for path in folder.iterdir()} - {"scripts"} | {"probe_hooks"}

    def loaded() -> list[str]:
        ours = tuple(f"lib_pm.{part}" for part in _OURS)
        return [
            name
            for name in sys.modules
            if name.partition(".")[0] in names or name in ours or name.startswith(tuple(f"{part}." for part in ours))
        ]

    before = {name: sys.modules.pop(name) for name in loaded()}
    attributes = {part: vars(lib_pm).pop(part) for part in _OURS if part in vars(lib_pm)}
    searched = list(sys.path)
    # The built-in extension's folder is on the path only while its script is executed; so the host does it too.
    sys.path[:0] = [str(HOSTS / kind), str(HOSTS / "common")]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = searched
        for name in loaded():
            vars(sys.modules.pop(name)).clear()  # FastAPI remembers every endpoint, and with its module all of the host
        for part in _OURS:
            vars(lib_pm).pop(part, None)
        sys.modules.update(before)
        vars(lib_pm).update(attributes)
