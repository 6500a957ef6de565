"""A LoRA that is trained: factors beside a model's layers, written as kohya's sd-scripts writes them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from safetensors.torch import save_file
from torch import Tensor, nn

_TRANSFORMERS = ("Transformer2DModel",)
_CONVOLUTIONS = ("ResnetBlock2D", "Downsample2D", "Upsample2D")
_TEXT = ("CLIPAttention", "CLIPMLP")


class TrainedLora:
    """The factors of every layer that kohya trains. alpha is the rank, so the scale is 1.

    rank: of linear layers and 1×1 convolutions. conv_rank: of larger ones and ResNet blocks, 0 for none.
    text: whether the text encoder's layers are among them.
    """

    def __init__(self, unet: nn.Module, text_encoder: nn.Module, *, rank: int, conv_rank: int, text: bool) -> None:
        self.rank, self.conv_rank = rank, conv_rank
        layers = list(kohya_layers(unet, "lora_unet", _TRANSFORMERS + (_CONVOLUTIONS if conv_rank else ())))
        layers += kohya_layers(text_encoder, "lora_te", _TEXT) if text else ()
        self._layers = [(name, module, *self._factors(module)) for name, module in layers]

    def _factors(self, module: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
        out, *inner = module.get_parameter("weight").shape
        rank = self.conv_rank if inner[1:] not in ([], [1, 1]) else self.rank
        down = nn.Parameter(torch.empty(rank, *inner))
        nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        return down, nn.Parameter(torch.zeros(out, rank, *[1] * len(inner[1:])))

    def parameters(self) -> list[nn.Parameter]:
        return [factor for _, _, down, up in self._layers for factor in (down, up)]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it, the models compute with the LoRA."""
        hooks = [module.register_forward_hook(_adding(down, up)) for _, module, down, up in self._layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def save(self, path: Path, tags: Sequence[str]) -> None:
        """Write a float16 file with kohya's names and metadata. tags: the captions' words."""
        tensors: dict[str, Tensor] = {}
        for name, _, down, up in self._layers:
            tensors[f"{name}.lora_down.weight"] = down.detach().half()
            tensors[f"{name}.lora_up.weight"] = up.detach().half()
            tensors[f"{name}.alpha"] = torch.tensor(float(down.shape[0])).half()
        metadata = {
            "ss_output_name": path.stem,
            "ss_base_model_version": "sd_v1",
            "ss_v2": "False",
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(self.rank),
            "ss_network_alpha": f"{self.rank}.0",
            "ss_tag_frequency": json.dumps({path.stem: dict.fromkeys(tags, 1)}),
        }
        if self.conv_rank:
            arguments = {"conv_dim": str(self.conv_rank), "conv_alpha": f"{self.conv_rank}.0"}
            metadata["ss_network_args"] = json.dumps(arguments)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, metadata)


def kohya_layers(model: nn.Module, prefix: str, blocks: tuple[str, ...]) -> Iterator[tuple[str, nn.Module]]:
    """Yield (kohya name, module) for every linear layer and convolution inside a block whose class is in `blocks`."""
    # transformers 5 took the `text_model` level out of CLIPTextModel; LoRA files keep the name with it.
    level = "text_model." if type(model).__name__ == "CLIPTextModel" and not hasattr(model, "text_model") else ""
    for block_path, block in model.named_modules():
        if type(block).__name__ not in blocks:
            continue
        for path, module in block.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                yield f"{prefix}_{level}{block_path}.{path}".replace(".", "_"), module


def _adding(down: Tensor, up: Tensor) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if isinstance(module, nn.Conv2d):
            return output + F.conv2d(F.conv2d(inputs[0], down, None, module.stride, module.padding), up)
        return output + F.linear(F.linear(inputs[0], down), up)

    return hook
