"""The checkpoints that there are: names only, for a tiny model is made from its name."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from modules import paths

NAMES = ("tiny_one", "tiny_two")


@dataclass(frozen=True)
class CheckpointInfo:
    name: str

    @property
    def filename(self) -> str:
        return os.path.join(paths.models_path, "Stable-diffusion", self.name)

    @property
    def name_for_extra(self) -> str:
        return os.path.splitext(self.name)[0]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    @property
    def shorthash(self) -> str:
        return self.sha256[:10]

    @property
    def title(self) -> str:
        return f"{self.name} [{self.shorthash}]"


checkpoints_list = {info.title: info for info in (CheckpointInfo(f"{name}.safetensors") for name in NAMES)}


def get_closet_checkpoint_match(search_string: str) -> CheckpointInfo | None:
    """(So it is called.) By title, file name or its start; None for an empty text."""
    for info in checkpoints_list.values():
        if search_string and search_string in (info.title, info.name, info.name_for_extra):
            return info
    return None


def select_checkpoint(wanted: str) -> CheckpointInfo:
    return get_closet_checkpoint_match(wanted) or next(iter(checkpoints_list.values()))
