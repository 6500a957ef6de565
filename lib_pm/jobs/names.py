"""Names that users give to files: names only, never paths, and none that a system or a tag cannot hold."""

from __future__ import annotations

import re
from pathlib import Path

from lib_pm.core.errors import MergeInputError

_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\ud800-\udfff]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # on Windows
LONGEST = 200  # bytes: file systems have 255, and an ending is added


def check_name(name: str, what: str = "name") -> str:
    """The name without spaces around it; a MergeInputError says what is wrong with it."""
    name = name.strip()
    bad = sorted(set(_FORBIDDEN.findall(name)))
    if not name:
        raise MergeInputError(f"The {what} is empty.")
    if bad:
        raise MergeInputError(f"The {what} {name!r} holds {' '.join(bad)}, which a file's name cannot.")
    if name.startswith(".") or name.endswith(".") or _RESERVED.fullmatch(name):
        raise MergeInputError(f"The {what} {name!r} is not allowed; choose another.")
    if len(name.encode()) > LONGEST:
        raise MergeInputError(f"The {what} has {len(name.encode())} bytes; allowed: {LONGEST}.")
    return name


def check_folder(folder: str) -> str:
    """A folder below another as `a/b`, "" for that one itself; a MergeInputError if it leads out of it."""
    folder = folder.strip().replace("\\", "/")
    if folder.startswith("/") or re.match(r"[A-Za-z]:", folder):
        raise MergeInputError(f"The folder {folder!r} is absolute; allowed: one inside the LoRA folder.")
    return "/".join(check_name(part, "folder") for part in folder.split("/") if part)


def lora_file(root: Path, folder: str, name: str) -> Path:
    """Where a LoRA of that name is to be written below `root`."""
    name = check_name(name.strip().removesuffix(".safetensors"), "file name")
    return root.joinpath(*check_folder(folder).split("/"), f"{name}.safetensors")
