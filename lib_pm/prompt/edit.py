"""A prompt's tags with other strengths, LoRAs, mode or options, as text: what a sweep changes from image to image.

Only the requested parts change: items that are not known here (`start=`, say) and all text around the tags stay
as they are written, and a tag that keeps its values keeps its spelling. What is not there cannot be changed: an edit of
a LoRA that the prompt does not have, or of an option that the mode does not have, does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from lib_pm.core.choices import Apply
from lib_pm.core.errors import MergeInputError
from lib_pm.core.registry import Choice, find_mode
from lib_pm.prompt.parse import parse_pm, write_pm
from lib_pm.prompt.tag import Tag, split_text, tags_of, write_number


@dataclass(frozen=True)
class Tags:
    """The tags of a prompt. pm: the first `<pm:…>`, None if there is none."""

    loras: tuple[Tag, ...] = ()
    pm: Tag | None = None

    @property
    def merged(self) -> list[int]:
        """Return the numbers of the LoRAs that a merge takes, counted from 1."""
        return [number for number, tag in enumerate(self.loras, 1) if not tag.off]


Edit = Callable[[Tags], Tags]


def read_tags(text: str) -> Tags:
    found = tags_of(text)
    loras = tuple(tag for tag in found if tag.kind != "pm")
    return Tags(loras, next((tag for tag in found if tag.kind == "pm"), None))


def rewrite(text: str, edits: Iterable[Edit], panel: Choice | None = None) -> str:
    """Return the prompt after the edits, in their order.

    panel: what is chosen beside the prompt; its `<pm:…>` tag is added at the end if the prompt has none.
    """
    written = read_tags(text)
    tags = written if written.pm or not panel else replace(written, pm=write_pm(panel))
    for edit in edits:
        tags = edit(tags)
    loras: Iterator[Tag] = iter(tags.loras)
    parts = [
        part if isinstance(part, str) else tags.pm if part.kind == "pm" else next(loras) for part in split_text(text)
    ]
    # No space before it: the text without its tags stays what it was.
    return "".join(map(str, parts if written.pm or not tags.pm else [*parts, tags.pm]))


def set_mode(tags: Tags, id: str) -> Tags:
    """Return the tags with another mode and those of the options that it has too."""
    mode = find_mode(id)
    if not tags.pm:
        return replace(tags, pm=Tag("pm", (mode.id,)))
    parse_pm(tags.pm)  # an option with a typing error is no option of another mode
    others = [at for at, name, _ in tags.pm.named() if not mode.option(name)]
    return replace(tags, pm=tags.pm.with_name(mode.id).without(*others))


def set_option(tags: Tags, name: str, text: str) -> Tags:
    """Return the tags with another value of an option, as text; "" removes it. Raise MergeInputError without a mode."""
    if not tags.pm:
        raise MergeInputError(
            f"{name} is an option of a merge, but this prompt is not merged; write a <pm:…> tag, turn on the "
            "accordion, or add the axis Mode."
        )
    option = parse_pm(tags.pm).mode.option(name)
    if not option:
        return tags
    return replace(tags, pm=tags.pm.with_value((option.name, option.declared.short), text))


def set_strength(tags: Tags, number: int, model: float | None = None, clip: float | None = None) -> Tags:
    """Return the tags with another strength of one LoRA. model, clip: None keeps that one. number: from 1."""

    def edit(tag: Tag) -> Tag:
        old_model, old_clip = tag.strengths
        return tag.with_strengths(
            write_number(old_clip) if clip is None else rounded(clip),
            write_number(old_model) if model is None else rounded(model),
        )

    return _edit_lora(tags, number, edit)


def set_name(tags: Tags, number: int, name: str) -> Tags:
    """Return the tags with another LoRA, at the strengths and block weights of the one it replaces."""
    return _edit_lora(tags, number, lambda tag: tag.with_name(name))


def set_block_weights(tags: Tags, number: int, lbw: str) -> Tags:
    """Return the tags with other block weights of one LoRA, or a preset's name; "" for none."""
    return _edit_lora(tags, number, lambda tag: tag.with_lbw(lbw))


def scale_strengths(tags: Tags, factor: float) -> Tags:
    """Return the tags with all strengths of merged LoRAs multiplied."""
    for number in tags.merged:
        model, clip = tags.loras[number - 1].strengths
        tags = set_strength(tags, number, model * factor, clip * factor)
    return tags


def balance(tags: Tags, share: float) -> Tags:
    """Return the tags of two merged LoRAs with the first at 1 − share, the second at share; others as they are."""
    if len(tags.merged) != 2:
        return tags
    first, second = tags.merged
    return set_strength(set_strength(tags, first, 1 - share, 1 - share), second, share, share)


def apply_to(tags: Tags, part: Apply) -> Tags:
    """Return the tags with strength 0 for the part of the model that the merged LoRAs leave alone."""
    for number in tags.merged:
        tags = set_strength(tags, number, 0 if part == "clip" else None, 0 if part == "model" else None)
    return tags


def rounded(number: float) -> str:
    """Return the number with eight places at most, as the WebUI shows the values of a range."""
    return write_number(round(float(number), 8) + 0.0)  # + 0.0 makes 0 of −0


def _edit_lora(tags: Tags, number: int, edit: Callable[[Tag], Tag]) -> Tags:
    loras = list(tags.loras)
    if number <= len(loras):
        loras[number - 1] = edit(loras[number - 1])
    return replace(tags, loras=tuple(loras))
