"""Which model family a LoRA is for: whatever its layers leave open stays open.

A transformer's LoRA may be for every family one of whose layouts has all of its layers. If these are in every block of
one of them, as in a LoRA on the whole model, families with more blocks are out. What is still open then, the file's own
word may decide, but it decides nothing against the layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lib_pm.families.families import SD1, SD2, SDXL, Family, plain_word
from lib_pm.families.names import parse_name
from lib_pm.families.transformers import TRANSFORMERS, TWINS

if TYPE_CHECKING:
    from lib_pm.core.layers import LayerShape

FAMILIES: Mapping[str, Family] = {family.id: family for family in (SD1, SD2, SDXL, *TRANSFORMERS, *TWINS)}
ALL = frozenset(FAMILIES)
SAYS = ("modelspec.architecture", "ss_base_model_version")  # the metadata in which a file names its base model
SD2_OR_NOT = "ss_v2"  # True for SD2, False for any other
# What is seen of a UNet -> the families that have it; what comes first decides where they contradict each other.
_UNET: Mapping[str, tuple[str, ...]] = {
    "text 2048": ("sdxl",),
    "deep": ("sdxl",),
    "text 1024": ("sd2",),
    "text 768": ("sd1",),
    "four levels": ("sd1", "sd2"),
    "te2": ("sdxl",),
    "te 1024": ("sd2",),
    "te 768": ("sd1", "sdxl"),
}
# The same for a LoRA of text encoders alone: the first one's are the same weights in all of these.
_WITH_TWO_CLIPS = ("sdxl", "sd3", "sd3.5-large", "hidream")
_TEXT: Mapping[str, tuple[str, ...]] = {
    "te2": _WITH_TWO_CLIPS,
    "te 1024": ("sd2",),
    "te": ("sd1", *_WITH_TWO_CLIPS, "flux1", "chroma"),
}
# What kohya's trainers call them, which only tells where neither shapes nor the file's own word do.
_HABITS: Mapping[str, tuple[str, ...]] = {
    "lora_te1_": ("sdxl", *_WITH_TWO_CLIPS, "flux1", "chroma"),
    "lora_te_": ("sd1", "sd2"),
    "original names": ("sdxl",),
    "diffusers names": ("sd1", "sd2"),
}
_WIDTHS = {320, 640, 768, 1024, 1280}  # of these models; one of no such width is a small one, for trials
_OUTSIDE_LEVELS = r"conv_in$|conv_out$|time_embedding_|add_embedding_"


def named(word: str) -> frozenset[str]:
    """Return the ids of the families that a file may mean by this name of its base model; none if it is unknown."""
    plain = plain_word(word)
    return frozenset(family.id for family in FAMILIES.values() if re.match(family.said, plain))


def stated(metadata: Mapping[str, str]) -> frozenset[str]:
    """Return the ids of the families that a file may be for by its own word; all of them if it says
    nothing, or contradicts itself.
    """
    said = ALL
    for key in SAYS:
        said &= named(metadata.get(key, "")) or ALL
    if word := metadata.get(SD2_OR_NOT):
        said &= {SD2.id} if word.lower() == "true" else ALL - {SD2.id}
    return said or ALL


def detect(layers: Mapping[str, LayerShape], metadata: Mapping[str, str] | None = None) -> tuple[Family, ...]:
    """Return the families that a LoRA may be for, none if it is for no known one.

    layers: names as written -> shapes. metadata: the file's own.
    """
    said = stated(metadata or {})
    by_layers = _by_layers(layers, said)
    agreed = tuple(family for family in by_layers if family.id in said)
    ids = {family.id for family in by_layers}
    twins = tuple(family for family in TWINS if family.id in said and family.like in ids and said != ALL)
    return agreed or twins or by_layers


def _by_layers(layers: Mapping[str, LayerShape], said: frozenset[str]) -> tuple[Family, ...]:
    denoiser = _denoiser(layers)
    levels = [path for path in denoiser if re.match(r"(down_blocks|mid_block|up_blocks)_", path)]
    if levels or not denoiser:
        others = [path for path in denoiser if path not in levels and not re.match(_OUTSIDE_LEVELS, path)]
        return () if others else _unet(layers, said)
    found = [(family, layout) for family in TRANSFORMERS for layout in family.layouts if layout.explains(denoiser)]
    found = [(family, layout) for family, layout in found if all(map(layout.find, denoiser))] or found
    whole = [family for family, layout in found if layout.is_whole(denoiser)]
    return tuple(dict.fromkeys(whole or [family for family, _ in found]))


def spellings(family: Family, layers: Mapping[str, LayerShape]) -> frozenset[int]:
    """Return which of the family's layouts have these layers, by number."""
    denoiser = _denoiser(layers)
    return frozenset(number for number, layout in enumerate(family.layouts) if layout.explains(denoiser))


def _denoiser(layers: Mapping[str, LayerShape]) -> dict[str, LayerShape]:
    """Return the layers that are not of text encoders, by path."""
    parsed = [(*parse_name(name), shape) for name, shape in layers.items()]
    return {path: shape for component, path, shape in parsed if not component.startswith("te")}


def _unet(layers: Mapping[str, LayerShape], said: frozenset[str]) -> tuple[Family, ...]:
    """Return which of SD1, SD2 and SDXL it may be.

    Their layers go by the same names: they are told apart by the width of the text that cross-attention sees, by the
    depth of the UNet, and by what they are called.
    """
    seen: set[str] = set()
    for name, shape in layers.items():
        component, path = parse_name(name)
        if component.startswith("te"):
            if component == "te3" or not path.startswith("text_model_"):
                return ()  # no CLIP
            seen |= {component, f"{component} {shape.inner}"}
            seen |= {prefix for prefix in ("lora_te1_", "lora_te_") if name.startswith(prefix)}
            continue
        seen.add("unet")
        if re.search(r"(input_blocks|middle_block|output_blocks)[_.]", name):
            seen.add("original names")
        elif name.startswith("lora_unet_"):
            seen.add("diffusers names")
        if re.search(r"attn2_to_[kv]$", path):
            seen.add(f"text {shape.inner}")
        if re.search(r"transformer_blocks_[1-9]", path):
            seen.add("deep")
        if re.match(r"down_blocks_0_attentions|down_blocks_3|up_blocks_3", path):
            seen.add("four levels")
    left = {"sd1", "sd2", "sdxl"} if "unet" in seen else set(ALL)
    for evidence, families in (_UNET if "unet" in seen else _TEXT).items():
        if evidence in seen:
            left = left & set(families) or left
    left = left & said or left
    for habit, families in _HABITS.items():
        if habit in seen:
            left = left & set(families) or left
    if len(left) > 1 and not any({shape.out, shape.inner} & _WIDTHS for shape in layers.values()):
        left = {"sdxl" if seen & {"lora_te1_", "te2"} else "sd1"}
    return tuple(family for family in FAMILIES.values() if family.id in left)
