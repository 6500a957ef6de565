"""A LoRA's card in the WebUI: `NAME.json` with what to write into the prompt, and a picture beside it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from lib_pm.core.errors import MergeInputError
from lib_pm.files.json_text import parse_json
from lib_pm.files.whole_file import copy_file, reason, write_text

_KINDS = ("png", "jpg", "jpeg", "webp", "gif")
_PICTURES = tuple(f"{middle}.{kind}" for middle in ("", ".preview") for kind in _KINDS)
_ACTIVATION = "activation text"


@dataclass(frozen=True)
class Card:
    """activation: text that wakes the LoRA up. picture: a file, if there is one."""

    activation: str = ""
    picture: Path | None = None


def read_card(lora: Path) -> Card:
    """Return the card beside a LoRA's file, an empty one if there is none that can be read."""
    text = (_read(lora) or {}).get(_ACTIVATION, "")
    return Card(text.strip() if isinstance(text, str) else "", find_picture(lora))


def find_picture(lora: Path, files: Collection[str] | None = None) -> Path | None:
    """Return the picture beside a LoRA's file, None without one. files: all names in its folder, if known."""
    names = (lora.stem + ending for ending in _PICTURES)
    there = files.__contains__ if files is not None else lambda name: lora.with_name(name).is_file()
    found = next(filter(there, names), None)
    return lora.with_name(found) if found else None


def joined_activation(cards: Iterable[Card]) -> str:
    """Return the activation texts in one line, each word group once."""
    groups = (group.strip() for card in cards for group in card.activation.split(","))
    return ", ".join(dict.fromkeys(group for group in groups if group))


def write_card(lora: Path, card: Card) -> None:
    """Write the card beside a LoRA's file. Other values of its `.json` stay, and so does an existing picture."""
    value = _read(lora)
    if value is None:
        raise MergeInputError(f"{lora.stem}.json cannot be read and would be overwritten; repair or remove it.")
    value[_ACTIVATION] = card.activation.strip()
    text = json.dumps(value, indent=4, ensure_ascii=False)
    write_text(lora.with_suffix(".json"), text, f"The card of {lora.stem}")
    if card.picture and not find_picture(lora):
        try:
            copy_file(card.picture, lora.with_suffix(card.picture.suffix))
        except OSError as error:
            raise MergeInputError(f"The picture of {lora.stem} could not be written: {reason(error)}.") from error


def _read(lora: Path) -> dict[str, object] | None:
    """Return the content of a card's file, None if it cannot be read."""
    try:
        value = parse_json(lora.with_suffix(".json").read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
