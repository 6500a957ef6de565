"""The model families that have a layout here: how their layers are called when written, and which block each is in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lib_pm.core.keys.names import parse_name, to_original

if TYPE_CHECKING:
    from lib_pm.core.layers import LayerShape

Kind = Literal["attn", "mlp", "te", "other"]
KINDS: tuple[Kind, ...] = ("attn", "mlp", "te", "other")


@dataclass(frozen=True)
class Family:
    """A model family.

    block_lists: the lengths of block weight lists that fit it. canonical: from a name in any scheme to the name that
    is written, or None if names are kept as they are. block: from a canonical name to its block, "" if it is in none.
    base_version, architecture: what ss_base_model_version and modelspec.architecture say.
    """

    id: str
    title: str
    block_lists: tuple[int, ...] = ()
    canonical: Callable[[str], str] | None = None
    block: Callable[[str], str] = lambda name: ""
    base_version: str = ""
    architecture: str = ""
    resolution: str = ""

    def name(self, raw: str) -> str:
        """The one name of a layer in this family."""
        return self.canonical(raw) if self.canonical else raw


def kind(name: str) -> Kind:
    """attn, mlp, te (a text encoder's layers, all of them) or other: what a layer filter speaks of."""
    component, path = parse_name(name)
    if component.startswith("te"):
        return "te"
    if "attn" in path or "attention_" in path:
        return "attn"
    return "mlp" if re.search(r"(^|_)(mlp|ff|feed_forward|ffn)(_|$)", path) else "other"


def _kohya(name: str) -> str:
    """The name in kohya's scheme for SD1 and SD2: diffusers' path, one text encoder `lora_te_`."""
    component, path = parse_name(name)
    return f"lora_{component}_{path}" if component in ("unet", "te") else name


def _kohya_sdxl(name: str) -> str:
    """The name in kohya's scheme for SDXL: the original UNet's path, text encoders `lora_te1_`, `lora_te2_`."""
    component, path = parse_name(name)
    if component == "unet":
        return f"lora_unet_{to_original(path)}"
    return f"lora_{'te1' if component == 'te' else component}_{path}" if component in ("te", "te2") else name


def _unet_block(levels: int) -> Callable[[str], str]:
    """Block names of a UNet with that many levels of two layers each: IN00 … MID … OUT00 …"""

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
        match = re.match(r"(down|up)_blocks_(\d+)_(resnets|attentions|downsamplers|upsamplers)_(\d+)", path)
        if not match:
            return ""
        layer = int(match[4]) + (2 if match[3] in ("downsamplers", "upsamplers") else 0)
        number = 3 * int(match[2]) + layer
        return f"IN{number + 1:02}" if match[1] == "down" else f"OUT{number:02}"

    return block


def _flux_block(name: str) -> str:
    component, path = parse_name(name)
    if component.startswith("te"):
        return "T5" if component in ("te2", "te3") or "t5xxl" in name else "CLIP"
    for letter, pattern in (
        ("D", r"(?:^|_)(?:double_blocks|(?<!single_)transformer_blocks)_(\d+)_"),
        ("S", r"(?:^|_)(?:single_blocks|single_transformer_blocks)_(\d+)_"),
    ):
        match = re.search(pattern, path)
        if match:
            return f"{letter}{int(match[1]):02}"
    if path.startswith(("img_in", "txt_in", "time_in", "vector_in", "guidance_in", "x_embedder", "context_embedder")):
        return "IN"
    if path.startswith("time_text_embed"):
        return "IN"
    return "OUT" if path.startswith(("final_layer", "proj_out", "norm_out")) else ""


SD1 = Family(
    "sd1",
    "Stable Diffusion 1",
    (12, 17, 20, 26),
    _kohya,
    _unet_block(4),
    "sd_v1",
    "stable-diffusion-v1/lora",
    "512x512",
)
SD2 = Family(
    "sd2",
    "Stable Diffusion 2",
    (12, 17, 20, 26),
    _kohya,
    _unet_block(4),
    "sd_v2",
    "stable-diffusion-v2-768-v/lora",
    "768x768",
)
SDXL = Family(
    "sdxl",
    "Stable Diffusion XL",
    (12, 17, 20, 26),
    _kohya_sdxl,
    _unet_block(3),
    "sdxl_base_v1-0",
    "stable-diffusion-xl-v1-base/lora",
    "1024x1024",
)
FLUX = Family("flux", "Flux", (61,), None, _flux_block, "flux1", "flux-1-dev/lora", "1024x1024")
OTHER = Family("other", "a model family without a layout here")


_OUTSIDE_LEVELS = r"conv_in$|conv_out$|time_embedding_|add_embedding_"


def detect(layers: Mapping[str, LayerShape], base_version: str = "") -> Family:
    """The family of a LoRA's layers.

    layers: names as written -> shapes. base_version: the file's own ss_base_model_version, which decides only where the
    layers leave it open. Widths of the text that cross-attention sees tell SD1 (768), SD2 (1024) and SDXL (2048) apart;
    a text encoder alone is told by its names and width.
    """
    paths = {name: parse_name(name) for name in layers}
    if any(
        re.search(r"(^|_)(double_blocks|single_blocks|single_transformer_blocks)_\d", path)
        for _, path in paths.values()
    ):
        return FLUX
    votes: set[str] = set()
    for name, (component, path) in paths.items():
        if component == "unet" and re.match(r"(down_blocks|mid_block|up_blocks)_", path):
            votes.add("unet")
            if re.search(r"(input_blocks|middle_block|output_blocks)[_.]", name):
                votes.add("original names")
            if re.search(r"attn2_to_[kv]$", path):
                votes.add(f"text {layers[name].inner}")
            if re.search(r"transformer_blocks_[1-9]", path):
                votes.add("deep")
            if re.match(r"down_blocks_0_attentions|down_blocks_3|up_blocks_3", path):
                votes.add("four levels")
        elif component == "te3" or (component == "unet" and not re.match(_OUTSIDE_LEVELS, path)):
            return OTHER  # SD3 has two CLIPs as well: its own layers give it away
        elif component == "te2":
            votes.add("te2")
        elif component == "te" and path.startswith("text_model_"):
            votes.add(f"te {layers[name].inner}")
            if name.startswith("lora_te1_"):
                votes.add("te1")
    if votes & {"text 2048", "deep"} or ("te2" in votes and "four levels" not in votes):
        return SDXL
    if "unet" in votes:
        if "text 1024" in votes or ("te 1024" in votes and "text 768" not in votes):
            return SD2
        if votes & {"four levels", "text 768"}:
            return SD1
    for family in (SDXL, SD2, SD1):
        if family.base_version and base_version.startswith(family.base_version):
            return family
    if votes & {"te1", "original names"}:  # kohya's trainer writes them for SDXL alone
        return SDXL
    if "unet" in votes or any(vote.startswith("te ") for vote in votes):
        return SD2 if "te 1024" in votes else SD1
    return OTHER
