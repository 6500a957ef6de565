"""A layer's name, whatever the trainer: which model component it is in, and the path inside with `_` between its words.

kohya's `lora_unet_mid_block_resnets_0_conv1` and diffusers' `unet.mid_block.resnets.0.conv1` are both
("unet", "mid_block_resnets_0_conv1"). SDXL's original names (`input_blocks_4_1_…`) are turned into diffusers' ones.
"""

from __future__ import annotations

import re
from functools import lru_cache

# Start of the written name -> component. PEFT's own wrapper is taken off before.
_PREFIXES = {
    "lora_unet_": "unet",
    "oft_unet_": "unet",  # kohya's own OFT
    "lora_te_": "te",
    "lora_te1_": "te",
    "lora_te2_": "te2",
    "lora_te3_": "te3",
    "lora_transformer_": "unet",
    "lycoris_": "unet",
    "unet.": "unet",
    "text_encoder.": "te",
    "text_encoder_2.": "te2",
    "text_encoder_3.": "te3",
    "transformer.": "unet",
    "diffusion_model.": "unet",
    "model.diffusion_model.": "unet",
    "net.": "unet",
}
# ComfyUI's names of text encoders, and those that are not the first of their model.
_ENCODER = re.compile(r"text_encoders\.(\w{1,40})\.transformer\.")
_LATER_ENCODERS = {"clip_g": "te2", "t5xxl": "te3"}
_WRAPPERS = ("base_model.model.",)
# First words of names that are paths inside a component already, as of a UNet that is in no pipeline.
_BARE = {
    "text_model": "te",
    "down_blocks": "unet",
    "mid_block": "unet",
    "up_blocks": "unet",
    "conv_in": "unet",
    "conv_out": "unet",
    "time_embedding": "unet",
    "add_embedding": "unet",
}

_ORIGINAL_WORDS = {
    "in_layers_0": "norm1",
    "in_layers_2": "conv1",
    "out_layers_0": "norm2",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
_ORIGINAL_NAMES = {
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
}
_MIDDLE = {"0": "resnets_0", "1": "attentions_0", "2": "resnets_1"}


def prefix_of(name: str) -> str:
    """Return the start of a name that says which component it is in, as written; "" if there is none that we know."""
    if encoder := _ENCODER.match(name):
        return encoder[0]
    return max((prefix for prefix in (*_PREFIXES, *_WRAPPERS) if name.startswith(prefix)), key=len, default="")


def bare_names(name: str) -> tuple[str, str, str]:
    """Return the name as written, without PEFT's own wrapper, and without what says which component it is in."""
    inner = name
    for wrapper in _WRAPPERS:
        inner = inner.removeprefix(wrapper)
    return name, inner, inner.removeprefix(prefix_of(inner))


@lru_cache(maxsize=1 << 13)  # every layer's name is asked for several times
def parse_name(name: str) -> tuple[str, str]:
    """Return (component, path): component is "unet" (a transformer counts as one), "te", "te2", "te3", or "" if
    unknown.
    """
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    prefix = prefix_of(name)
    component = _PREFIXES.get(prefix) or _BARE.get(name.partition(".")[0], "")
    if encoder := _ENCODER.match(name):
        component = _LATER_ENCODERS.get(encoder[1], "te")
    path = name[len(prefix) :].replace(".processor.", ".").replace(".", "_")
    if path.endswith("_to_out"):  # attention processors of old diffusers leave the index out
        path += "_0"
    if component == "unet":
        path = to_diffusers(path)
    elif component and path.startswith(("encoder_layers_", "embeddings_", "final_layer_norm")):
        path = "text_model_" + path  # newer transformers leave this level out
    return component, path


def to_diffusers(path: str) -> str:
    """Return the diffusers path of an original (CompVis, SGM) UNet path; other paths as they are."""
    if path in _ORIGINAL_NAMES:
        return _ORIGINAL_NAMES[path]
    match = re.fullmatch(r"(input_blocks|middle_block|output_blocks)_(\d{1,3})_(.+)", path)
    if not match:
        return path
    group, first, rest = match[1], int(match[2]), match[3]
    if group == "middle_block":
        return f"mid_block_{_MIDDLE[match[2]]}_{_words(rest)}" if match[2] in _MIDDLE else path
    index, _, rest = rest.partition("_")
    # The first input block is conv_in; then every level has two layers and a downsampler. Output levels have three.
    level, layer = divmod(first - 1, 3) if group == "input_blocks" else divmod(first, 3)
    side = "down" if group == "input_blocks" else "up"
    if side == "down" and layer == 2:
        return f"down_blocks_{level}_downsamplers_0_conv"
    if rest == "conv":
        return f"up_blocks_{level}_upsamplers_0_conv"
    return f"{side}_blocks_{level}_{'resnets' if index == '0' else 'attentions'}_{layer}_{_words(rest)}"


def to_original(path: str) -> str:
    """Return the original path of an SDXL UNet path, as kohya's trainer writes it: inverse of `to_diffusers`."""
    for original, diffusers in _ORIGINAL_NAMES.items():
        if path == diffusers:
            return original
    match = re.fullmatch(r"mid_block_(resnets_0|attentions_0|resnets_1)_(.+)", path)
    if match:
        index = next(number for number, name in _MIDDLE.items() if name == match[1])
        return f"middle_block_{index}_{_original_words(match[2])}"
    match = re.fullmatch(
        r"(down|up)_blocks_(\d{1,3})_(resnets|attentions|downsamplers|upsamplers)_(\d{1,3})_(.+)", path
    )
    if not match:
        return path
    side, level, kind, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if kind == "downsamplers":
        return f"input_blocks_{3 * level + 3}_0_op"
    if kind == "upsamplers":
        return f"output_blocks_{3 * level + 2}_2_conv"
    group, number = ("input", 3 * level + layer + 1) if side == "down" else ("output", 3 * level + layer)
    return f"{group}_blocks_{number}_{0 if kind == 'resnets' else 1}_{_original_words(rest)}"


def _words(rest: str) -> str:
    return _ORIGINAL_WORDS.get(rest, rest)


def _original_words(rest: str) -> str:
    return next((original for original, diffusers in _ORIGINAL_WORDS.items() if diffusers == rest), rest)
