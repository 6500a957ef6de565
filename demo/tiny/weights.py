"""The trained weights as a file, and the pipeline made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from demo.tiny.model import DATA, build_models, build_pipeline, build_tokenizer
from demo.tiny.scenes import COLOURS, NEW_SHAPES, POSITIONS, SHAPES, SIZES, STYLES, TEXTURES

WEIGHTS = DATA / "tiny.safetensors"
LORAS = DATA / "loras"
_TABLE = "text_encoder.embeddings.token_embedding.weight"
_WORDS = (*COLOURS, *SHAPES, *NEW_SHAPES, *STYLES, *TEXTURES, *POSITIONS, *SIZES, "a at the on background")


def load_pipeline(weights: Path = WEIGHTS) -> Any:
    """Return the trained `StableDiffusionPipeline`, in float32 on the CPU."""
    models = build_models()
    load_weights(models, weights)
    return build_pipeline(models, build_tokenizer())


def save_weights(models: dict[str, Any], path: Path) -> None:
    """Write all models in float16; of the vectors of tokens only those of words in captions, which are trained."""
    tensors = {
        f"{name}.{_plain(key)}": tensor.half().contiguous()
        for name, model in models.items()
        for key, tensor in model.state_dict().items()
    }
    ids = torch.tensor(sorted(set(build_tokenizer()(" ".join(_WORDS)).input_ids)))
    tensors["token_ids"] = ids
    tensors[_TABLE] = tensors[_TABLE][ids]
    save_file(tensors, path)


@torch.no_grad()
def load_weights(models: dict[str, Any], path: Path) -> None:
    """Fill the models of `build_models()` with what `save_weights` wrote."""
    tensors = load_file(path)
    table = models["text_encoder"].get_input_embeddings().weight.detach().clone()
    table[tensors.pop("token_ids")] = tensors[_TABLE].float()
    tensors[_TABLE] = table
    for name, model in models.items():
        state = {_plain(key): key for key in model.state_dict()}
        mine: dict[str, Tensor] = {
            state[key.removeprefix(f"{name}.")]: tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")
        }
        model.load_state_dict(mine)
        model.eval().requires_grad_(False)


def _plain(key: str) -> str:
    """Return the name as transformers 5 has it: earlier ones have a level more in their text encoder's names."""
    return key.removeprefix("text_model.")
