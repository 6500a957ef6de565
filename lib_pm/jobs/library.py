"""Finding LoRAs by the names that the WebUI knows them by: file name, sub-folder and file name, or alias."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from lib_pm.core.errors import MergeInputError


@dataclass(frozen=True)
class Library:
    """The LoRAs below a folder, searched when asked, so that a new file is found at once."""

    folder: Path

    def files(self) -> list[Path]:
        if not self.folder.is_dir():
            raise MergeInputError(f"The LoRA folder {self.folder} does not exist.")
        found = (Path(base, name) for base, _, names in os.walk(self.folder, followlinks=True) for name in names)
        return sorted(path for path in found if path.suffix.lower() == ".safetensors")

    def find(self, name: str) -> Path:
        """The one file of that name; `./a` is the one outside of all sub-folders.

        A MergeInputError names near ones, or all that it could be.
        """
        files = self.files()
        wanted = name.replace("\\", "/").removesuffix(".safetensors")
        relative = {path: path.relative_to(self.folder).with_suffix("").as_posix() for path in files}
        if wanted.startswith("./"):
            files, wanted = [path for path in files if path.parent == self.folder], wanted[2:]
        for matches in (
            [path for path in files if relative[path] == wanted],
            [path for path in files if path.stem == wanted],
            [path for path in files if relative[path].lower() == wanted.lower() or path.stem.lower() == wanted.lower()],
        ):
            if matches:
                return _only(matches, name, relative)
        aliased = [path for path in files if _alias(path) == wanted]  # last: it opens every file
        if aliased:
            return _only(aliased, name, relative)
        near = difflib.get_close_matches(wanted, sorted({path.stem for path in files}), n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else f" It holds {len(files)} LoRAs."
        raise MergeInputError(f"There is no LoRA {name!r} in the folder {self.folder.name or self.folder}.{hint}")


def clear_name(path: Path, folder: Path) -> str:
    """The name of a file that has others of its name elsewhere: with its sub-folder, or `./a` if it is in none."""
    relative = path.relative_to(folder).with_suffix("").as_posix()
    return relative if "/" in relative else f"./{relative}"


def _only(matches: list[Path], name: str, relative: dict[Path, str]) -> Path:
    if len(matches) > 1:
        raise MergeInputError(
            f"{name!r} could be any of {', '.join(relative[path] for path in matches)}; write it in full."
        )
    return matches[0]


def _alias(path: Path) -> str:
    """The file's ss_output_name, which the WebUI takes as its second name."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return str((file.metadata() or {}).get("ss_output_name", ""))
    except (SafetensorError, OSError):
        return ""  # a damaged file has no name; it is reported when it is asked for by its own
