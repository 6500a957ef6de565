"""What a file is known again by, without reading it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

CONFIG = "adapter_config.json"  # PEFT's settings of the file MODEL in the same folder
MODEL = "adapter_model.safetensors"


@dataclass(frozen=True)
class Facts:
    """inode, size, and the times in ns when the content and when anything about the file was changed last.

    A file that another one was put in place of has another inode, even where clocks are coarse or times were copied.
    """

    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Facts:
        return cls(stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    def same_content(self, stat: os.stat_result) -> bool:
        """Return whether an open file is unchanged; what it is called and how many names it has may be others now."""
        return (self.size, self.modified) == (stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True)
class Stamp:
    """A LoRA's file, and the settings beside it where there are any that belong to it."""

    path: Path
    file: Facts
    config: Facts | None = None

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Return the stamp of a file; an OSError if it is not there."""
        try:
            config = Facts.of(path.with_name(CONFIG).stat()) if path.name == MODEL else None
        except FileNotFoundError:
            config = None
        return cls(path, Facts.of(path.stat()), config)
