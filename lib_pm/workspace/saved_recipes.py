"""Recipes that users save by name, each in its own JSON file, and the one that they worked on last."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lib_pm.core.errors import MergeInputError
from lib_pm.files.file_names import check_name
from lib_pm.files.whole_file import write_text
from lib_pm.workspace.draft import Draft, from_json


@dataclass(frozen=True)
class SavedRecipes:
    """folder: created when the first recipe is saved."""

    folder: Path

    def names(self) -> list[str]:
        return sorted((file.stem for file in self._named.glob("*.json")), key=str.casefold)

    def load(self, name: str) -> Draft:
        return _read(self._existing(name), f"The recipe {name!r}")

    def save(self, name: str, draft: Draft, *, overwrite: bool = False) -> None:
        _write(self._path(name), draft, overwrite=overwrite)

    def delete(self, name: str) -> None:
        self._existing(name).unlink()

    @property
    def last(self) -> Draft:
        """Return the last draft; an empty one at first, or if it cannot be read: it is nobody's only copy.

        A damaged file cannot, nor one of a version that knew other modes.
        """
        path = self.folder / "last.json"
        try:
            return _read(path, "The last recipe") if path.is_file() else Draft()
        except MergeInputError:
            return Draft()

    def keep_last(self, draft: Draft) -> None:
        _write(self.folder / "last.json", draft)

    @property
    def _named(self) -> Path:
        return self.folder / "recipes"

    def _existing(self, name: str) -> Path:
        path = self._path(name)
        if not path.is_file():
            raise MergeInputError(f"There is no recipe {name!r}; saved: {', '.join(self.names()) or 'none yet'}.")
        return path

    def _path(self, name: str) -> Path:
        return self._named / f"{check_name(name, 'recipe name')}.json"


def _read(path: Path, where: str) -> Draft:
    try:
        return from_json(path.read_text(encoding="utf-8"), where)
    except UnicodeDecodeError as error:
        raise MergeInputError(f"{where} cannot be read: {error}.") from error
    except OSError as error:
        raise MergeInputError(f"{where} cannot be read: {error.strerror}.") from error


def _write(path: Path, draft: Draft, *, overwrite: bool = True) -> None:
    """Write the whole file or nothing."""
    text = json.dumps(draft.to_json(), indent=2, ensure_ascii=False)
    write_text(path, text, f"The recipe {path.stem!r}", overwrite=overwrite)
