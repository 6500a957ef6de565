"""The one flow of a merged image: what the prompt asks for is merged and takes the place of the WebUI's stack.

It runs in `after_extra_networks_activate`: the WebUI has resolved and stacked the prompt's LoRAs, no weight has been
touched and no prompt been encoded. Each batch and the hires pass come here again, with the tags of their own prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from lib_pm.core.errors import MergeInputError
from lib_pm.merging.cache import MergeCache, Merged
from lib_pm.merging.progress import Cancelled, Progress, Unit
from lib_pm.merging.recipe import recipe_from_request
from lib_pm.prompt.parse import write_pm
from lib_pm.webui.hosts import find_host, model_family
from lib_pm.webui.infotext import begin, note, record, warn
from lib_pm.webui.lora_extension import find_lora, lora_extension
from lib_pm.webui.prompts import Panel, of_batch, read_request
from lib_pm.webui.refusal import abort, cancel_batch, in_page, was_aborted
from lib_pm.webui.settings import read_settings

_CACHE_KEY = "power_merger"  # the name in extra_network_data, which is part of the key of the WebUI's prompt cache
_UNDO = "_power_merger_undo"  # on p: takes the merge off again
_NAMED = 3  # layers named in a comment; the count says the rest


class Live:
    """Merges while images are made. It holds the merges, nothing of the WebUI's."""

    def __init__(self) -> None:
        self._cache = MergeCache(0)

    def begin_batch(self, p: Any, panel: Panel) -> None:
        """Before the WebUI loads the prompt's LoRAs: put back what it had loaded, and turn away what is written wrong.

        p, panel: as for `activate`, which refuses the same, and more that is known only then.
        """
        self.restore(p)
        if not in_page(p):
            return
        from modules.extra_networks import parse_prompts

        try:
            read_request(p, panel, parse_prompts(p.prompts)[1], hires=False)
            if getattr(p, "enable_hr", False):
                read_request(p, panel, parse_prompts(of_batch(p, p.all_hr_prompts))[1], hires=True)
        except MergeInputError as error:
            cancel_batch(p, error)

    def activate(self, p: Any, panel: Panel, data: dict[str, Any]) -> None:
        """Put the merge that the prompt or the panel asks for into the model, or take care that there is none.

        p: the WebUI's processing object. data: the prompt's tags by kind. What goes wrong stops the generation with its
        message, since the image would not be what was asked for.
        """
        if was_aborted(p):
            return
        hires = data is getattr(p, "hr_extra_network_data", None)
        if not hires:
            begin(p)
        try:
            applied = self._merge(p, panel, data, hires)
        except Cancelled:
            applied = ""  # the WebUI stops this image itself
        except Exception as error:  # noqa: BLE001 (the WebUI would print it and make an image without the LoRAs)
            self.restore(p)
            abort(p, error)
            return
        record(p, applied, hires)

    def restore(self, p: Any) -> None:
        """Put back what the WebUI itself had loaded, before it loads anew and when the images are done."""
        undo = vars(p).pop(_UNDO, None)
        if undo:
            undo()

    def _merge(self, p: Any, panel: Panel, data: dict[str, Any], hires: bool) -> str:
        """Return what the infotext says of the merge that is now in the model, "" if there is none."""
        data.pop(_CACHE_KEY, None)
        request = read_request(p, panel, data, hires)
        if not request.choice:
            return ""
        if not request.merged:
            note(p, "There is no <lora:…> in the prompt to merge.")
            return ""
        networks = lora_extension()
        replace = find_host(p.sd_model, networks)
        settings = read_settings()
        self._cache.limit = int(settings.cache_mb * 2**20)
        recipe = recipe_from_request(request, partial(find_lora, networks), settings.load_presets)
        model = model_family(p.sd_model)
        with _plain_torch(), _progress() as progress:
            merged = self._cache.merge(recipe, device=settings.device, progress=progress, model=model)
        placement = replace(networks, p.sd_model, f"power_merger_{merged.key[:16]}", merged.tensors, request.stacked)
        setattr(p, _UNDO, placement.undo)
        _tell_missing(p, merged, placement.layers)
        if unused := request.note():
            note(p, f"{unused}.")
        for text in merged.report.notes:
            warn(p, f"{text}.")
        from modules.extra_networks import ExtraNetworkParams

        data[_CACHE_KEY] = [ExtraNetworkParams(items=[merged.key])]
        return write_pm(request.choice).body


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
            note(p, f"{len(missing)} of {len(layers)} layers of {lora} do not fit the loaded model: {_some(missing)}.")


def _some(layers: Iterable[str]) -> str:
    first = list(layers)
    return ", ".join(first[:_NAMED]) + (" …" if len(first) > _NAMED else "")


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
