"""Small LoRAs as trainers write them, in parts that a mutation can change one by one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from torch import Tensor

from tests.kinds import KINDS, make
from tests.loras import KOHYA, PEFT, make_lora

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "I8": 1, "U8": 1}
_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
TE = "lora_te_text_model_encoder_layers_0_mlp_fc1"
ATTENTION = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
CONV = "lora_unet_down_blocks_0_downsamplers_0_conv"
SHAPES: dict[str, tuple[int, ...]] = {TE: (12, 8), ATTENTION: (12, 768), CONV: (8, 6, 3, 3)}
DOTTED = "base_model.model.mid_block.attn1"
FLUX = "transformer.single_transformer_blocks.0.attn"
RECIPE = {
    "version": "1",
    "loras": [{"name": "a", "model": 1.0, "clip": 0.5, "lbw": "IN04=0.5", "content": "00"}],
    "mode": "ties_svd",
    "options": {"density": 0.5, "svd_rank": 4, "svd_conv_rank": None, "lambda": 1.0},
    "apply": "model + clip",
    "layers": ["attn", "te"],
    "dtype": "float32",
    "save_dtype": "float16",
}
METADATA = {
    "ss_output_name": "style",
    "ss_base_model_version": "sd_v1",
    "ss_v2": "False",
    "ss_tag_frequency": json.dumps({"10_cat": {"cat": 3, "red": 9}}),
    "modelspec.title": "style",
    "modelspec.architecture": "stable-diffusion-v1/lora",
    "modelspec.resolution": "512x512",
    "power_merger_recipe": json.dumps(RECIPE),
}
SETTINGS = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "alpha_pattern": {"attn1.to_k": 4, "^mid_block.attn1.to_q": 2},
    "use_rslora": False,
    "use_dora": False,
    "bias": "none",
}


@dataclass
class Sample:
    """entries: name -> the header's entry. config: the text of adapter_config.json, "" for none."""

    name: str
    entries: dict[str, dict[str, Any]]
    data: bytearray
    metadata: dict[str, str] = field(default_factory=dict)
    config: str = ""

    def header(self) -> str:
        metadata = {"__metadata__": self.metadata} if self.metadata else {}
        return json.dumps(metadata | self.entries, separators=(",", ":"))

    def file(self, header: str | bytes | None = None, length: int | None = None) -> bytes:
        header = self.header() if header is None else header
        header = header.encode() if isinstance(header, str) else header
        size = len(header) if length is None else length
        return (size % 2**64).to_bytes(8, "little") + header + bytes(self.data)


def sample_of(name: str, tensors: dict[str, Tensor], metadata: dict[str, str], config: str = "") -> Sample:
    sample = Sample(name, {}, bytearray(), dict(metadata), config)
    for key, tensor in tensors.items():
        data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        put(sample, key, _NAMES[tensor.dtype], list(tensor.shape), data)
    return sample


def put(sample: Sample, key: str, dtype: str, shape: list[int], data: bytes) -> None:
    """Append a tensor."""
    start = len(sample.data)
    sample.entries[key] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + len(data)]}
    sample.data += data


def samples() -> list[Sample]:
    diffusers = {f"unet.{key}": value for key, value in SETTINGS.items()} | {"text_encoder.lora_alpha": 2}
    in_unet = {name.replace("base_model.model.", "unet."): shape for name, shape in peft_shapes().items()}
    flux = {f"{FLUX}.to_{part}": (12, 8) for part in "qk"}
    return [
        sample_of("kohya", make_lora(SHAPES, 4, 2.0, dtype=torch.float16), METADATA),
        sample_of("cp", make_lora(SHAPES, 3, cp=[CONV]), METADATA),
        sample_of("mixed", make_lora(SHAPES, 2, 1.0) | {f"{TE}.alpha": torch.tensor(3)}, {}),
        sample_of("diffusers", make_lora(in_unet, 4, endings=PEFT), {"lora_adapter_metadata": json.dumps(diffusers)}),
        sample_of("peft", make_lora(peft_shapes(), 4, endings=PEFT), {"format": "pt"}, json.dumps(SETTINGS)),
        sample_of("flux", make_lora(flux, 4, endings=PEFT, dtype=torch.bfloat16), {}),
        *(sample_of(kind, make(kind, SHAPES)[0], METADATA) for kind in KINDS),
    ]


def peft_shapes() -> dict[str, tuple[int, ...]]:
    return {f"{DOTTED}.to_{part}": (12, 8) for part in "qkv"}


ENDINGS = (
    *KOHYA,
    *PEFT,
    ".alpha",
    ".lora_mid.weight",
    ".lora_A",
    ".lora.up.weight",
    ".diff",
    ".hada_w1_a",
    ".hada_t1",
    ".lokr_w1",
    ".lokr_w2_b",
    ".diff_b",
    ".w_norm",
    ".lora_B.bias",
    ".on_input",
)


def random_name(random: Random) -> str:
    numbers = ("0", "1", "99", "9" * 300, "-1", "٣")
    stems = (
        f"lora_unet_down_blocks_{random.choice(numbers)}_attentions_0_proj_in",
        f"lora_unet_input_blocks_{random.choice(numbers)}_1_proj_in",
        f"lora_unet_double_blocks_{random.choice(numbers)}_img_attn_qkv",
        f"lora_te2_text_model_encoder_layers_{random.choice(numbers)}_mlp_fc1",
        TE,
        ATTENTION,
        CONV,
        f"{DOTTED}.to_q",
        FLUX,
        "",
        "a" * 999,
        "b" * 1001,
        "x\0y",
        "\x1b[2J",
        "é😀",
        "model.diffusion_model.x",
        "blocks.0.ffn.0",
    )
    return random.choice(stems) + random.choice(ENDINGS)
