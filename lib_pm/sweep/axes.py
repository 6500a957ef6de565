"""The axes of a sweep, one for each setting of a merge: what it changes, what is allowed, how it is shown.

They are made from the modes' declared options and from the items of a `<lora:…>` tag, and know no host: it asks the
user for values, and rewrites each image's prompt by the axes' edits.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lib_pm.core.choices import APPLY
from lib_pm.core.errors import MergeInputError, quoted
from lib_pm.core.params import LIMIT, Option
from lib_pm.core.registry import MODES, all_options, find_mode
from lib_pm.families.blocks import check_block_weights
from lib_pm.prompt import edit as rewrite
from lib_pm.prompt.edit import Tags, rounded
from lib_pm.prompt.tag import is_number, writable

PREFIX = "[Power Merger] "  # of the axes' names in a menu that they share with others
MODE = "Mode"
LORAS = 8  # LoRAs that have axes: a plot's menu is made before anyone has written a prompt
# A host reads the values of an axis of whole numbers as int. This one, which no option allows, stands there for the
# word `full`, or for an option that is left out.
_NO_NUMBER = -(2**62)
# A number or a range. Python refuses to read whole numbers of some thousand digits, in words of its own.
_TYPED = {int: re.compile(r"[-+\d\s()\[\]]{1,100}"), float: re.compile(r"[-+\d.eE\s()\[\]]{1,100}")}

Edit = Callable[[Tags, Any], Tags]
Label = Callable[[Tags, Any], str]


@dataclass(frozen=True)
class Axis:
    """One axis; its name is without a host's prefix.

    type: of its values: float, int or str. edit: what a value does to the tags. check: refuses a value, or the text
    that is no number, with a MergeInputError that names what is allowed. label: of a value, for a prompt's tags. fits:
    refuses a prompt without the LoRAs that the axis is about. cost: above 0 for what needs a new merge, more for what
    less can be kept of. choices: all values, or those worth offering. words: texts allowed beside numbers, and the
    numbers that stand for them. option: of the mode that it changes, "" for none.
    """

    name: str
    type: type
    edit: Edit
    check: Callable[[Any], object]
    label: Label
    fits: Callable[[Tags], object] = lambda tags: None
    cost: float = 0.5
    choices: Callable[[], list[str]] | None = None
    words: Mapping[str, int] = field(default_factory=dict)
    option: str = ""

    def split(self, text: str) -> list[str]:
        """Return the values of a text with commas. An axis of numbers accepts only numbers and ranges."""
        try:
            values = [value.strip() for row in csv.reader([text], skipinitialspace=True) for value in row] or [""]
        except csv.Error as error:
            raise MergeInputError(
                f"{self.name}: {quoted(text)} is not a list of values separated by commas ({error})."
            ) from error
        if self.type is str:
            return values
        for value in values:
            if value not in self.words and not _TYPED[self.type].fullmatch(value):
                self.check(value)
        return [str(self.words.get(value, value)) for value in values]


@dataclass(frozen=True)
class LoraLookup:
    """What a host knows. find_lora: refuses a name that is not among its LoRAs. presets: block weights by name."""

    lora_names: Callable[[], list[str]]
    find_lora: Callable[[str], object]
    presets: Callable[[], Mapping[str, str]]


def make_axes(lookup: LoraLookup) -> list[Axis]:
    """Return all axes, in the order in which their edits are applied."""
    mode = Axis(MODE, str, rewrite.set_mode, find_mode, _as_it_is, cost=0.6, choices=lambda: list(MODES))
    apply_to = Axis("Apply to", str, rewrite.apply_to, check_part, _as_it_is, choices=lambda: list(APPLY))
    factor = _number_axis("All strengths", rewrite.scale_strengths, lambda tags, by: f"strengths × {_shown(by)}")
    balance = _number_axis("Balance", rewrite.balance, _balance_label, _check_two, 0, 1)
    options = [_option_axis(option) for option in all_options().values()]
    loras = [axis for number in range(1, LORAS + 1) for axis in _lora_axes(number, lookup)]
    return [mode, *options, balance, *loras, apply_to, factor]


def _option_axis(option: Option) -> Axis:
    declared = option.declared
    shown = (declared.short or option.name).replace("_", " ")

    def edit(tags: Tags, number: Any) -> Tags:
        written = rounded(number) if option.type is float else str(number)
        return rewrite.set_option(tags, option.name, option.text(None) if number == _NO_NUMBER else written)

    def check(number: Any) -> None:
        option.parse(None if number == _NO_NUMBER else number)

    def label(tags: Tags, number: Any) -> str:
        if number == _NO_NUMBER:
            return f"{shown} {declared.word or declared.empty}"
        return f"{shown} {number if option.type is int else _shown(number)}"

    return Axis(
        declared.label,
        option.type,
        edit,
        check,
        label,
        cost=0.4 if declared.short else 0.45,  # all ranks come from one decomposition
        words={declared.word: _NO_NUMBER} if declared.word or declared.empty else {},
        option=option.name,
    )


def _lora_axes(number: int, lookup: LoraLookup) -> list[Axis]:
    name = f"LoRA {number}"

    def fits(tags: Tags) -> None:
        if len(tags.loras) < number:
            raise MergeInputError(f"There is no {name}: the prompt has {len(tags.loras)} <lora:…> tags.")

    def strength(what: str, *parts: str) -> Axis:
        def edit(tags: Tags, value: float) -> Tags:
            return rewrite.set_strength(tags, number, **dict.fromkeys(parts, value))

        def label(tags: Tags, value: float) -> str:
            return f"{_name(tags, number)}{what}: {_shown(value)}"

        return _number_axis(f"{name} strength{what}", edit, label, fits)

    def rename(tags: Tags, value: str) -> Tags:
        return rewrite.set_name(tags, number, value)

    def named(tags: Tags, value: str) -> str:
        return _base(value)

    def weigh(tags: Tags, value: str) -> Tags:
        return rewrite.set_block_weights(tags, number, value)

    def weighed(tags: Tags, value: str) -> str:
        return f"{_name(tags, number)}: {value or 'no lbw'}"

    def check_name(value: str) -> None:
        lookup.find_lora(writable(value, "lora"))

    def check_weights(value: str) -> None:
        if is_number(value):
            raise MergeInputError(f'{name} lbw is {quoted(value)}; put a list of block weights in quotes: "1,0,0,…".')
        check_block_weights(value, lookup.presets(), name)

    return [
        strength("", "model", "clip"),
        strength(" model", "model"),
        strength(" clip", "clip"),
        Axis(f"{name} name", str, rename, check_name, named, fits, 0.65, lookup.lora_names),
        Axis(f"{name} lbw", str, weigh, check_weights, weighed, fits, choices=lambda: list(lookup.presets())),
    ]


def _number_axis(
    name: str,
    edit: Edit,
    label: Label,
    fits: Callable[[Tags], object] = lambda tags: None,
    low: float = -LIMIT,
    high: float = LIMIT,
) -> Axis:
    def check(value: float | str) -> None:
        try:
            inside = low <= float(value) <= high
        except ValueError:
            inside = False
        if not inside:
            raise MergeInputError(
                f"{name} is {quoted(value)}; allowed: a number from {low:.0f} to {high:.0f}, or a range such as "
                "0-1 [5]. Use a decimal point; commas separate values."
            )

    return Axis(name, float, edit, check, label, fits)


def check_part(part: str) -> None:
    """Raise MergeInputError unless it is a part of a model that a merge can be applied to."""
    if part not in APPLY:
        raise MergeInputError(f"Apply to is {part!r}; allowed: {', '.join(APPLY)}.")


def _check_two(tags: Tags) -> None:
    if len(tags.merged) != 2:
        raise MergeInputError(f"Balance needs exactly two LoRAs to merge; the prompt has {len(tags.merged)}.")


def _as_it_is(tags: Tags, value: str) -> str:
    return value


def _balance_label(tags: Tags, share: float) -> str:
    first, second = (_name(tags, number) for number in tags.merged)
    return f"{first}: {_shown(1 - share)}, {second}: {_shown(share)}"


def _name(tags: Tags, number: int) -> str:
    """Return the LoRA's name in the prompt, without its folder."""
    return _base(tags.loras[number - 1].name)


def _base(name: str) -> str:
    return re.split(r"[/\\]", name.strip())[-1]


def _shown(number: float) -> str:
    """Return the number with two places, or up to four where it needs them."""
    text = f"{number:.4f}"
    return text.removesuffix("00") if text.endswith("00") else text.rstrip("0")
