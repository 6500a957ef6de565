"""Block weight presets: the built-in ones, and those in a file of the user's."""

from __future__ import annotations

from pathlib import Path

from lib_pm.core.errors import MergeInputError
from lib_pm.families.blocks import BLOCK_LISTS, read_presets


def _preset(text: str) -> str:
    return ",".join(text.split())


# The names and numbers that sd-webui-lora-block-weight starts with; users share prompts that say MIDD or OUTALL.
BUILT_IN = {
    "NONE": _preset("0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0"),
    "ALL": _preset("1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"),
    "INS": _preset("1 1 1 1 0 0 0 0 0 0 0 0 0 0 0 0 0"),
    "IND": _preset("1 0 0 0 1 1 1 0 0 0 0 0 0 0 0 0 0"),
    "INALL": _preset("1 1 1 1 1 1 1 0 0 0 0 0 0 0 0 0 0"),
    "MIDD": _preset("1 0 0 0 1 1 1 1 1 1 1 1 0 0 0 0 0"),
    "OUTD": _preset("1 0 0 0 0 0 0 0 1 1 1 1 0 0 0 0 0"),
    "OUTS": _preset("1 0 0 0 0 0 0 0 0 0 0 0 1 1 1 1 1"),
    "OUTALL": _preset("1 0 0 0 0 0 0 0 1 1 1 1 1 1 1 1 1"),
    "ALL0.5": _preset("0.5 0.5 0.5 0.5 0.5 0.5 0.5 0.5 0.5 0.5 0.5 0.5 0.5 0.5 0.5 0.5 0.5"),
    "FLUXALL": ",".join(["1"] * max(BLOCK_LISTS)),
}


def load_presets(path: Path | None = None) -> dict[str, str]:
    """Return the built-in presets, overridden by those of a text file with `NAME:1,1,0,…` lines."""
    if path is None:
        return dict(BUILT_IN)
    try:
        return BUILT_IN | read_presets(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error  # without its folder: it is shown over the API
        raise MergeInputError(f"The block weight presets in {path.name} cannot be read: {why}.") from error
