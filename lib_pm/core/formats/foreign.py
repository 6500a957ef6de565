"""What a tensor that is no part of a plain LoRA belongs to: named in the refusal, never dropped, never misread."""

from __future__ import annotations

from collections.abc import Iterable

# A word in the tensor's name, and the kind of network that it gives away.
_KINDS = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "oft_blocks": "OFT",
    "oft_diag": "OFT",
    "boft_": "BOFT",
    ".a1.weight": "GLoRA",
    ".b1.weight": "GLoRA",
    ".a2.weight": "GLoRA",
    ".b2.weight": "GLoRA",
    ".w_norm": "trained norms",
    ".b_norm": "trained norms",
    ".on_input": "IA3",
    "lora_embedding_": "LoRA of an embedding",
    "modules_to_save": "PEFT with whole modules saved",
    "emb_params": "textual inversion embedding",
    "string_to_param": "textual inversion embedding",
}
_DIFFERENCE_ENDINGS = (".diff", ".diff_b", ".diff.weight")  # endings: names also hold `.diffusion_model.`
_BIAS_ENDINGS = (".lora_B.bias", ".lora_up.bias", ".lora_A.bias", ".lora_down.bias")
_CHECKPOINT_STARTS = (
    "model.diffusion_model.",
    "first_stage_model.",
    "cond_stage_model.",
    "conditioner.",
    "down_blocks.",
)


def kind_of(key: str) -> str | None:
    """The kind of network that has such a tensor, or None if it is unknown."""
    if key.endswith(_BIAS_ENDINGS):
        return "LoRA with biases"
    if key.endswith(_DIFFERENCE_ENDINGS):
        return "full differences"
    return next((kind for word, kind in _KINDS.items() if word in key), None)


def looks_like_checkpoint(keys: Iterable[str]) -> bool:
    return any(key.startswith(_CHECKPOINT_STARTS) for key in keys)
