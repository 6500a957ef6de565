"""What the layers of a merge are called where its LoRAs call them differently, and what each of theirs is of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lib_pm.core.choices import NAMES
from lib_pm.core.errors import MergeInputError, quoted
from lib_pm.core.rows import Rows
from lib_pm.families.layouts import Layout, written
from lib_pm.families.names import bare_names, parse_name, prefix_of

if TYPE_CHECKING:
    from lib_pm.core.layers import LayerShape
    from lib_pm.families.families import Family

COMFY = "diffusion_model."  # in front of these names ComfyUI has names of its own for text encoders as well
PREFIXES = {
    "kohya": "lora_unet_",
    "comfy": COMFY,
    "diffusers": "transformer.",
    "peft": "base_model.model.",
    "onetrainer": "lora_transformer_",
}
_THEIR_OWN = ("kohya", "comfy")  # go by what the model's authors, or ComfyUI, call its layers; the others by diffusers
# Words of paths that have a `_` in them, or a name that is one.
_WORDS = re.compile(
    r"text_model|self_attn|[qkvo]_proj|out_proj|(?:gate|up|down)_proj|layer_norm\d?|final_layer_norm|layernorm_embedding"
    r"|(?:token|position)_embedding|text_projection|input_layernorm|post_attention_layernorm|embed_tokens|wi_[01]"
    r"|(?:down|up|mid|transformer)_blocks?|time_emb_proj|conv_shortcut|(?:time|add)_embedding|(?:conv|proj)_(?:in|out)"
    r"|to_(?:[qkv]|out)|linear_\d|[^_]+"
)


@dataclass(frozen=True)
class Place:
    """What a layer of a LoRA is in the result: of the layer `name`, which has `out` rows, these; none: all of it."""

    name: str
    out: int
    rows: tuple[Rows, ...] = ()


class Spelling(Protocol):
    """What the layers of a result are called."""

    @property
    def is_flat(self) -> bool:
        """Return whether words are joined by `_`, as kohya's trainers do it."""

    def places(self, name: str, shape: LayerShape) -> tuple[Place, ...]:
        """Return what a layer is in this spelling, however it is written; nothing if there is no telling."""


@dataclass(frozen=True)
class UNetSpelling:
    """Diffusers' names of a UNet and its text encoders."""

    is_flat: bool = False

    def places(self, name: str, shape: LayerShape) -> tuple[Place, ...]:
        component, path = parse_name(name)
        starts = {"unet": "unet", "te": "text_encoder", "te2": "text_encoder_2"}
        if component not in starts:
            return ()
        return (Place(f"{starts[component]}.{'.'.join(_WORDS.findall(path))}", shape.out),)


@dataclass(frozen=True)
class TableSpelling:
    """The names of a family's layers in one layout, behind a prefix."""

    family: Family
    layout: Layout
    prefix: str

    @property
    def is_flat(self) -> bool:
        return self.prefix.endswith("_")

    def places(self, name: str, shape: LayerShape) -> tuple[Place, ...]:
        component, path = parse_name(name)
        if component.startswith("te"):
            return (Place(self._text(component, path), shape.out),)
        for layout in self.family.layouts:
            found = layout.find(path)
            if not found or shape.out % found[0].size:
                continue
            part, number = found
            unit = shape.out // part.size
            return tuple(
                Place(
                    written(other.named(number), self.prefix),
                    other.size * unit,
                    () if part.rows == other.rows else tuple(some.times(unit) for some in rows),
                )
                for other, rows in self.layout.place(part)
            )
        if len(self.family.layouts) == 1 and (self.is_flat or "." in name):  # then there is one name that it can have
            return (Place(written(bare_names(name)[2], self.prefix), shape.out),)
        return ()

    def _text(self, component: str, path: str) -> str:
        """Return the name of a text encoder's layer."""
        known = list(self.family.encoders)
        number = encoder(component, self.family)
        path = re.sub(r"^model_(?=layers_)", "", path)
        if self.is_flat:
            return f"lora_{self.family.encoders[known[number - 1]] if known else component}_{path}"
        dotted = ".".join(_WORDS.findall(path))
        if known and self.prefix == COMFY:
            inner = "model." if dotted.startswith("layers.") else ""
            return f"text_encoders.{known[number - 1]}.transformer.{inner}{dotted}"
        return f"text_encoder{f'_{number}' if number > 1 else ''}.{dotted}"


def spelling_of(family: Family, names: str) -> Spelling | None:
    """Return the spelling of these names, one of `NAMES`; None if it is the family's own.

    A MergeInputError if its layers are not called so.
    """
    layouts = {layout.name: layout for layout in family.layouts}
    if names in PREFIXES and layouts:
        order = ("comfy", "original", "diffusers") if names in _THEIR_OWN else ("diffusers",)
        return TableSpelling(family, next(layouts[name] for name in order if name in layouts), PREFIXES[names])
    allowed = ("kohya", "diffusers") if family.canonical else NAMES if layouts else ()
    if names not in allowed:
        which = f"allowed: {', '.join(allowed)}" if allowed else "only those of its LoRAs are known"
        raise MergeInputError(f"names is {quoted(names)}; {which} for {family.title}.")
    return UNetSpelling() if names == "diffusers" else None


def encoder(component: str, family: Family) -> int:
    """Return the number of a text encoder, from 1: the last of a family's is also called third, and first if only."""
    return min(int(component.removeprefix("te") or 1), len(family.encoders) or 3)


def beginnings(names: Iterable[str], family: Family) -> dict[int, set[str]]:
    """Return what the names begin with, by text encoder (0: none of these), or how words are joined where that is
    nothing.
    """
    found: dict[int, set[str]] = {}
    for name in names:
        component = parse_name(name)[0]
        number = encoder(component, family) if component.startswith("te") else 0
        found.setdefault(number, set()).add(prefix_of(name) or ("dotted" if "." in name else "flat"))
    return found
