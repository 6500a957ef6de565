"""A prompt's tags with other strengths, LoRAs, mode or options, as text: what a sweep changes from image to image.

Nothing but what is asked for changes: items that are not known here (`start=`, say) and all text around the tags stay
as they are written, and a tag that keeps its values keeps its spelling. What is not there cannot be changed: an edit of
a LoRA that the prompt does not have, or of an option that the mode does not have, does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from lib_pm.core.errors import MergeInputError
from lib_pm.core.registry import find_mode
from lib_pm.jobs.prompt import TAG, parse_pm, read_strengths
from lib_pm.jobs.recipe import Apply


@dataclass(frozen=True)
class Tags:
    """What is between `<lora:` and `>`, for each LoRA of a prompt, and between `<pm:` and `>`, "" if there is none."""

    loras: tuple[str, ...] = ()
    pm: str = ""

    @property
    def merged(self) -> list[int]:
        """Which LoRAs take part in a merge, counted from 1."""
        return [number for number, body in enumerate(self.loras, 1) if "pm=off" not in body.lower().split(":")]


Edit = Callable[[Tags], Tags]


def read_tags(text: str) -> Tags:
    found = TAG.findall(text)
    loras = tuple(body for kind, body in found if kind != "pm")
    return Tags(loras, next((body for kind, body in found if kind == "pm"), ""))


def rewrite(text: str, edits: Iterable[Edit], asked: str = "") -> str:
    """The prompt after the edits, in their order.

    asked: the body of the `<pm:…>` tag that is added at the end if the prompt has none; "" for none.
    """
    written = read_tags(text)
    tags = written if written.pm else replace(written, pm=asked)
    for edit in edits:
        tags = edit(tags)
    loras: Iterator[str] = iter(tags.loras)
    rewritten = TAG.sub(lambda tag: f"<{tag[1]}:{tags.pm if tag[1] == 'pm' else next(loras)}>", text)
    # No space before it: the text without its tags stays what it was.
    return rewritten if written.pm or not tags.pm else f"{rewritten}<pm:{tags.pm}>"


def set_mode(tags: Tags, id: str) -> Tags:
    """Another mode, with those of the options that it has too."""
    mode = find_mode(id)
    if tags.pm:
        parse_pm(tags.pm)  # an option with a typing error is no option of another mode
    kept = [word for word in tags.pm.split(":")[1:] if mode.option(_written(word))]
    return replace(tags, pm=":".join([mode.id, *kept]))


def set_option(tags: Tags, name: str, text: str) -> Tags:
    """Another value of an option, written as in the tag; "" leaves it out. A MergeInputError if there is no mode."""
    if not tags.pm:
        raise MergeInputError(
            f"{name} is an option of a merge, and none is asked for; write a <pm:…> tag, switch the accordion on, or "
            "choose the axis Mode."
        )
    option = find_mode(parse_pm(tags.pm).mode).option(name)
    if not option:
        return tags
    words = tags.pm.split(":")
    names = (option.name, option.declared.short)
    at = next((index for index, word in enumerate(words) if index and _written(word) in names), len(words))
    spelling = _written(words[at]) if at < len(words) else name
    words[at : at + 1] = [f"{spelling}={text}"] if text else []
    return replace(tags, pm=":".join(words))


def set_strength(tags: Tags, number: int, model: float | None = None, clip: float | None = None) -> Tags:
    """Another strength of one LoRA. model, clip: None leaves that one as it is. number: from 1."""

    def edit(body: str) -> str:
        old_model, old_clip = read_strengths(body)
        return _with_strengths(body, old_model if model is None else model, old_clip if clip is None else clip)

    return _edit_lora(tags, number, edit)


def set_name(tags: Tags, number: int, name: str) -> Tags:
    """Another LoRA, with the strengths and block weights of the one in its place."""
    return _edit_lora(tags, number, lambda body: ":".join([name, *body.split(":")[1:]]))


def set_block_weights(tags: Tags, number: int, lbw: str) -> Tags:
    """Other block weights of one LoRA, a preset's name among them; "" for none."""

    def edit(body: str) -> str:
        words = [word for word in body.split(":") if word.partition("=")[0] not in ("lbw", "w")]
        return ":".join([*words, *([f"lbw={lbw}"] if lbw else [])])

    return _edit_lora(tags, number, edit)


def scale_strengths(tags: Tags, factor: float) -> Tags:
    """All merged LoRAs stronger or weaker."""
    for number in tags.merged:
        model, clip = read_strengths(tags.loras[number - 1])
        tags = set_strength(tags, number, model * factor, clip * factor)
    return tags


def balance(tags: Tags, share: float) -> Tags:
    """Two merged LoRAs: the first at 1 − share, the second at share. With more or less of them nothing changes."""
    if len(tags.merged) != 2:
        return tags
    first, second = tags.merged
    return set_strength(set_strength(tags, first, 1 - share, 1 - share), second, share, share)


def apply_to(tags: Tags, part: Apply) -> Tags:
    """Strength 0 for the part of the model that the merged LoRAs shall leave alone."""
    for number in tags.merged:
        tags = set_strength(tags, number, 0 if part == "clip" else None, 0 if part == "model" else None)
    return tags


def write_number(number: float) -> str:
    """To eight places, as the WebUI shows the values of a range."""
    return repr(round(float(number), 8) + 0.0).removesuffix(".0")  # + 0.0 makes 0 of −0


def _edit_lora(tags: Tags, number: int, edit: Callable[[str], str]) -> Tags:
    loras = list(tags.loras)
    if number <= len(loras):
        loras[number - 1] = edit(loras[number - 1])
    return replace(tags, loras=tuple(loras))


def _with_strengths(body: str, model: float, clip: float) -> str:
    if (model, clip) == read_strengths(body):
        return body
    name, *words = body.split(":")
    named = [word for word in words if "=" in word and word.partition("=")[0] not in ("te", "unet")]
    further = [word for word in words if "=" not in word][2:]
    strengths = [write_number(clip)] if clip == model and not further else [write_number(clip), write_number(model)]
    return ":".join([name, *strengths, *further, *named])


def _written(word: str) -> str:
    """The name of the option that `rank=32` gives a value to, as it is written."""
    return word.partition("=")[0].strip()
