"""The model families: how their layers are called when written, which block each is in, and what a file says of them.

`tables/` has those that are told by the layouts of their layers, and `transformers.py` lists them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lib_pm.families.layouts import Layout
from lib_pm.families.names import parse_name, to_original
from lib_pm.families.table import read_table

Kind = Literal["attn", "mlp", "te", "other"]
KINDS: tuple[Kind, ...] = ("attn", "mlp", "te", "other")


@dataclass(frozen=True)
class Family:
    """A model family.

    block_lists: the lengths of block weight lists that fit it. blocks: all that it has, where these lists do not say
    it. canonical: from a name in any scheme to the name that is written, or None if names are kept as they are. block:
    from a canonical name to its block, "" if it is in none.
    base_version, architecture, resolution, network_module: what is written where no input says it, "" for nothing.
    said: a pattern of what files call it, as `plain_word` writes that. layouts: its layers; without any it is told
    otherwise. The first layout is what is written where LoRAs differ. encoders: its text encoders in diffusers' order,
    by ComfyUI's names, with those of kohya's trainers. model: its class in diffusers. like: the id of a family with the
    very same layers, from which only the file's own word tells it.
    """

    id: str
    title: str
    block_lists: tuple[int, ...] = ()
    blocks: tuple[str, ...] = ()
    canonical: Callable[[str], str] | None = None
    block: Callable[[str], str] = lambda name: ""
    base_version: str = ""
    architecture: str = ""
    resolution: str = ""
    network_module: str = "networks.lora"
    said: str = "(?!)"
    layouts: tuple[Layout, ...] = ()
    encoders: Mapping[str, str] = field(default_factory=dict, hash=False)
    model: str = ""
    like: str = ""

    @property
    def ids(self) -> frozenset[str]:
        """Return its id; several for a family that `either` made."""
        return frozenset(filter(None, self.id.split("|")))

    def name(self, raw: str) -> str:
        """Return the one name of a layer in this family."""
        return self.canonical(raw) if self.canonical else raw


def kind(name: str) -> Kind:
    """Return attn, mlp, te (a text encoder's layers, all of them) or other, as layer filters call them."""
    component, path = parse_name(name)
    if component.startswith("te"):
        return "te"
    if "attn" in path or "attention_" in path:
        return "attn"
    return "mlp" if re.search(r"(^|_)(mlp|ff|feed_forward|ffn)(_|$)", path) else "other"


def _kohya(name: str) -> str:
    """Return the name in kohya's scheme for SD1 and SD2: diffusers' path, one text encoder `lora_te_`."""
    component, path = parse_name(name)
    return f"lora_{component}_{path}" if component in ("unet", "te") else name


def _kohya_sdxl(name: str) -> str:
    """Return the name in kohya's scheme for SDXL: the original UNet's path, text encoders `lora_te1_`, `lora_te2_`."""
    component, path = parse_name(name)
    if component == "unet":
        return f"lora_unet_{to_original(path)}"
    return f"lora_{'te1' if component == 'te' else component}_{path}" if component in ("te", "te2") else name


def _unet_block(levels: int) -> Callable[[str], str]:
    """Return the block names of a UNet with that many levels of two layers each: IN00 … MID … OUT00 …"""

    def block(name: str) -> str:
        component, path = parse_name(name)
        if component.startswith("te") or path.startswith(("time_embedding_", "add_embedding_")):
            return "BASE"
        if path.startswith("mid_block_"):
            return "MID"
        if path == "conv_in":
            return "IN00"
        if path == "conv_out":
            return f"OUT{3 * levels - 1:02}"
        match = re.match(
            r"(down|up)_blocks_(\d{1,3})_(resnets|attentions|downsamplers|upsamplers)_(\d{1,3})(?!\d)", path
        )
        if not match:
            return ""
        layer = int(match[4]) + (2 if match[3] in ("downsamplers", "upsamplers") else 0)
        number = 3 * int(match[2]) + layer
        return f"IN{number + 1:02}" if match[1] == "down" else f"OUT{number:02}"

    return block


# What a text encoder is in block weights, by ComfyUI's names: that of an image model of its own, or the one for prose.
_TEXT_BLOCKS = {"clip_l": "CLIP", "clip_g": "CLIP", "t5xxl": "T5"}


def _table_blocks(layouts: Sequence[Layout], encoders: Sequence[str]) -> tuple[Callable[[str], str], tuple[str, ...]]:
    """Return the block of a layer by its name in any layout, and all blocks in their order."""
    text = [_TEXT_BLOCKS.get(encoder, "TEXT") for encoder in encoders] or ["TEXT"]

    def block(name: str) -> str:
        component, path = parse_name(name)
        if component.startswith("te"):
            return text[min(int(component.removeprefix("te") or 1), len(text)) - 1]
        return next((block for layout in layouts if (block := layout.block(path))), "")

    return block, (*dict.fromkeys(text), *layouts[0].blocks)


SD1 = Family(
    "sd1",
    "Stable Diffusion 1",
    (12, 17, 20, 26),
    (),
    _kohya,
    _unet_block(4),
    "sd_v1",
    "stable-diffusion-v1/lora",
    "512x512",
    said=r"(sd|stablediffusion)v?1",
)
SD2 = Family(
    "sd2",
    "Stable Diffusion 2",
    (12, 17, 20, 26),
    (),
    _kohya,
    _unet_block(4),
    "sd_v2",
    "stable-diffusion-v2-768-v/lora",
    "768x768",
    said=r"(sd|stablediffusion)v?2",
)
SDXL = Family(
    "sdxl",
    "Stable Diffusion XL",
    (12, 17, 20, 26),
    (),
    _kohya_sdxl,
    _unet_block(3),
    "sdxl_base_v1-0",
    "stable-diffusion-xl-v1-base/lora",
    "1024x1024",
    said=r"(sd|stablediffusion)xl",
)
OTHER = Family("", "an unknown model")


def transformer(
    name: str,
    title: str,
    said: str,
    table: str,
    prefixes: Mapping[str, str],
    *,
    width: int = 1,
    counts: Mapping[str, str] | None = None,
    trainer: str = "lora",
    main: str = "",
    **more: Any,
) -> Family:
    """Return a family of the files of `tables/`.

    table, prefixes, width, counts: see `read_table`. trainer: the module of kohya's trainers. main: the layout that is
    written where LoRAs differ, if it is not the table's first. more: of `Family`.
    """
    layouts = sorted(read_table(table, prefixes, width=width, counts=counts), key=lambda layout: layout.name != main)
    block, blocks = _table_blocks(layouts, list(more.get("encoders", ())))
    return Family(
        name,
        title,
        said=said,
        layouts=tuple(layouts),
        block=block,
        blocks=blocks,
        network_module=f"networks.{trainer}",
        **more,
    )


def twin(of: Family, name: str, title: str, said: str) -> Family:
    """Return a family with the very layers of another: only the file's own word tells them apart."""
    return replace(of, id=name, title=title, said=said, like=of.id, base_version="", architecture="")


def either(families: Sequence[Family], *, mixed: bool = False) -> Family:
    """Return what is true of all these families, of which a LoRA may be for any; OTHER for none.

    Names are translated only if all do it alike, and nothing is known to be written about the base model. Blocks are
    those of the first that has some. mixed: the LoRA is for several of them at once.
    """
    if len(families) == 1 and not mixed:
        return families[0]
    if not families:
        return OTHER
    listed = next((family for family in families if family.block_lists or family.blocks), OTHER)
    titles = [family.title for family in families]
    first = families[0]
    return Family(
        "|".join(family.id for family in families),
        f"{', '.join(titles[:-1])} {'and' if mixed else 'or'} {titles[-1]}" if len(titles) > 1 else titles[0],
        listed.block_lists,
        listed.blocks,
        first.canonical if len({family.canonical for family in families}) == 1 else None,
        listed.block,
        network_module=first.network_module if len({family.network_module for family in families}) == 1 else "",
    )


def plain_word(said: str) -> str:
    """Return what a file calls its base model, for comparing: `flux1dev` for `Flux.1-dev/lora` and `flux_1_dev`."""
    return re.sub(r"[^a-z0-9]", "", said[:200].partition("/")[0].lower())
