"""LoRAs made to fit a server's model: random, always the same, strong enough to see and weak enough not to saturate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from lib_pm.core.layers import LayerShape
from lib_pm.families.families import SD1
from tests.host.server import Server
from tests.loras import make_lora, write

PREFIX = "pm_contract_"
PER_BLOCK = 2


def shapes(layers: Mapping[str, LayerShape], part: str = "") -> dict[str, tuple[int, ...]]:
    """Some of the layers whose name starts with `part`, of every block of the model.

    Not conv_out, which is in OUT11 here and in no block for sd-webui-lora-block-weight; trainers leave it alone.
    """
    blocks: dict[str | None, list[str]] = {}
    for name in sorted(layers):
        if name.startswith(part) and name != "lora_unet_conv_out":
            blocks.setdefault(SD1.block(name), []).append(name)
    chosen = [name for names in blocks.values() for name in names[:: -(-len(names) // PER_BLOCK)]]
    return {name: (layers[name].out, layers[name].inner, *layers[name].kernel) for name in chosen}


def tensors(server: Server, seed: int, *, part: str = "", rank: int = 4, gain: float = 6.0) -> dict[str, Tensor]:
    return make_lora(shapes(server.layers, part), rank, gain * rank, seed=seed, dtype=torch.float16)


def put(server: Server, name: str, content: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Into the server's LoRA folder (name may have a sub-folder), under a name that tells it from a user's.

    A file that has this content already stays as it is, so that what was merged of it may too.
    """
    path = server.lora_folder / f"{name}.safetensors"
    if path.is_file() and path.read_bytes() == save(dict(content), dict(metadata) if metadata else None):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(path, content, metadata)
