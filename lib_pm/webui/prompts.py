"""What the prompts of a batch ask for. The WebUI takes the tags of the first one, and leaves all else unread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lib_pm.core.errors import Faults, MergeInputError, quoted
from lib_pm.core.registry import Choice
from lib_pm.prompt.parse import LoraTag, Request, collect_tags
from lib_pm.prompt.tag import Tag, check_text, tags_of

# Gives what is chosen beside the prompt, None for no merge.
Panel = Callable[[], "Choice | None"]


def read_request(p: Any, panel: Panel, data: Mapping[str, Any], hires: bool) -> Request:
    """Return what is asked for. Without a mode the LoRAs are the WebUI's own affair: their tags are not even read.

    data: the tags that the WebUI has read, by kind. hires: in the prompts of that pass. A MergeInputError names all
    that is wrong.
    """
    texts = of_batch(p, p.all_hr_prompts if hires else p.all_prompts)
    negative = of_batch(p, p.all_hr_negative_prompts if hires else p.all_negative_prompts)
    faults = Faults()
    modes = _tags(data, "pm")
    # What the WebUI does not take for a tag would be words of the image's text.
    for text in (*texts, *negative):
        with faults.collect():
            check_text(text, ("pm",))
    with faults.collect():
        _check_negative(negative)
    choice = None
    with faults.collect():
        choice = None if modes else panel()
    if modes or choice or any(tag.kind == "pm" for text in texts for tag in tags_of(text)):
        with faults.collect():
            _check_equal(texts)
    if not modes and not choice:
        faults.raise_all()
        return Request(())
    for text in texts:
        with faults.collect():
            check_text(text)
    request = collect_tags([*modes, *_tags(data, "lora"), *_tags(data, "lyco")], faults)
    faults.raise_all()
    return Request((*request.loras, *_added_by_setting(request.loras)), request.choice or choice)


def of_batch(p: Any, texts: Sequence[str]) -> Sequence[str]:
    """Return the prompts as they are before the WebUI takes the tags out of them."""
    return texts[p.iteration * p.batch_size : (p.iteration + 1) * p.batch_size]


def _check_negative(texts: Sequence[str]) -> None:
    for tag in (tag for text in texts for tag in tags_of(text) if tag.kind == "pm"):
        raise MergeInputError(
            f"{quoted(str(tag))} is in the negative prompt, where it would be read as words; move it to the prompt."
        )


def _check_equal(texts: Sequence[str]) -> None:
    first, *others = map(tags_of, texts)
    if any(tags != first for tags in others):
        raise MergeInputError(
            "The prompts of this batch have different tags, but the WebUI uses those of the first one for all. Set "
            "the batch size to 1 and raise the batch count instead."
        )


def _added_by_setting(tags: Sequence[LoraTag]) -> list[LoraTag]:
    """Return the LoRA that the WebUI's setting "Add network to prompt" adds to every prompt, unless it is there."""
    from modules import shared

    name = getattr(shared.opts, "sd_lora", "None")
    if name == "None" or any(tag.name == name for tag in tags):
        return []
    strength = float(shared.opts.extra_networks_default_multiplier)
    return [LoraTag(name, strength, strength)]


def _tags(data: Mapping[str, Any], kind: str) -> list[Tag]:
    """Return the tags of a kind as the prompt has them; the WebUI split them at the colons."""
    return [Tag(kind, tuple(map(str, tag.items))) for tag in data.get(kind) or ()]
