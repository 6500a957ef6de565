"""What the tab holds: a recipe as the user writes it, LoRAs that are switched off and mistakes included."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from lib_pm.core.errors import MergeInputError
from lib_pm.core.keys.families import KINDS
from lib_pm.core.registry import find_mode
from lib_pm.jobs.prompt import TAG, LoraTag, ModeTag, Request, parse_pm, parse_prompt, write_lora, write_pm
from lib_pm.jobs.recipe import APPLY, DEFAULT_MODE, LoraUse, Recipe, make_recipe, recipe_from_json

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

    @property
    def active(self) -> str:
        """The text without what is switched off."""
        return "\n".join(line for line in self.text.splitlines() if not line.lstrip().startswith(OFF))

    def request(self) -> Request:
        """The LoRAs that are on and the mode; a MergeInputError names the tag that is wrong."""
        request = parse_prompt(self.active)
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
        tags = [*(write_lora(self._applied(tag)) for tag in request.loras), f"<pm:{_written(request.tag)}>"]
        return " ".join(filter(None, [kept, *tags]))

    def _applied(self, tag: LoraTag) -> LoraTag:
        """In a prompt a strength of 0 says what `apply` says here: that part is left out."""
        clip, model = self.apply == "model", self.apply == "clip"
        return replace(tag, clip=0.0 if clip else tag.clip, model=0.0 if model else tag.model)

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
    """The draft of a merged file's recipe (`Recipe.to_json`), which may hold anything: files come from everywhere."""
    try:
        names = [lora["name"] for lora in recipe["loras"]]
        read = recipe_from_json(recipe, map(Path, names))
        tags = [LoraTag(name, use.model, use.clip, use.lbw) for name, use in zip(names, read.loras, strict=True)]
        text = "\n".join(map(write_lora, tags))
    except (KeyError, TypeError, AttributeError) as error:
        raise MergeInputError(f"This is not a recipe of Power Merger: {error!r} is missing or wrong.") from error
    if read.layers != KINDS:
        raise MergeInputError(
            f"The recipe is of {', '.join(read.layers)} layers only, as `--layers` of the command line says; "
            "here all are merged."
        )
    return Draft(text, write_pm(read.mode, read.options), read.apply, read.dtype, read.precision)


def from_json(text: str, where: str) -> Draft:
    """What `to_json` wrote; a MergeInputError names `where` it is from."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise MergeInputError(f"{where} holds no recipe: {error}.") from error
    if not isinstance(value, dict):
        raise MergeInputError(f"{where} holds no recipe.")
    draft = Draft(**{field.name: value[field.name] for field in fields(Draft) if field.name in value})
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
