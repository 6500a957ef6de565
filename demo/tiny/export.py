"""The weights as one checkpoint in SD 1's original layout, with its yaml: `python -m demo.tiny.export FOLDER`.

The WebUI loads it like any other; the folder `clip` beside it, which the yaml names, stands for the text encoder's page
on the hub.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F  # noqa: N812 (its usual name)
from safetensors.torch import save_file
from torch import Tensor

from demo.quiet import hush_libraries
from demo.tiny.model import HEADS, SCALING, VAE_GROUPS, VAE_WIDTHS, WIDTH, clip_merges
from demo.tiny.weights import LORAS, load_pipeline

NAME = "tiny-sd1"
_MORE = 32 // VAE_GROUPS  # times as many channels has the VAE in the original layout
_UNET, _VAE, _TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."

# (pattern, what it becomes), the latter maybe a function of the pattern's groups; the first that fits a name's
# beginning is applied. LDM counts a level's three blocks on from those of the levels before.
_UNET_PLACES = (
    (r"time_embedding\.linear_1\.", "time_embed.0."),
    (r"time_embedding\.linear_2\.", "time_embed.2."),
    (r"conv_in\.", "input_blocks.0.0."),
    (r"conv_norm_out\.", "out.0."),
    (r"conv_out\.", "out.2."),
    (r"down_blocks\.(\d)\.resnets\.(\d)\.", lambda level, index: f"input_blocks.{3 * level + index + 1}.0."),
    (r"down_blocks\.(\d)\.attentions\.(\d)\.", lambda level, index: f"input_blocks.{3 * level + index + 1}.1."),
    (r"down_blocks\.(\d)\.downsamplers\.0\.conv\.", lambda level: f"input_blocks.{3 * level + 3}.0.op."),
    (r"mid_block\.resnets\.(\d)\.", lambda index: f"middle_block.{2 * index}."),
    (r"mid_block\.attentions\.0\.", "middle_block.1."),
    (r"up_blocks\.(\d)\.resnets\.(\d)\.", lambda level, index: f"output_blocks.{3 * level + index}.0."),
    (r"up_blocks\.(\d)\.attentions\.(\d)\.", lambda level, index: f"output_blocks.{3 * level + index}.1."),
    # The lowest level has no attention before its upsampler.
    (r"up_blocks\.0\.upsamplers\.0\.conv\.", "output_blocks.2.1.conv."),
    (r"up_blocks\.(\d)\.upsamplers\.0\.conv\.", lambda level: f"output_blocks.{3 * level + 2}.2.conv."),
)
_UNET_PARTS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_PLACES = (
    (r"encoder\.down_blocks\.(\d)\.resnets\.(\d)\.", lambda level, index: f"encoder.down.{level}.block.{index}."),
    (r"encoder\.down_blocks\.(\d)\.downsamplers\.0\.", lambda level: f"encoder.down.{level}.downsample."),
    (r"decoder\.up_blocks\.(\d)\.resnets\.(\d)\.", lambda level, index: f"decoder.up.{3 - level}.block.{index}."),
    (r"decoder\.up_blocks\.(\d)\.upsamplers\.0\.", lambda level: f"decoder.up.{3 - level}.upsample."),
    (r"(en|de)coder\.mid_block\.resnets\.(\d)\.", lambda side, index: f"{side}coder.mid.block_{index + 1}."),
    (r"(en|de)coder\.mid_block\.attentions\.0\.", lambda side: f"{side}coder.mid.attn_1."),
    (r"(en|de)coder\.conv_norm_out\.", lambda side: f"{side}coder.norm_out."),
)
_VAE_PARTS = {
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def original_checkpoint(models: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return diffusers' `unet` and `vae` and transformers' `text_encoder` as a state dict of SD 1's original layout."""
    tensors = {}
    for key, tensor in models["unet"].state_dict().items():
        place = _placed(key, _UNET_PLACES)
        # Resnets have their parts renamed, transformers have not.
        tensors[_UNET + (_renamed(place, _UNET_PARTS) if ".resnets." in key else place)] = tensor
    for key, tensor in models["vae"].state_dict().items():
        tensors[_VAE + _renamed(_placed(key, _VAE_PLACES), _VAE_PARTS)] = _as_ldm(key, tensor)
    for key, tensor in models["text_encoder"].state_dict().items():
        tensors[_TEXT + key.removeprefix("text_model.")] = tensor
    return tensors


def _as_ldm(key: str, tensor: Tensor) -> Tensor:
    """Return a tensor of the VAE for norms of 32 groups: channels of zeros make the groups that ours lacks."""
    if ".attentions." in key and tensor.ndim == 2:
        tensor = tensor[:, :, None, None]  # the original's are convolutions
    if ".to_q." in key:
        tensor = tensor * _MORE**0.5  # the original divides by the root of its number of channels
    missing = [(_MORE - 1) * size if size in VAE_WIDTHS else 0 for size in reversed(tensor.shape)]
    return F.pad(tensor, [amount for size in missing for amount in (0, size)])


def _placed(key: str, places: Iterable[tuple[str, Any]]) -> str:
    for pattern, place in places:
        found = re.match(pattern, key)
        if found:
            groups = (int(group) if group.isdigit() else group for group in found.groups())
            return (place if isinstance(place, str) else str(place(*groups))) + key[found.end() :]
    return key


def _renamed(key: str, parts: Mapping[str, str]) -> str:
    for part, name in parts.items():
        key = re.sub(rf"(?<=\.){re.escape(part)}(?=\.)", name, key)
    return key


def yaml_text(clip: Path) -> str:
    """Return the WebUI's configuration of the checkpoint. clip: the folder of the text encoder's configuration."""
    return f"""\
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.0120
    num_timesteps_cond: 1
    timesteps: 1000
    first_stage_key: jpg
    cond_stage_key: txt
    image_size: 8
    channels: 4
    cond_stage_trainable: false
    conditioning_key: crossattn
    scale_factor: {SCALING}
    use_ema: false
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: 8
        in_channels: 4
        out_channels: 4
        model_channels: {WIDTH}
        attention_resolutions: [4, 2, 1]
        num_res_blocks: 2
        channel_mult: [1, 1, 1, 1]
        num_heads: {HEADS}
        use_spatial_transformer: true
        transformer_depth: 1
        context_dim: {WIDTH}
        use_checkpoint: false
        legacy: false
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        ddconfig:
          double_z: true
          z_channels: 4
          resolution: 64
          in_channels: 3
          out_ch: 3
          ch: {_MORE * VAE_WIDTHS[0]}
          ch_mult: {[width // VAE_WIDTHS[0] for width in VAE_WIDTHS]}
          num_res_blocks: 1
          attn_resolutions: []
          dropout: 0.0
        lossconfig:
          target: torch.nn.Identity
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
      params:
        version: {json.dumps(str(clip))}
"""


def export(pipeline: Any, folder: Path) -> None:
    """Write the checkpoint, its yaml and the text encoder's configuration into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    clip = (folder / "clip").resolve()
    pipeline.text_encoder.config.save_pretrained(clip)
    (clip / "vocab.json").write_text(json.dumps(pipeline.tokenizer.get_vocab()), encoding="utf-8")
    (clip / "merges.txt").write_text("\n".join(["#version: 0.2", *clip_merges()]), encoding="utf-8")
    models = {name: getattr(pipeline, name) for name in ("unet", "vae", "text_encoder")}
    tensors = {key: tensor.half().contiguous() for key, tensor in original_checkpoint(models).items()}
    save_file(tensors, folder / f"{NAME}.safetensors")
    (folder / f"{NAME}.yaml").write_text(yaml_text(clip), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.tiny.export", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    hush_libraries()
    export(load_pipeline(), folder)
    shutil.copytree(LORAS, folder / "loras", dirs_exist_ok=True)


if __name__ == "__main__":
    main()
