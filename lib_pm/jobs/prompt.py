"""The text that says what to merge: `<lora:…>` tags and one `<pm:…>` tag, or `FILE:strength` on the command line."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import lib_pm.core.methods  # noqa: F401 (registers the modes)
from lib_pm.core.errors import MergeInputError
from lib_pm.core.params import OptionValue
from lib_pm.core.registry import Mode, find_mode, find_option

_READ = ("te", "unet", "lbw", "w", "pm")
TAG = re.compile(r"<(lora|lyco|pm):([^<>]*)>")


@dataclass(frozen=True)
class LoraTag:
    """One LoRA as the user names it. model, clip: strengths. lbw: block weights or a preset's name, "" for none."""

    name: str
    model: float = 1.0
    clip: float = 1.0
    lbw: str = ""
    stacked: bool = False  # pm=off: the host stacks it as usual, it takes no part in the merge
    other: tuple[str, ...] = ()  # of such a one: what is not read here, `start=5`


@dataclass(frozen=True)
class ModeTag:
    """The `<pm:…>` tag. mode: "" if there is none. unused: options that only other modes have."""

    mode: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def note(self) -> str:
        """What the user should know, "" for nothing."""
        return f"{', '.join(self.unused)} does nothing in mode {self.mode}" if self.unused else ""


@dataclass(frozen=True)
class Request:
    """What a prompt asks for."""

    loras: tuple[LoraTag, ...]
    tag: ModeTag = ModeTag()


def parse_prompt(text: str) -> Request:
    """All tags of a text. A MergeInputError names the tag and what is allowed."""
    loras, modes = [], []
    for kind, body in TAG.findall(text):
        if kind == "pm":
            modes.append(parse_pm(body))
        else:
            loras.append(parse_lora(body))
    if len(modes) > 1:
        raise MergeInputError(f"There are {len(modes)} <pm:…> tags; allowed: one.")
    return Request(tuple(loras), modes[0] if modes else ModeTag())


def parse_pm(body: str) -> ModeTag:
    """`ties_svd:density=0.5:rank=32`, all checked.

    An option of another mode is no error: the mode may come from a `Prompt S/R` plot, the options stay the same.
    """
    id, *words = body.split(":")
    mode = find_mode(id.strip())
    options: dict[str, str] = {}
    unused: list[str] = []
    for word in words:
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals:
            raise MergeInputError(
                f"{word!r} in <pm:{body}> should read option=value; options: {', '.join(mode.options)}."
            )
        other = None if mode.option(name) else find_option(name)
        if other:
            other.parse(value)
            unused.append(name)
        else:
            options[name] = value
    mode.values(options)
    return ModeTag(mode.id, options, tuple(unused))


def write_pm(mode: Mode, options: Mapping[str, OptionValue]) -> str:
    """The body of the tag; `parse_pm` reads it back to the same options."""
    written = {name: mode.options[name].text(value) for name, value in options.items()}
    return ":".join([mode.id, *(f"{name}={text}" for name, text in written.items() if text)])


def parse_lora(body: str) -> LoraTag:
    """`name:te:unet` with `te=`, `unet=`, `lbw=`, `pm=off`, as the WebUI reads it.

    Anything else (`dyn=`, `start=`, `lbwe=` …) is something that a merge cannot do, and a MergeInputError; on a LoRA
    that the host stacks it is left to whom it belongs.
    """
    name, positional, named = _items(body)
    stacked = named.get("pm", "").strip().lower() == "off"
    unread = (*(f"{key}={value}" for key, value in named.items() if key not in _READ), *positional[2:])
    if unread and not stacked:
        raise MergeInputError(
            f"{', '.join(unread)} in <lora:{body}> cannot be merged; allowed: a name, two strengths, te=, unet=, lbw=, "
            "and pm=off, which leaves the LoRA out of the merge."
        )
    lbw = named.get("lbw", named.get("w", "")).strip()
    return LoraTag(name.strip(), *read_strengths(body), lbw, stacked, unread)


def read_strengths(body: str) -> tuple[float, float]:
    """The strengths (model, clip) of a `<lora:…>` tag: te is 1 if missing, unet is then te."""
    _, positional, named = _items(body)
    clip = named.get("te", positional[0] if positional else "1")
    model = named.get("unet", positional[1] if len(positional) > 1 else clip)
    return _strength(model, body), _strength(clip, body)


def _items(body: str) -> tuple[str, list[str], dict[str, str]]:
    """The name, the items without and those with a name of their own."""
    name, *words = body.split(":")
    named = dict(word.split("=", 1) for word in words if "=" in word)
    return name, [word for word in words if "=" not in word], named


def parse_file(text: str) -> LoraTag:
    """`FILE[:MODEL[:CLIP]][:lbw=…]`. Read from the right: a Windows path has a colon too. CLIP is MODEL if missing."""
    name = text
    lbw = ""
    strengths: list[str] = []
    while True:
        rest, colon, last = name.rpartition(":")
        if not colon:
            break
        if last.startswith("lbw="):
            lbw = last.removeprefix("lbw=").strip()
        elif len(strengths) < 2 and _is_number(last):
            strengths.insert(0, last)
        else:
            break
        name = rest
    if not name:
        raise MergeInputError(f"{text!r} names no file; write FILE, FILE:STRENGTH or FILE:MODEL:CLIP.")
    model = _strength(strengths[0], text) if strengths else 1.0
    return LoraTag(name, model, _strength(strengths[1], text) if len(strengths) > 1 else model, lbw)


def write_lora(tag: LoraTag) -> str:
    """The tag as the WebUI writes it; `parse_prompt` reads it back to the same value."""
    # the shortest text that reads back to the same number
    clip, model = (repr(float(strength)).removesuffix(".0") for strength in (tag.clip, tag.model))
    strengths = clip if tag.clip == tag.model else f"{clip}:{model}"
    lbw, off = ([f"lbw={tag.lbw}"] if tag.lbw else []), (["pm=off"] if tag.stacked else [])
    return f"<lora:{':'.join([tag.name, strengths, *lbw, *tag.other, *off])}>"


def _is_number(word: str) -> bool:
    return re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", word) is not None


def _strength(word: str, where: str) -> float:
    try:
        strength = float(word)
    except ValueError:
        strength = math.nan
    if not math.isfinite(strength):
        raise MergeInputError(f"The strength {word!r} in {where!r} is not a number.")
    return strength
