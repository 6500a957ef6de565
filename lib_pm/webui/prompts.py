"""What the prompts of a batch ask for. The WebUI takes the tags of the first one, and leaves all else unread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lib_pm.core.errors import Faults, MergeInputError, quoted
from lib_pm.prompt.parse import LoraTag, Request, check_one_mode, parse_lora, parse_pm
from lib_pm.prompt.tag import check_text, tags_of


def read_request(p: Any, panel: Callable[[], str], data: Mapping[str, Any], hires: bool) -> Request:
    """What is asked for. Without a mode the LoRAs are the WebUI's own affair, and their tags are not even read.

    panel: gives the body of a `<pm:…>` tag, "" for none. data: the tags that the WebUI has read, by kind. hires: in the
    prompts of that pass. A MergeInputError names all that is wrong.
    """
    texts = of_batch(p, p.all_hr_prompts if hires else p.all_prompts)
    negative = of_batch(p, p.all_hr_negative_prompts if hires else p.all_negative_prompts)
    faults = Faults()
    bodies = [_body(tag) for tag in data.get("pm") or ()]
    check_one_mode(len(bodies))
    # What the WebUI does not take for a tag would be words of the image's text.
    for text in (*texts, *negative):
        with faults.collected():
            check_text(text, ("pm",))
    with faults.collected():
        _check_negative(negative)
    body = bodies[0] if bodies else panel()
    if body or any(tag.kind == "pm" for text in texts for tag in tags_of(text)):
        with faults.collected():
            _check_equal(texts)
    if not body:
        faults.tell()
        return Request(())
    for text in texts:
        with faults.collected():
            check_text(text)
    with faults.collected():
        mode = parse_pm(body)
    tags = []
    for tag in (tag for kind in ("lora", "lyco") for tag in data.get(kind) or ()):
        with faults.collected():
            tags.append(parse_lora(_body(tag)))
    faults.tell()
    return Request((*tags, *_added_by_setting(tags)), mode)


def of_batch(p: Any, texts: Sequence[str]) -> Sequence[str]:
    """As they are before the WebUI takes the tags out of them."""
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
    """The LoRA that the WebUI's setting "Add network to prompt" adds to every prompt, unless it is there."""
    from modules import shared

    name = getattr(shared.opts, "sd_lora", "None")
    if name == "None" or any(tag.name == name for tag in tags):
        return []
    strength = float(shared.opts.extra_networks_default_multiplier)
    return [LoraTag(name, strength, strength)]


def _body(tag: Any) -> str:
    """`name:0.8:lbw=MIDD`, as the prompt has it; the WebUI split it at the colons."""
    return ":".join(str(item) for item in tag.items)
