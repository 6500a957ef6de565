"""Finding LoRAs by the names that the WebUI knows them by: file name, sub-folder and file name, or alias."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lib_pm.core.errors import MergeInputError, counted, did_you_mean
from lib_pm.files.aliases import Aliases
from lib_pm.files.folders import walk


@dataclass(frozen=True)
class Library:
    """The LoRAs below a folder, searched when asked, so that a new file is found at once.

    others: folders that a WebUI searches too; one that is not there holds no LoRAs.
    aliases: what is known of the files' second names; None where somebody else knows them, so that no file is opened.
    """

    folder: Path
    others: tuple[Path, ...] = ()
    aliases: Aliases | None = field(default_factory=Aliases, compare=False)

    def names(self) -> dict[Path, str]:
        """Return all LoRAs, sorted, with their full names: `a`, `sub/a`, and of another folder with its name
        `LyCORIS/a`.
        """
        if not self.folder.is_dir():
            raise MergeInputError(f"The LoRA folder {self.folder} does not exist.")
        found = _below(self.folder)
        taken = {name.partition("/")[0].casefold() for name in found.values() if "/" in name}
        for other in self.others:
            start, number = other.name or "other", 1
            while start.casefold() in taken:
                number += 1
                start = f"{other.name} ({number})"
            taken.add(start.casefold())
            for path, name in _below(other).items():
                found.setdefault(path, f"{start}/{name}")  # there already, if one folder is in the other
        return found

    def find(self, name: str) -> Path:
        """Return the one file of that name; `./a` is the one outside of all sub-folders.

        A MergeInputError names near ones, or all that it could be.
        """
        names = self.names()
        files, wanted = list(names), name.replace("\\", "/").removesuffix(".safetensors")
        if wanted.startswith("./"):
            files, wanted = [path for path in files if "/" not in names[path]], wanted[2:]
        for matches in (
            [path for path in files if names[path] == wanted],
            [path for path in files if path.stem == wanted],
            [path for path in files if names[path].lower() == wanted.lower() or path.stem.lower() == wanted.lower()],
        ):
            if matches:
                return _only(matches, name, names)
        if self.aliases and (aliased := self.aliases.find(wanted, files)):
            return _only(aliased, name, names)
        hint = (
            did_you_mean(wanted, sorted({path.stem for path in files}))
            or f" It contains {counted(len(files), 'LoRA')}."
        )
        raise MergeInputError(f"There is no LoRA {name!r} in the folder {self.folder.name or self.folder}.{hint}")


def clear_name(full: str) -> str:
    """Return the name of a file that has others of its name elsewhere: with its sub-folder, or `./a` without one."""
    return full if "/" in full else f"./{full}"


def _below(folder: Path) -> dict[Path, str]:
    """Return the LoRAs below a folder with their names there, but none whose name is no text: no tag can hold it."""
    found = (base / name for base, names in walk(folder) for name in names)
    files = sorted(path for path in found if path.suffix.lower() == ".safetensors" and _is_text(path.name))
    return {path: path.relative_to(folder).with_suffix("").as_posix() for path in files}


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _only(matches: list[Path], name: str, names: dict[Path, str]) -> Path:
    if len(matches) > 1:
        raise MergeInputError(
            f"{name!r} could be any of {', '.join(names[path] for path in matches)}; write the full name."
        )
    return matches[0]
