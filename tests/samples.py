"""LoRAs for the pipeline with random weights, written as kohya's sd-scripts writes them.

Their factors are random, so they show no style; each layer's delta is about as large, next to the weight it changes,
as in a strong real LoRA, so that a mistake in a merge shows in the image.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from demo.tiny.lora import kohya_layers

# What kohya's `networks.lora` trains, by the class of the surrounding block.
_UNET_BLOCKS = ("Transformer2DModel",)
_UNET_CONV_BLOCKS = ("ResnetBlock2D", "Downsample2D", "Upsample2D")  # only with a conv rank (a LoCon)
_TEXT_BLOCKS = ("CLIPAttention", "CLIPMLP")


def write_samples(folder: Path, pipeline: Any) -> tuple[Path, Path]:
    """Write `style.safetensors` (a LoCon, rank 8, conv rank 4) and `character.safetensors` (rank 4, with text encoder).

    Returns the two paths. Existing files of these names are replaced: the folder is the test's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    style = random_lora(pipeline, rank=8, alpha=4.0, conv_rank=4, conv_alpha=1.0, text_encoder=False, seed=1)
    character = random_lora(pipeline, rank=4, alpha=4.0, seed=2)
    paths = folder / "style.safetensors", folder / "character.safetensors"
    conv_args = {"conv_dim": "4", "conv_alpha": "1.0"}
    save_file(style, paths[0], _metadata("style", 8, 4.0, {"style": {"painting": 12, "red": 5}}, conv_args))
    save_file(character, paths[1], _metadata("character", 4, 4.0, {"person": {"cat": 20, "hat": 7}}, {}))
    return paths


def random_lora(
    pipeline: Any,
    *,
    rank: int,
    alpha: float,
    conv_rank: int = 0,
    conv_alpha: float = 1.0,
    text_encoder: bool = True,
    unet: bool = True,
    size: float = 0.3,
    seed: int = 0,
    dtype: torch.dtype = torch.float16,
) -> dict[str, Tensor]:
    """Return a LoRA's state dict under kohya's names, with each |delta| = `size` × |weight| in the Frobenius norm.

    `conv_rank` 0 leaves the convolutions larger than 1×1, and the ResNet blocks altogether, out. Linear factors are
    (rank, in) and (out, rank), convolutions (rank, in, kh, kw) and (out, rank, 1, 1); `alpha` is a scalar tensor.
    """
    generator = torch.Generator().manual_seed(seed)
    layers: list[tuple[str, nn.Module]] = []
    if text_encoder:
        layers += kohya_layers(pipeline.text_encoder, "lora_te", _TEXT_BLOCKS)
    if unet:
        blocks = _UNET_BLOCKS + (_UNET_CONV_BLOCKS if conv_rank else ())
        layers += kohya_layers(pipeline.unet, "lora_unet", blocks)
    tensors: dict[str, Tensor] = {}
    for name, module in layers:
        weight = module.get_parameter("weight").detach().float()
        spatial = weight.ndim == 4 and weight.shape[-1] > 1
        r, a = (conv_rank, conv_alpha) if spatial else (rank, alpha)
        down = torch.randn(r, *weight.shape[1:], generator=generator) / weight[0].numel() ** 0.5
        up = torch.randn(weight.shape[0], r, *[1] * (weight.ndim - 2), generator=generator)
        delta = (up.flatten(1) @ down.flatten(1)) * (a / r)
        up *= size * weight.norm() / delta.norm()
        tensors[f"{name}.lora_up.weight"] = up.to(dtype).contiguous()
        tensors[f"{name}.lora_down.weight"] = down.to(dtype).contiguous()
        tensors[f"{name}.alpha"] = torch.tensor(a, dtype=dtype)
    return tensors


def _metadata(
    name: str, rank: int, alpha: float, tags: dict[str, dict[str, int]], args: dict[str, str]
) -> dict[str, str]:
    """The keys that kohya's trainer writes for SD 1.x and that merging tools and the WebUI read."""
    metadata = {
        "ss_output_name": name,
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
        "ss_tag_frequency": json.dumps(tags),
    }
    if args:
        metadata["ss_network_args"] = json.dumps(args)
    return metadata
