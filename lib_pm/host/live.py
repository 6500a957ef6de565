"""The one flow of a merged image: what the prompt asks for is merged and takes the place of the WebUI's stack.

It runs in `after_extra_networks_activate`: the WebUI has resolved and stacked the prompt's LoRAs, no weight has been
touched and no prompt been encoded. Each batch and the hires pass come here again, with the tags of their own prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch

from lib_pm.core.errors import Faults, MergeInputError
from lib_pm.host.port import find_host, find_lora, lora_extension, model_family
from lib_pm.host.settings import Settings, read_settings
from lib_pm.jobs.cache import MergeCache, Merged
from lib_pm.jobs.progress import Cancelled, Progress, Unit
from lib_pm.jobs.prompt import LoraTag, Request, check_one_mode, parse_lora, parse_pm, write_pm
from lib_pm.jobs.recipe import LoraUse, Recipe, make_recipe
from lib_pm.jobs.tag import check_text
from lib_pm.jobs.visible import as_lines, visible

_log = logging.getLogger(__name__)
INFOTEXT = "Power Merger"  # the key in the image's infotext
_CACHE_KEY = "power_merger"  # the name in extra_network_data, which is part of the key of the WebUI's prompt cache
_STEPS = ("setup_conds", "calculate_hr_conds", "sample", "sample_hr_pass")
_UNDO = "_power_merger_undo"  # on p: takes the merge off again
_NAMED = 3  # layers named in a comment; the count says the rest


class Live:
    """Merges while images are made. It holds the merges, nothing of the WebUI's."""

    def __init__(self) -> None:
        self._cache = MergeCache(0)

    def activate(self, p: Any, panel: Callable[[], str], data: dict[str, Any]) -> None:
        """Put the merge that the prompt or the panel asks for into the model, or take care that there is none.

        p: the WebUI's processing object. panel: gives the body of a `<pm:…>` tag, "" for none. data: the prompt's tags
        by kind. What goes wrong stops the generation with its message, since the image would not be what was asked for.
        """
        try:
            applied = self._merge(p, panel, data)
        except Cancelled:
            applied = ""  # the WebUI stops this image itself
        except Exception as error:  # noqa: BLE001 (the WebUI would print it and make an image without the LoRAs)
            self.restore(p)
            stop(p, error)
            return
        if data is not getattr(p, "hr_extra_network_data", None):
            _record(p, applied)

    def restore(self, p: Any) -> None:
        """Put back what the WebUI itself had loaded, before it loads anew and when the images are done."""
        undo = vars(p).pop(_UNDO, None)
        if undo:
            undo()

    def _merge(self, p: Any, panel: Callable[[], str], data: dict[str, Any]) -> str:
        """What the infotext says of the merge that is now in the model, "" if there is none."""
        data.pop(_CACHE_KEY, None)
        request = _request(panel, data, _texts(p, data))
        if not request.tag.mode:
            return ""
        loras = [tag for tag in request.loras if not tag.stacked]
        if not loras:
            _tell(p, "there is no <lora:…> in the prompt to merge.")
            return ""
        networks = lora_extension()
        replace = find_host(p.sd_model, networks)
        settings = read_settings()
        self._cache.limit = int(settings.cache_mb * 2**20)
        recipe = _recipe(request, loras, networks, settings)
        model = model_family(p.sd_model)
        with _plain_torch(), _progress() as progress:
            merged = self._cache.merge(recipe, device=settings.device, progress=progress, model=model)
        stacked = [tag for tag in request.loras if tag.stacked]
        placed = replace(networks, p.sd_model, f"power_merger_{merged.key[:16]}", merged.tensors, stacked)
        setattr(p, _UNDO, placed.undo)
        _tell_missing(p, merged, placed.layers)
        for note in (request.tag.note(), *merged.report.notes):
            if note:
                _tell(p, f"{note}.")
        from modules.extra_networks import ExtraNetworkParams

        data[_CACHE_KEY] = [ExtraNetworkParams(items=[merged.key])]
        return write_pm(recipe.mode, recipe.options)


def _request(panel: Callable[[], str], data: Mapping[str, Any], texts: Iterable[str]) -> Request:
    """What is asked for. Without a mode the LoRAs are the WebUI's own affair, and their tags are not even read.

    texts: the prompts as they are written; what the WebUI did not take for a tag would stay in the image's text.
    """
    faults = Faults()
    bodies = [_body(tag) for tag in data.get("pm") or ()]
    check_one_mode(len(bodies))
    for text in texts:
        with faults.collected():
            check_text(text, ("pm",))
    body = bodies[0] if bodies else panel()
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


def _texts(p: Any, data: Mapping[str, Any]) -> list[str]:
    """The prompts of this batch, or of its hires pass, as they are before the WebUI takes the tags out of them."""
    prompts = p.all_hr_prompts if data is getattr(p, "hr_extra_network_data", None) else p.all_prompts
    return list(prompts[p.iteration * p.batch_size : (p.iteration + 1) * p.batch_size])


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


def _recipe(request: Request, loras: Sequence[LoraTag], networks: Any, settings: Settings) -> Recipe:
    uses = [LoraUse(find_lora(networks, tag.name), tag.model, tag.clip, tag.lbw) for tag in loras]
    presets = settings.load_presets() if any(tag.lbw for tag in loras) else {}
    return make_recipe(uses, request.tag.mode, request.tag.options, presets=presets)


def _tell_missing(p: Any, merged: Merged, arrived: frozenset[str]) -> None:
    """Tell which LoRAs have layers that do not fit the model. MergeInputError if none does."""
    if merged.owners.keys() <= arrived:
        return
    if not arrived & merged.owners.keys():
        names = ", ".join(sorted({name for owners in merged.owners.values() for name in owners}))
        raise MergeInputError(
            f"None of the {len(merged.owners)} layers of {names} fits the loaded model: {_some(merged.owners)}."
        )
    for lora in sorted({lora for owners in merged.owners.values() for lora in owners}):
        layers = [layer for layer, owners in merged.owners.items() if lora in owners]
        missing = [layer for layer in layers if layer not in arrived]
        if missing:
            _tell(p, f"{len(missing)} of {len(layers)} layers of {lora} do not fit the loaded model: {_some(missing)}.")


def _some(layers: Iterable[str]) -> str:
    first = list(layers)
    return ", ".join(first[:_NAMED]) + (" …" if len(first) > _NAMED else "")


def _tell(p: Any, text: str) -> None:
    """To the image's comments, which the page shows, and to the log."""
    p.comment(f"Power Merger: {text}")
    _log.warning("Power Merger: %s", visible(text))


def _record(p: Any, applied: str) -> None:
    """Write the infotext. Cells of an X/Y/Z plot share the dict with each other, so it is replaced, never changed."""
    others = {key: value for key, value in p.extra_generation_params.items() if key != INFOTEXT}
    p.extra_generation_params = others | ({INFOTEXT: applied} if applied else {})


def stop(p: Any, error: Exception) -> None:
    """Stop the generation with this error, in the page and over the API.

    The WebUI prints and swallows what a script raises, so the next step of this very image raises it instead. Cells of
    an X/Y/Z plot are then left black, and a comment is the only thing that the page shows.
    """
    known = isinstance(error, MergeInputError)
    told = MergeInputError(f"Power Merger: {error}") if known else error
    _log.error("%s", as_lines(str(told).splitlines()), exc_info=None if known else error)
    p.comment(str(told))

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise told

    for step in _STEPS:
        setattr(p, step, refuse)


@contextmanager
def _progress() -> Iterator[Progress]:
    """Shows in the page how far the merge is, and stops it by the page's Interrupt and Skip."""
    from modules.shared import state

    def progress(done: int, total: int, name: str, unit: Unit = "layers") -> None:
        if state.interrupted or state.skipped:
            raise Cancelled
        state.textinfo = f"Power Merger: {done} of {total} {unit}"

    before = state.textinfo
    try:
        yield progress
    finally:
        state.textinfo = before


@contextmanager
def _plain_torch() -> Iterator[None]:
    """Torch as everywhere else: under the WebUI's autocast float32 is float16, and tensors made in its inference mode
    could not be used outside of one."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cuda", enabled=False):
        yield
