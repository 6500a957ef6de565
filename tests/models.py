"""The layers of real models by name and shape, for LoRAs of every family that is told apart.

Under diffusers' names they come from diffusers' own models, built without memory; under the names of the models' first
publication they are written down here from the models' structure. None of it is from the code under test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch

from tests import layouts
from tests.layouts import Shapes

HIDREAM = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 16,
    "num_single_layers": 32,
    "attention_head_dim": 128,
    "num_attention_heads": 20,
    "caption_channels": [4096, 4096],
    "text_emb_dim": 2048,
    "num_routed_experts": 4,
    "num_activated_experts": 2,
    "axes_dims_rope": (64, 32, 32),
    "max_resolution": (128, 128),
    "llama_layers": list(range(48)),
}
# Family -> the class of its transformer and the published configuration, where that is not the class's own default.
DIFFUSERS: dict[str, tuple[str, dict[str, Any]]] = {
    "flux1": ("FluxTransformer2DModel", {"guidance_embeds": True}),
    "chroma": ("ChromaTransformer2DModel", {}),
    "flux2-dev": ("Flux2Transformer2DModel", {}),
    "flux2-klein-9b": (
        "Flux2Transformer2DModel",
        {"num_attention_heads": 32, "num_layers": 8, "num_single_layers": 24, "joint_attention_dim": 12288},
    ),
    "flux2-klein-4b": (
        "Flux2Transformer2DModel",
        {"num_attention_heads": 24, "num_layers": 5, "num_single_layers": 20, "joint_attention_dim": 7680},
    ),
    "hunyuan-video": ("HunyuanVideoTransformer3DModel", {}),
    "hunyuan-video-1.5": ("HunyuanVideo15Transformer3DModel", {}),
    "hunyuan-image": ("HunyuanImageTransformer2DModel", {}),
    "hunyuan-dit": (
        "HunyuanDiT2DModel",
        {
            "num_attention_heads": 16,
            "attention_head_dim": 88,
            "in_channels": 4,
            "patch_size": 2,
            "sample_size": 128,
            "hidden_size": 1408,
            "num_layers": 40,
            "mlp_ratio": 4.3637,
            "learn_sigma": True,
        },
    ),
    "auraflow": ("AuraFlowTransformer2DModel", {}),
    "qwen-image": ("QwenImageTransformer2DModel", {}),
    "wan-14b": ("WanTransformer3DModel", {"added_kv_proj_dim": 5120, "image_dim": 1280}),
    "wan-5b": ("WanTransformer3DModel", {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30}),
    "wan-1.3b": ("WanTransformer3DModel", {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}),
    "ltx": ("LTXVideoTransformer3DModel", {}),
    "ltx-13b": (
        "LTXVideoTransformer3DModel",
        {"attention_head_dim": 128, "num_layers": 48, "cross_attention_dim": 4096},
    ),
    "ltx2": ("LTX2VideoTransformer3DModel", {}),
    "z-image": ("ZImageTransformer2DModel", {}),
    "lumina2": ("Lumina2Transformer2DModel", {}),
    "sd3": (
        "SD3Transformer2DModel",
        {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "dual_attention_layers": (0, 1)},
    ),
    "sd3.5-large": (
        "SD3Transformer2DModel",
        {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432},
    ),
    "hidream": ("HiDreamImageTransformer2DModel", HIDREAM),
    "pixart": ("PixArtTransformer2DModel", {}),
    "sana": ("SanaTransformer2DModel", {}),
    "cosmos": (
        "CosmosTransformer3DModel",
        {"num_attention_heads": 16, "num_layers": 28},
    ),
    "cogvideox-2b": ("CogVideoXTransformer3DModel", {}),
    "cogvideox-5b": ("CogVideoXTransformer3DModel", {"num_attention_heads": 48, "num_layers": 42}),
    "mochi": ("MochiTransformer3DModel", {}),
    "kandinsky5": ("Kandinsky5Transformer3DModel", {}),
    "ovis": ("OvisImageTransformer2DModel", {}),
    "krea2": ("Krea2Transformer2DModel", {}),
}
STACK = re.compile(r"(?:^|[._])(?:blocks|layers|\w+_blocks|\w+_layers|noise_refiner|context_refiner)[._]\d")


@cache
def diffusers_blocks(family: str) -> Shapes:
    """The linear layers in the blocks of diffusers' model: dotted path -> weight shape."""
    name, config = DIFFUSERS[family]
    with torch.device("meta"):
        model = getattr(diffusers, name)(**config)
    return {
        path: tuple(module.weight.shape)
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and STACK.search(path)
    }


def original_blocks(family: str) -> Shapes:
    """The same under the names of the model's first publication, for those whose trainers use them."""
    return dict(_ORIGINAL[family])


def kohya(shapes: Shapes) -> Shapes:
    return {f"lora_unet_{path.replace('.', '_')}": shape for path, shape in shapes.items()}


def dotted(shapes: Shapes, prefix: str) -> Shapes:
    return {f"{prefix}{path}": shape for path, shape in shapes.items()}


def spellings() -> list[tuple[str, str]]:
    """Every family under every spelling that there is of it."""
    unets = [(family, "kohya") for family in _UNETS]
    return [
        *unets,
        *((family, "diffusers") for family in DIFFUSERS),
        *((family, spelling) for family in _ORIGINAL for spelling in ("original", "kohya")),
    ]


def whole(family: str, spelling: str) -> Shapes:
    """The layers of a LoRA on all of a model's blocks."""
    if family in _UNETS:
        return _UNETS[family]
    if spelling == "diffusers":
        return dotted(diffusers_blocks(family), "transformer.")
    return (
        kohya(original_blocks(family)) if spelling == "kohya" else dotted(original_blocks(family), "diffusion_model.")
    )


def write_header(path: Path, shapes: Shapes, metadata: Mapping[str, str] | None = None, rank: int = 1) -> Path:
    """A LoRA of these layers whose numbers are a hole in the file: all 0, and taking no room on most disks."""
    kind = ("lora_A.weight", "lora_B.weight") if "." in next(iter(shapes)) else ("lora_down.weight", "lora_up.weight")
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (out, inner, *kernel) in shapes.items():
        for ending, shape in zip(kind, ((rank, inner, *kernel), (out, rank, *[1] * len(kernel))), strict=True):
            start, end = end, end + 2 * int(torch.tensor(shape).prod())
            entries[f"{name}.{ending}"] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    header = header.ljust(-(-len(header) // 8) * 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    return path


def _bfl(
    width: int, double: int, single: int, *, mod: str = "", mlp: tuple[str, str] = ("0", "2"), gated: float = 0
) -> Iterator[tuple[str, tuple[int, int]]]:
    """Double and single blocks as Black Forest Labs and Tencent write them. gated: the mlp's ratio if it is gated."""
    inner = int(width * (gated or 4))
    first = inner * (2 if gated else 1)
    for block in range(double):
        for side in ("img", "txt"):
            path = f"double_blocks.{block}.{side}"
            if mod:
                yield f"{path}_mod.{mod}", (6 * width, width)
            joined = "_" if mod == "linear" else "."
            yield f"{path}_attn{joined}qkv", (3 * width, width)
            yield f"{path}_attn{joined}proj", (width, width)
            yield f"{path}_mlp.{mlp[0]}", (first, width)
            yield f"{path}_mlp.{mlp[1]}", (width, inner)
    for block in range(single):
        path = f"single_blocks.{block}"
        yield f"{path}.linear1", (3 * width + first, width)
        yield f"{path}.linear2", (width, width + inner)
        if mod:
            yield f"{path}.modulation.{mod}", (3 * width, width)


def _mmdit(width: int, depth: int, dual: int = 0) -> Iterator[tuple[str, tuple[int, int]]]:
    """dual: in how many blocks, the first ones, the image has a second attention."""
    for block in range(depth):
        if block < dual:
            yield f"joint_blocks.{block}.x_block.attn2.qkv", (3 * width, width)
            yield f"joint_blocks.{block}.x_block.attn2.proj", (width, width)
        for side in ("x", "context"):
            last = side == "context" and block == depth - 1
            path = f"joint_blocks.{block}.{side}_block"
            yield f"{path}.attn.qkv", (3 * width, width)
            parts = 2 if last else 9 if side == "x" and block < dual else 6
            yield f"{path}.adaLN_modulation.1", (parts * width, width)
            if not last:
                yield f"{path}.attn.proj", (width, width)
                yield f"{path}.mlp.fc1", (4 * width, width)
                yield f"{path}.mlp.fc2", (width, 4 * width)


def _wan(width: int, ffn: int, depth: int) -> Iterator[tuple[str, tuple[int, int]]]:
    for block in range(depth):
        for attention in ("self_attn", "cross_attn"):
            for part in "qkvo":
                yield f"blocks.{block}.{attention}.{part}", (width, width)
        yield f"blocks.{block}.ffn.0", (ffn, width)
        yield f"blocks.{block}.ffn.2", (width, ffn)


def _next_dit(
    width: int, keys: int, ffn: int, time: int, depth: int, ada: str
) -> Iterator[tuple[str, tuple[int, int]]]:
    """Z-Image and Lumina 2: attention over width + keys + keys."""
    for stack, count in (("layers", depth), ("noise_refiner", 2), ("context_refiner", 2)):
        for block in range(count):
            path = f"{stack}.{block}"
            yield f"{path}.attention.qkv", (width + 2 * keys, width)
            yield f"{path}.attention.out", (width, width)
            yield f"{path}.feed_forward.w1", (ffn, width)
            yield f"{path}.feed_forward.w2", (width, ffn)
            yield f"{path}.feed_forward.w3", (ffn, width)
            if stack != "context_refiner":
                yield f"{path}.adaLN_modulation.{ada}", (4 * width, time)


def _cosmos(width: int, depth: int) -> Iterator[tuple[str, tuple[int, int]]]:
    for block in range(depth):
        for attention, seen in (("self_attn", width), ("cross_attn", 1024)):
            yield f"blocks.{block}.{attention}.q_proj", (width, width)
            yield f"blocks.{block}.{attention}.k_proj", (width, seen)
            yield f"blocks.{block}.{attention}.v_proj", (width, seen)
            yield f"blocks.{block}.{attention}.output_proj", (width, width)
        yield f"blocks.{block}.mlp.layer1", (4 * width, width)
        yield f"blocks.{block}.mlp.layer2", (width, 4 * width)


def _adapter() -> Iterator[tuple[str, tuple[int, int]]]:
    """What Anima has and Cosmos has not."""
    for block in range(6):
        for attention in ("self_attn", "cross_attn"):
            for part in "qkvo":
                yield f"llm_adapter.blocks.{block}.{attention}.{part}_proj", (1024, 1024)
        yield f"llm_adapter.blocks.{block}.mlp.0", (4096, 1024)
        yield f"llm_adapter.blocks.{block}.mlp.2", (1024, 4096)


def _auraflow() -> Iterator[tuple[str, tuple[int, int]]]:
    for block in range(4):
        for part in ("w1q", "w1k", "w1v", "w1o", "w2q", "w2k", "w2v", "w2o"):
            yield f"double_layers.{block}.attn.{part}", (3072, 3072)
        for side in ("C", "X"):
            yield f"double_layers.{block}.mod{side}.1", (18432, 3072)
            yield f"double_layers.{block}.mlp{side}.c_fc1", (8192, 3072)
            yield f"double_layers.{block}.mlp{side}.c_fc2", (8192, 3072)
            yield f"double_layers.{block}.mlp{side}.c_proj", (3072, 8192)
    for block in range(32):
        for part in "qkvo":
            yield f"single_layers.{block}.attn.w1{part}", (3072, 3072)
        yield f"single_layers.{block}.modCX.1", (18432, 3072)
        yield f"single_layers.{block}.mlp.c_fc1", (8192, 3072)
        yield f"single_layers.{block}.mlp.c_fc2", (8192, 3072)
        yield f"single_layers.{block}.mlp.c_proj", (3072, 8192)


def _guidance() -> Iterator[tuple[str, tuple[int, int]]]:
    """What Chroma has in the place of Flux.1's modulations."""
    for layer in range(5):
        yield f"distilled_guidance_layer.layers.{layer}.in_layer", (5120, 5120)
        yield f"distilled_guidance_layer.layers.{layer}.out_layer", (5120, 5120)


def _hunyuan_video_15() -> Iterator[tuple[str, tuple[int, int]]]:
    for block in range(54):
        for side in ("img", "txt"):
            path = f"double_blocks.{block}.{side}"
            for part in ("q", "k", "v", "proj"):
                yield f"{path}_attn_{part}", (2048, 2048)
            yield f"{path}_mod.linear", (12288, 2048)
            yield f"{path}_mlp.fc1", (8192, 2048)
            yield f"{path}_mlp.fc2", (2048, 8192)


_UNETS = {"sd1": layouts.sd15(), "sd2": layouts.sd15(text=1024), "sdxl": layouts.sdxl()}
_FC = ("fc1", "fc2")
_ORIGINAL: dict[str, list[tuple[str, tuple[int, int]]]] = {
    "flux1": list(_bfl(3072, 19, 38, mod="lin")),
    "chroma": [*_bfl(3072, 19, 38), *_guidance()],
    "flux2-dev": list(_bfl(6144, 8, 48, gated=3)),
    "flux2-klein-9b": list(_bfl(4096, 8, 24, gated=3)),
    "flux2-klein-4b": list(_bfl(3072, 5, 20, gated=3)),
    "hunyuan-video": list(_bfl(3072, 20, 40, mod="linear", mlp=_FC)),
    "hunyuan-video-1.5": list(_hunyuan_video_15()),
    "hunyuan-image": list(_bfl(3584, 20, 40, mod="linear", mlp=_FC)),
    "auraflow": list(_auraflow()),
    "wan-14b": list(_wan(5120, 13824, 40)),
    "wan-5b": list(_wan(3072, 14336, 30)),
    "wan-1.3b": list(_wan(1536, 8960, 30)),
    "z-image": list(_next_dit(3840, 3840, 10240, 256, 30, "0")),
    "lumina2": list(_next_dit(2304, 768, 9216, 1024, 26, "1")),
    "sd3": list(_mmdit(1536, 24, dual=2)),
    "sd3.5-large": list(_mmdit(2432, 38)),
    "cosmos": list(_cosmos(2048, 28)),
    "anima": [*_cosmos(2048, 28), *_adapter()],
}
