"""Names that users give to files: names only, never paths, and none that a system or a tag cannot hold."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from lib_pm.core.errors import MergeInputError, quoted
from lib_pm.core.visible import described, unseen, visible

_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')
# Devices of Windows, with any ending and with spaces before it; it takes a raised digit for a digit.
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.IGNORECASE)
DEEPEST = 8  # folders in one another
LONGEST = 200  # bytes: file systems have 255, and an ending is added


def check_name(name: str, what: str = "name") -> str:
    """Return the name without spaces around it; a MergeInputError says what is wrong with it, on whatever system."""
    name = name.strip()
    if not name:
        raise MergeInputError(f"The {what} is empty.")
    length = len(name.encode("utf-8", "surrogatepass"))
    if length > LONGEST:
        raise MergeInputError(f"The {what} {quoted(name)} has {length} bytes; allowed: {LONGEST}.")
    if bad := [described(char) for char in unseen(name)]:
        raise MergeInputError(f"The {what} '{visible(name)}' contains {', '.join(bad)}, which is invisible.")
    if bad := sorted(set(_FORBIDDEN.findall(name))):
        raise MergeInputError(
            f"The {what} {quoted(name)} contains {' '.join(bad)}, which is not allowed in file names."
        )
    if name.startswith(".") or name.endswith("."):
        raise MergeInputError(f"The {what} {quoted(name)} is not allowed: it starts or ends with a dot.")
    if _DEVICE.fullmatch(name):
        raise MergeInputError(f"The {what} {quoted(name)} is not allowed: Windows reserves it for a device.")
    return name


def twin(path: Path) -> Path | None:
    """Return a file that differs only in case or in the encoding of its letters, if this one is not there.

    On Windows and macOS the two are one.
    """
    if path.exists() or not path.parent.is_dir():
        return None
    same = (other for other in path.parent.iterdir() if _one(other.name) == _one(path.name))
    return next(same, None)


def _one(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())


def check_folder(folder: str) -> str:
    """Return a folder below another as `a/b`, "" for that one itself; a MergeInputError if it leads out of it."""
    folder = folder.strip().replace("\\", "/")
    if folder.startswith("/") or re.match(r"[A-Za-z]:", folder):
        raise MergeInputError(
            f"The folder {quoted(folder)} is an absolute path; allowed: a folder inside the LoRA folder."
        )
    parts = [part for part in folder.split("/") if part]
    if len(parts) > DEEPEST:
        raise MergeInputError(f"The folder is nested {len(parts)} levels deep; allowed: {DEEPEST}.")
    return "/".join(check_name(part, "folder") for part in parts)


def lora_file(root: Path, folder: str, name: str) -> Path:
    """Return where a LoRA of that name is to be written below `root`."""
    name = check_name(name.strip().removesuffix(".safetensors"), "file name")
    return root.joinpath(*check_folder(folder).split("/"), f"{name}.safetensors")
