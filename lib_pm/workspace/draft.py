"""What the tab holds: a recipe as the user writes it, with disabled LoRAs and mistakes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib_pm.core.choices import APPLY
from lib_pm.core.errors import Faults, MergeInputError, quoted
from lib_pm.core.registry import Choice, find_mode
from lib_pm.families.families import KINDS
from lib_pm.files.json_text import NotJson, parse_json
from lib_pm.merging.recipe import DEFAULT_MODE, Recipe, recipe_from_json, recipe_from_request
from lib_pm.prompt.parse import (
    LoraTag,
    Request,
    collect_prompt,
    collect_tags,
    parse_pm,
    write_lora,
    write_pm,
)
from lib_pm.prompt.tag import Tag, check_text, has_tags, split_text, tags_of

DEFAULT_CHOICE = find_mode(DEFAULT_MODE).choice()
OFF = "#"  # in front of a line: that LoRA is switched off
# A line that is nothing but `name:0.8`: a LoRA without its `<lora:` and `>`. `(red:1.2)` is a prompt's.
_BARE = re.compile(r"<?([^<>()\[\]{}:,|]+:\s*[-+]?\.?[0-9][^<>()\[\]{}]*)>?")


@dataclass(frozen=True)
class Draft:
    """text: a `<lora:…>` a line, those after a # are off. choice: of the mode; a `<pm:…>` tag in the text wins."""

    text: str = ""
    choice: Choice = DEFAULT_CHOICE
    apply: str = APPLY[0]
    dtype: str = "float32"
    precision: str = "normal"

    @property
    def enabled_text(self) -> str:
        """Return the text without its disabled lines; the others keep their line numbers."""
        return "\n".join("" if _is_off(line) else line for line in self.text.split("\n"))

    def request(self) -> Request:
        """Return the enabled LoRAs and the mode. A MergeInputError names all tags that are wrong."""
        faults = Faults()
        request = self._request(faults)
        faults.raise_all()
        return request

    def recipe(self, find: Callable[[str], Path], presets: Callable[[], Mapping[str, str]]) -> Recipe:
        """Return the recipe, see `recipe_from_request`. A MergeInputError names all that is wrong, files too."""
        faults = Faults()
        request = self._request(faults)
        settings = {"apply": self.apply, "dtype": self.dtype, "precision": self.precision}
        return recipe_from_request(request, find, presets, faults=faults, **settings)

    def _request(self, faults: Faults) -> Request:
        """Return what is correct; errors are collected in `faults`."""
        request = collect_prompt(self.enabled_text, faults)
        for number, line in enumerate(self.enabled_text.split("\n"), 1):
            if not has_tags(line) and (bare := _BARE.fullmatch(line.strip())):
                name = bare[1].strip()
                with faults.collect():
                    raise MergeInputError(
                        f"Line {number}, column {line.index(name) + 1}: {quoted(name)} is not a tag; "
                        f"write {quoted(f'<lora:{name}>')}."
                    )
        with faults.collect():
            if request.stacked:
                names = ", ".join(tag.name for tag in request.stacked)
                raise MergeInputError(
                    f"{names}: pm=off keeps a LoRA out of the merge; disable its line, or remove pm=off."
                )
        return Request(request.loras, request.choice or self.choice)

    def insert_into(self, prompt: str) -> str:
        """Return the prompt with this draft's tags in place of its own. What it leaves out of merges, pm=off, stays."""
        request = self.request()
        check_text(prompt)
        kept = "".join(str(part) for part in split_text(prompt) if isinstance(part, str) or _is_stacked(part)).strip()
        tags = [
            *(write_lora(self._applied(tag)) for tag in request.loras),
            str(write_pm(request.choice or self.choice)),
        ]
        return " ".join(filter(None, [kept, *tags]))

    def _applied(self, tag: LoraTag) -> LoraTag:
        """Return the tag with strength 0 for the part that `apply` leaves out: a prompt has no other word for it."""
        clip, model = self.apply == "model", self.apply == "clip"
        return replace(tag, clip=0.0 if clip else tag.clip, model=0.0 if model else tag.model)

    def to_json(self) -> dict[str, Any]:
        """Return the draft as plain values, the mode with its options as the body of a `<pm:…>` tag."""
        rest = {"apply": self.apply, "dtype": self.dtype, "precision": self.precision}
        return {"text": self.text, "pm": write_pm(self.choice).body, **rest}


def from_prompt(prompt: str, name_of: Callable[[str], str]) -> Draft:
    """Return the LoRAs and the mode of a prompt. name_of: the name to write for the one that the prompt says.

    What the prompt leaves out of its merge, pm=off, comes switched off. A MergeInputError if there is no LoRA in it.
    """
    check_text(prompt)
    tags = tags_of(prompt)
    lines = [_line(tag, name_of) for tag in tags if tag.kind != "pm"]
    if not lines:
        raise MergeInputError("There is no <lora:…> tag in the prompt.")
    faults = Faults()
    choice = collect_tags((tag for tag in tags if tag.kind == "pm"), faults).choice
    faults.raise_all()
    return Draft("\n".join(lines), choice or DEFAULT_CHOICE)


def from_recipe(recipe: Mapping[str, Any]) -> Draft:
    """Return the draft of a merged file's recipe (`Recipe.to_json`), which may hold anything."""
    try:
        names = [lora["name"] for lora in recipe["loras"]]
        read = recipe_from_json(recipe, map(Path, names))
        tags = [LoraTag(name, use.model, use.clip, use.lbw) for name, use in zip(names, read.loras, strict=True)]
        text = "\n".join(map(write_lora, tags))
    except (KeyError, TypeError, AttributeError) as error:
        raise MergeInputError(f"This is not a Power Merger recipe: {error!r} is missing or wrong.") from error
    if read.layers != KINDS:
        raise MergeInputError(
            f"The recipe merges only {', '.join(read.layers)} layers, as set by `--layers` on the command line; the "
            "tab merges all."
        )
    return Draft(text, Choice(read.mode, read.options), read.apply, read.dtype, read.precision)


def from_json(text: str, where: str) -> Draft:
    """Return the draft that `to_json` wrote. A MergeInputError names `where` it is from."""
    try:
        value = parse_json(text)
    except NotJson as error:
        raise MergeInputError(f"{where} contains no recipe: {error}.") from error
    if not isinstance(value, dict):
        raise MergeInputError(f"{where} contains no recipe.")
    parts = {name: value[name] for name in ("text", "pm", "apply", "dtype", "precision") if name in value}
    if not all(isinstance(part, str) for part in parts.values()):
        raise MergeInputError(f"{where} contains no recipe: all its values should be text.")
    if "pm" in parts:
        parts["choice"] = parse_pm(Tag.of("pm", parts.pop("pm")))
    return Draft(**parts)


def _is_off(line: str) -> bool:
    return line.lstrip().startswith(OFF)


def _is_stacked(tag: Tag) -> bool:
    return tag.kind != "pm" and tag.off


def _line(tag: Tag, name_of: Callable[[str], str]) -> str:
    name = name_of(tag.name)
    line = replace(tag if name == tag.name else tag.with_name(name), kind="lora")
    return f"{OFF} {line.without(*line.places('pm'))}" if line.off else str(line)
