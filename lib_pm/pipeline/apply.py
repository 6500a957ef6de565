"""A merge applied from memory to a diffusers pipeline, and taken off again; no file in between.

diffusers is asked to load the layers itself, but under its own module paths and with the scale multiplied in. Given a
LoRA file under kohya's names, diffusers 0.42 takes every layer of an SD or SDXL UNet but, as soon as two layers have
different alphas, scales the attention layers and the text encoder wrongly without a word; and it refuses some text
encoder parts. So what arrived is compared with what was given, number by number, and what diffusers does not take, or
not in good time, is put in with PEFT directly.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib_pm.core.errors import MergeInputError
from lib_pm.core.visible import visible
from lib_pm.pipeline.fit import Fitted, components, fit_layers

_log = logging.getLogger(__name__)
NAME = "power_merger"
# diffusers writes a regular expression for each layer whose rank is not the commonest, and PEFT tries all of them on
# each module: fast while they fit into Python's cache of 512, half a minute for an SDXL LoRA if they do not.
_MOST_PATTERNS = 400
# How diffusers and transformers say no to a LoRA that they cannot read.
_REFUSALS = (ValueError, TypeError, KeyError, IndexError, RuntimeError)


@dataclass(frozen=True)
class Applied:
    """What is on the pipeline under `name`: the number of layers per component ("unet", "text_encoder" …)."""

    name: str
    layers: Mapping[str, int]


@dataclass(frozen=True)
class Stacked:
    """One LoRA for `apply_stacked`: a state dict and its strengths."""

    tensors: Mapping[str, Tensor]
    model: float = 1.0
    clip: float = 1.0


def apply(pipeline: Any, tensors: Mapping[str, Tensor], *, name: str = NAME) -> Applied:
    """Add a LoRA, given as the state dict that its file would hold, at strength 1; other LoRAs on it stay as they are.

    tensors: kohya's names (with SDXL's original block names too) or PEFT's and diffusers' dotted ones; any float dtype,
    any mix of ranks and alphas, alphas may be missing. They are not changed. Every layer arrives: MergeInputError, with
    the pipeline as it was before, if one fits no module, if `name` is taken, or if diffusers and peft are not there.
    """
    _require_peft()
    if not hasattr(pipeline, "load_lora_weights"):
        raise MergeInputError(f"This {type(pipeline).__name__} does not support LoRAs.")
    if name in _names(pipeline):
        raise MergeInputError(f"The pipeline already has a LoRA named {name!r}; remove it first.")
    if any(
        module.merged or module.disable_adapters
        for _, model in components(pipeline)
        for _, module in _lora_modules(model)
    ):
        raise MergeInputError("A LoRA on the pipeline is fused or disabled; unfuse, enable or unload it first.")
    layers = fit_layers(pipeline, tensors)
    active = _active_adapters(pipeline)
    done = False
    try:
        if _has_many_ranks(layers) or not _load_with_diffusers(pipeline, layers, name):
            _take_off(pipeline, name)
            _load_with_peft(pipeline, layers, name)
        _activate(pipeline, active, name)
        wrong = _not_arrived(pipeline, layers, name)
        if wrong:
            raise RuntimeError(f"{len(wrong)} of {len(layers)} layers did not arrive, first {wrong[0]}")
        done = True
    finally:
        if not done:
            _take_off(pipeline, name)
            _activate(pipeline, active)
    return Applied(name, dict(Counter(layer.component for layer in layers)))


def remove(pipeline: Any, name: str = NAME) -> None:
    """Take a LoRA off again. With the last one gone the pipeline is the base, module for module and bit for bit.

    MergeInputError if there is none of that name.
    """
    names = _names(pipeline)
    if name not in names:
        there = ", ".join(sorted(names)) or "none"
        raise MergeInputError(f"The pipeline has no LoRA named {name!r}; it has: {there}.")
    _take_off(pipeline, name)


def apply_stacked(pipeline: Any, loras: Sequence[Stacked], *, name: str = f"{NAME}_stack") -> list[Applied]:
    """Load several LoRAs side by side at their strengths, as without Power Merger: what `concat` must equal.

    They are named `name`_0, `name`_1 …; take each off with `remove`. With one or more, LoRAs that were on
    before are switched off. Errors as for `apply`, with none of these left on.
    """
    with ExitStack() as undo:
        applied = []
        for index, lora in enumerate(loras):
            applied.append(apply(pipeline, lora.tensors, name=f"{name}_{index}"))
            undo.callback(remove, pipeline, applied[-1].name)
        strengths = [
            {part: lora.clip if part.startswith("text_encoder") else lora.model for part in one.layers}
            for one, lora in zip(applied, loras, strict=True)
        ]
        if applied:  # diffusers fails on none
            pipeline.set_adapters([one.name for one in applied], strengths)
        undo.pop_all()
    return applied


@contextmanager
def stacked(pipeline: Any, loras: Sequence[Stacked]) -> Iterator[None]:
    """Within it, the LoRAs are on the pipeline as `apply_stacked` puts them there."""
    applied = apply_stacked(pipeline, loras)
    try:
        yield
    finally:
        for one in applied:
            remove(pipeline, one.name)


def _load_with_diffusers(pipeline: Any, layers: Sequence[Fitted], name: str) -> bool:
    """Let diffusers load the layers; return False if it refuses them or changes them."""
    state: dict[str, Tensor] = {}
    for layer in layers:
        # A text encoder that has none of the layers that diffusers knows an old name for is refused under PEFT's names.
        text = layer.component.startswith("text_encoder")
        down, up = ("lora_linear_layer.down", "lora_linear_layer.up") if text else ("lora_A", "lora_B")
        state[f"{layer.component}.{layer.path}.{down}.weight"] = layer.down
        state[f"{layer.component}.{layer.path}.{up}.weight"] = layer.up
    try:
        pipeline.load_lora_weights(state, adapter_name=name)
    except _REFUSALS as error:
        why = visible(str(error))
        _log.info("diffusers does not take this LoRA (%s); its layers are put in with PEFT directly", why)
        return False
    wrong = _not_arrived(pipeline, layers, name)
    if wrong:
        count, first = len(wrong), visible(wrong[0])
        _log.info("diffusers changed %d layers, first %s; they are put in with PEFT directly", count, first)
    return not wrong


def _has_many_ranks(layers: Sequence[Fitted]) -> bool:
    counts: dict[str, Counter[int]] = {}
    for layer in layers:
        counts.setdefault(layer.component, Counter())[layer.rank] += 1
    return any(ranks.total() - max(ranks.values()) > _MOST_PATTERNS for ranks in counts.values())


def _load_with_peft(pipeline: Any, layers: Sequence[Fitted], name: str) -> None:
    """Inject the layers into each component by their exact paths."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    for component, model in components(pipeline):
        mine = [layer for layer in layers if layer.component == component]
        if not mine:
            continue
        # PEFT tries these regular expressions on the end of every path: `^` holds them to the whole. One for each rank.
        paths: dict[int, list[str]] = {}
        for layer in mine:
            paths.setdefault(layer.rank, []).append(layer.path.replace(".", "[.]"))
        ranks = {f"^(?:{'|'.join(some)})": rank for rank, some in paths.items()}
        config = LoraConfig(
            r=1, lora_alpha=1, target_modules=[layer.path for layer in mine], rank_pattern=ranks, alpha_pattern=ranks
        )
        state = {}
        for layer in mine:
            state[f"{layer.path}.lora_A.weight"] = layer.down
            state[f"{layer.path}.lora_B.weight"] = layer.up
        inject_adapter_in_model(config, model, adapter_name=name, state_dict=state)
        set_peft_model_state_dict(model, state, adapter_name=name)
        model._hf_peft_config_loaded = True  # type: ignore[assignment]  # what both libraries' own loading does


@torch.no_grad()
def _not_arrived(pipeline: Any, layers: Sequence[Fitted], name: str) -> list[str]:
    """Return the layers that the pipeline does not compute exactly as given, by their names in the LoRA."""
    found = {
        (component, path): module for component, model in components(pipeline) for path, module in _lora_modules(model)
    }
    wrong = [layer.name for layer in layers if not _equals(found.get((layer.component, layer.path)), layer, name)]
    given = {(layer.component, layer.path) for layer in layers}
    return wrong + [".".join(key) for key, module in found.items() if name in module.lora_A and key not in given]


def _equals(module: Any, layer: Fitted, name: str) -> bool:
    if module is None or name not in module.lora_A or module.disable_adapters or module.merged:
        return False
    down, up = module.lora_A[name].weight, module.lora_B[name].weight
    return (
        name in module.active_adapters
        and module.scaling[name] == 1.0
        and torch.equal(down, layer.down.to(down))
        and torch.equal(up, layer.up.to(up))
    )


def _take_off(pipeline: Any, name: str) -> None:
    """Remove what there is under `name`, be it a part, and PEFT's wrappers with the last LoRA."""
    for _, model in components(pipeline):
        for _, module in _lora_modules(model):
            # Off first: where PEFT deletes the only active LoRA, it switches on one that nobody asked for.
            module.set_adapter([adapter for adapter in module.active_adapters if adapter != name])
            module.delete_adapter(name)
        configs = getattr(model, "peft_config", None)
        if isinstance(configs, dict):
            configs.pop(name, None)
    if not _names(pipeline):
        pipeline.unload_lora_weights()


def _active_adapters(pipeline: Any) -> dict[tuple[str, str], list[str]]:
    return {
        (component, path): list(module.active_adapters)
        for component, model in components(pipeline)
        for path, module in _lora_modules(model)
    }


def _activate(pipeline: Any, active: Mapping[tuple[str, str], Sequence[str]], name: str = "") -> None:
    """Make active on each module what was active before, and `name`: loading switches all others off."""
    for component, model in components(pipeline):
        for path, module in _lora_modules(model):
            module.set_adapter([*active.get((component, path), ()), *([name] if name in module.lora_A else ())])


def _lora_modules(model: nn.Module) -> list[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return [(path, module) for path, module in model.named_modules() if isinstance(module, LoraLayer)]


def _names(pipeline: Any) -> set[str]:
    """Return the LoRAs on the pipeline, active or not."""
    found = {adapter for _, model in components(pipeline) for _, m in _lora_modules(model) for adapter in m.lora_A}
    return found | {
        adapter for _, model in components(pipeline) for adapter in (getattr(model, "peft_config", None) or {})
    }


def _require_peft() -> None:
    try:
        import diffusers
        import peft
    except ImportError as error:
        raise MergeInputError(
            f"{error.name} is not installed; applying a merge to a diffusers pipeline needs it: "
            "pip install 'power-merger[diffusers]'."
        ) from error
    _log.debug("diffusers %s, peft %s", diffusers.__version__, peft.__version__)
