"""The text that says what to merge: `<lora:…>` tags and one `<pm:…>` tag, or `FILE:strength` on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import lib_pm.core.methods  # noqa: F401 (registers the modes)
from lib_pm.core.errors import Faults, MergeInputError, quoted
from lib_pm.core.registry import Choice, find_mode, find_option
from lib_pm.prompt.tag import Tag, check_text, is_number, parse_strength, tags_of, writable, write_number

_NAMED = 5  # items of a tag in a message
_ENDING = ".safetensors:"
_NO_STRENGTH = re.compile(r"[-+]?(nan|inf|infinity|[0-9]*,[0-9]+)", re.IGNORECASE)


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
class Request:
    """What a text asks for. choice: None without a `<pm:…>` tag."""

    loras: tuple[LoraTag, ...]
    choice: Choice | None = None

    @property
    def merged(self) -> list[LoraTag]:
        """The LoRAs that take part in the merge."""
        return [tag for tag in self.loras if not tag.stacked]

    @property
    def stacked(self) -> list[LoraTag]:
        """The LoRAs with pm=off, which the host stacks as usual."""
        return [tag for tag in self.loras if tag.stacked]

    def note(self) -> str:
        """Return a note on the mode's options for the user, "" for none."""
        return self.choice.note() if self.choice else ""


def parse_prompt(text: str) -> Request:
    """Return all tags of a text. A MergeInputError names all that is wrong, and what is allowed."""
    faults = Faults()
    request = collect_prompt(text, faults)
    faults.raise_all()
    return request


def collect_prompt(text: str, faults: Faults) -> Request:
    """Return what is correct in a text; errors are collected in `faults`."""
    with faults.collect():
        check_text(text)
    return collect_tags(tags_of(text), faults)


def collect_tags(tags: Iterable[Tag], faults: Faults) -> Request:
    """Return what the tags ask for, as far as it is right; what is wrong is collected in `faults`."""
    loras: list[LoraTag] = []
    modes: list[Tag] = []
    choice = None
    for tag in tags:
        with faults.collect():
            if tag.kind == "pm":
                modes.append(tag)
                choice = parse_pm(tag)
            else:
                loras.append(parse_lora(tag))
    with faults.collect():
        check_one_mode(len(modes))
    return Request(tuple(loras), choice)


def check_one_mode(count: int) -> None:
    """Raise MergeInputError if a text has more than one `<pm:…>` tag."""
    if count > 1:
        raise MergeInputError(f"There are {count} <pm:…> tags; allowed: one.")


def parse_pm(tag: Tag) -> Choice:
    """Return the mode and the values of `<pm:ties_svd:density=0.5:rank=32>`, all checked.

    An option of another mode is no error: the mode may come from a `Prompt S/R` plot, the options stay the same.
    """
    mode = find_mode(tag.name.lower())
    keys = {at: (name, value) for at, name, value in tag.named()}
    options: dict[str, str] = {}
    unused: list[str] = []
    for at, item in enumerate(tag.items[1:], start=1):
        if at not in keys:
            raise MergeInputError(
                f"{quoted(item)} in {quoted(str(tag))} should read option=value; options: {', '.join(mode.options)}."
            )
        name, value = keys[at]
        option = mode.option(name) or find_option(name)
        if option:
            tag.value(option.name, option.declared.short)
        if option and not mode.option(name):
            option.parse(value)
            unused.append(name)
        else:
            options[name] = value
    return Choice(mode, mode.values(options), tuple(unused))


def write_pm(choice: Choice) -> Tag:
    """Return the tag that `parse_pm` reads back to the same values."""
    written = {name: choice.mode.options[name].text(value) for name, value in choice.values.items()}
    return Tag("pm", (choice.mode.id, *(f"{name}={text}" for name, text in written.items() if text)))


def parse_lora(tag: Tag) -> LoraTag:
    """Return the LoRA of `<lora:NAME:te:unet>` with `te=`, `unet=`, `lbw=`, `pm=off`, as the WebUI reads it.

    Anything else (`dyn=`, `start=`, `lbwe=` …) is beyond a merge, and a MergeInputError; on a LoRA that
    the host stacks it is left to others.
    """
    if not tag.name:
        raise MergeInputError(f"{quoted(str(tag))} names no LoRA; write <lora:NAME:STRENGTH>.")
    if tag.other and not tag.off:
        some = ", ".join(tag.other[:_NAMED]) + (" …" if len(tag.other) > _NAMED else "")
        raise MergeInputError(
            f"{some} in {quoted(str(tag))} cannot be merged; allowed: a name, two strengths (a third "
            "number is the WebUI's dyn), te=, unet=, lbw= for block weights, and pm=off, which keeps the LoRA out of "
            "the merge."
        )
    if tag.off and not tag.webui_agrees:
        raise MergeInputError(
            f"pm=off leaves {quoted(str(tag))} to the WebUI, which reads it differently; write a "
            "name, two numbers, te= and unet= in lower case and without spaces, and block weights as lbw=PRESET or a "
            "list."
        )
    return LoraTag(tag.name, *tag.strengths, tag.lbw, tag.off, tag.other)


def parse_file(text: str) -> LoraTag:
    """Read `FILE[:MODEL[:CLIP]][:lbw=…]` from the right: a Windows path has a colon too. CLIP defaults to MODEL."""
    name = text
    lbw: list[str] = []
    strengths: list[str] = []
    while True:
        rest, colon, last = name.rpartition(":")
        key, equals, value = last.partition("=")
        if not colon:
            break
        if equals and key.strip().lower() in ("lbw", "w"):
            lbw.insert(0, value.strip())
        elif len(strengths) < 2 and is_number(last):
            strengths.insert(0, last)
        else:
            break
        name = rest
    if not name:
        raise MergeInputError(f"{quoted(text)} names no file; write FILE, FILE:STRENGTH or FILE:MODEL:CLIP.")
    if len(lbw) > 1:
        raise MergeInputError(f"{quoted(text)} has block weights twice: {' and '.join(lbw)}. Keep only one.")
    _check_end(name, text)
    model = parse_strength(strengths[0], text) if strengths else 1.0
    clip = parse_strength(strengths[1], text) if len(strengths) > 1 else model
    return LoraTag(name, model, clip, lbw[0] if lbw else "")


def _check_end(name: str, text: str) -> None:
    """Raise MergeInputError for what follows the file's name and is neither strength nor block weights."""
    file, ending, last = name.lower().rpartition(_ENDING)
    if ending and not last.endswith(_ENDING[:-1]):
        wrong = name[len(file) + len(ending) :]
    else:
        _, colon, wrong = name.rpartition(":")
        if not colon or not _NO_STRENGTH.fullmatch(wrong.strip()):
            return
    if is_number(wrong):
        raise MergeInputError(f"{quoted(text)} has three numbers; allowed: FILE, FILE:STRENGTH or FILE:MODEL:CLIP.")
    if "=" in wrong:
        raise MergeInputError(f"{quoted(wrong)} in {quoted(text)} is unknown; allowed: FILE[:MODEL[:CLIP]][:lbw=…].")
    parse_strength(wrong, text)


def write_lora(tag: LoraTag) -> str:
    """Return the tag as the WebUI writes it; `parse_prompt` reads it back to the same value.

    A MergeInputError names what cannot be written: the name of a file may have a `>` or a line break.
    """
    clip, model = write_number(tag.clip), write_number(tag.model)
    strengths = [clip] if tag.clip == tag.model else [clip, model]
    lbw, off = ([f"lbw={tag.lbw}"] if tag.lbw else []), (["pm=off"] if tag.stacked else [])
    items = (tag.name, *strengths, *lbw, *tag.other, *off)
    return str(Tag("lora", tuple(writable(item, "lora") for item in items)))
