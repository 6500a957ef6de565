"""What the tab holds: a recipe as the user writes it, LoRAs that are switched off and mistakes included."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lib_pm.core.errors import MergeInputError
from lib_pm.core.registry import find_mode
from lib_pm.jobs.prompt import TAG, LoraTag, ModeTag, Request, parse_pm, parse_prompt, write_lora, write_pm
from lib_pm.jobs.recipe import APPLY, DEFAULT_MODE, LoraUse, Recipe, make_recipe

_STACKED = re.compile(r":\s*pm\s*=\s*off\s*(?=[:>])", re.IGNORECASE)
OFF = "#"  # in front of a line: that LoRA is switched off


@dataclass(frozen=True)
class Draft:
    """text: a `<lora:…>` a line, those after a # are off. pm: the body of the `<pm:…>` tag; one in the text wins."""

    text: str = ""
    pm: str = DEFAULT_MODE
    apply: str = APPLY[0]
    dtype: str = "float32"
    precision: str = "normal"

    def request(self) -> Request:
        """The LoRAs that are on and the mode; a MergeInputError names the tag that is wrong."""
        request = parse_prompt("\n".join(line for line in self.text.splitlines() if not line.lstrip().startswith(OFF)))
        stacked = [tag.name for tag in request.loras if tag.stacked]
        if stacked:
            raise MergeInputError(
                f"{', '.join(stacked)}: pm=off leaves a LoRA out of a merge; switch it off, or take pm=off away."
            )
        return Request(request.loras, request.tag if request.tag.mode else parse_pm(self.pm))

    def recipe(self, find: Callable[[str], Path], presets: Mapping[str, str]) -> Recipe:
        """The recipe, with `find` giving the file of a name."""
        request = self.request()
        return make_recipe(
            [LoraUse(find(tag.name), tag.model, tag.clip, tag.lbw) for tag in request.loras],
            request.tag.mode,
            request.tag.options,
            presets=presets,
            apply=self.apply,
            dtype=self.dtype,
            precision=self.precision,
        )

    def insert_into(self, prompt: str) -> str:
        """The prompt with this draft's tags in the place of its own. What it leaves out of merges, pm=off, stays."""
        request = self.request()
        kept = TAG.sub(lambda tag: tag[0] if _STACKED.search(tag[0]) else "", prompt).strip()
        tags = [*map(write_lora, request.loras), f"<pm:{_written(request.tag)}>"]
        return " ".join(filter(None, [kept, *tags]))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def from_prompt(prompt: str, name_of: Callable[[str], str]) -> Draft:
    """The LoRAs and the mode of a prompt. name_of: the name to write for the one that the prompt says.

    What the prompt leaves out of its merge, pm=off, comes switched off. A MergeInputError if there is no LoRA in it.
    """
    tags = TAG.findall(prompt)
    lines = [_line(body, name_of) for kind, body in tags if kind != "pm"]
    if not lines:
        raise MergeInputError("There is no <lora:…> in the prompt.")
    mode = next((parse_pm(body) for kind, body in tags if kind == "pm"), ModeTag(DEFAULT_MODE))
    return Draft("\n".join(lines), _written(mode))


def from_recipe(recipe: Mapping[str, Any]) -> Draft:
    """The draft of a merged file's recipe (`Recipe.to_json`)."""
    try:
        tags = [LoraTag(lora["name"], lora["model"], lora["clip"], lora["lbw"]) for lora in recipe["loras"]]
        mode = find_mode(recipe["mode"])
        return Draft(
            "\n".join(map(write_lora, tags)),
            write_pm(mode, mode.values(recipe["options"])),
            recipe["apply"],
            recipe["dtype"],
            recipe.get("precision", "normal"),
        )
    except (KeyError, TypeError) as error:
        raise MergeInputError(f"This is not a recipe of Power Merger: {error!r} is missing or wrong.") from error


def from_json(text: str, where: str) -> Draft:
    """What `to_json` wrote; a MergeInputError names `where` it is from."""
    try:
        value = json.loads(text)
        draft = Draft(**{field.name: value[field.name] for field in fields(Draft) if field.name in value})
    except (ValueError, TypeError) as error:
        raise MergeInputError(f"{where} holds no recipe: {error}.") from error
    if not all(isinstance(part, str) for part in asdict(draft).values()):
        raise MergeInputError(f"{where} holds no recipe: its parts should all be text.")
    return draft


def _line(body: str, name_of: Callable[[str], str]) -> str:
    name, colon, rest = body.partition(":")
    line = f"<lora:{name_of(name.strip())}{colon}{rest}>"
    return f"{OFF} {_STACKED.sub('', line)}" if _STACKED.search(line) else line


def _written(tag: ModeTag) -> str:
    mode = find_mode(tag.mode)
    return write_pm(mode, mode.values(tag.options))
