"""What a tensor of no kind that is read belongs to: named in the refusal or in a note, and never misread."""

from __future__ import annotations

from collections.abc import Collection

# What PEFT calls kinds of network (peft_type), and what they are called here.
PEFT_TYPES = {
    "ADALORA": "AdaLoRA",
    "BONE": "Bone (MiSS)",
    "BOFT": "BOFT",
    "FOURIERFT": "FourierFT",
    "IA3": "IA3",
    "LOHA": "LoHa",
    "LOKR": "LoKr",
    "MISS": "MiSS",
    "OFT": "OFT",
    "RANDLORA": "RandLoRA",
    "VBLORA": "VB-LoRA",
    "VERA": "VeRA",
}
# A word in the tensor's name, and the kind of network that it gives away.
_KINDS = {
    "oft_diag": "OFT",
    ".oft_R": "OFT",
    "boft_": "BOFT",
    "ia3_l": "IA3",
    ".lora_E": "AdaLoRA",
    ".lora_ranknum": "AdaLoRA",
    "vera_lambda": "VeRA",
    "vera_A": "VeRA",
    "vera_B": "VeRA",
    "miss_block": "MiSS",
    "bone_block": "Bone (MiSS)",
    "fourierft_": "FourierFT",
    "randlora_": "RandLoRA",
    "vblora_": "VB-LoRA",
    "hra_u": "HRA",
    "shira_weight": "SHiRA",
    "c3a_kernel": "C3A",
    "waveft_": "WaveFT",
    "delora_lambda": "DeLoRA",
    "gralora_": "GraLoRA",
    "road_theta": "RoAd",
    "lora_controlnet": "Control-LoRA",
    "lllite_": "ControlNet-LLLite",
    "lora_embedding_": "LoRA of an embedding",
    ".set_weight": "weights that take the place of the model's",
    "_norm.scale": "norms that take the place of the model's",
    ".reshape_weight": "LoRA of a wider weight",
    "modules_to_save": "PEFT with whole modules saved",
}
_BIAS_ENDINGS = (".lora_A.bias", ".lora_down.bias")  # of the down factor, which would be multiplied by the up factor
_EMBEDDINGS = ("bundle_emb.", "emb_params", "string_to_param")  # textual inversions, alone or bundled with a LoRA
# What else people have in their folders: how its tensors start. The first that fits is it.
_OTHER_FILES = {
    "a ControlNet": (
        "control_model.",
        "controlnet_",
        "control_",
        "input_hint_block.",
        "zero_convs.",
        "adapter.body.",
        "controlnet_cond_embedding.",
    ),
    "an IP-Adapter": ("image_proj.", "ip_adapter."),
    "a checkpoint": (
        "model.diffusion_model.",
        "diffusion_model.",
        "first_stage_model.",
        "cond_stage_model.",
        "conditioner.",
        "down_blocks.",
        "double_blocks.",
        "single_blocks.",
        "joint_blocks.",
        "transformer_blocks.",
        "single_transformer_blocks.",
        "text_encoders.",
        "blocks.",
        "layers.",
    ),
    "a VAE": ("encoder.down", "decoder.up", "encoder.conv_in.", "decoder.conv_in.", "post_quant_conv.", "quant_conv."),
    "a text encoder": ("text_model.", "transformer.text_model.", "shared.", "encoder.block.", "model.layers."),
    "a textual inversion embedding": ("clip_l", "clip_g", "t5xxl", *_EMBEDDINGS),
}
# How a file begins that is no .safetensors.
_BEGINNINGS = {
    b"PK\x03\x04": "a PyTorch file (.pt, .ckpt, .bin), which is not opened because it could run any program",
    b"\x80": "a PyTorch file (.pt, .ckpt, .bin), which is not opened because it could run any program",
    b"GGUF": "a GGUF file",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
    b"<": "a web page, perhaps a download that needed a login",
}


def kind_of(key: str) -> str | None:
    """Return the kind of network that is not read and has such a tensor, or None if it is unknown."""
    if key.endswith(_BIAS_ENDINGS):
        return "LoRA with biases of the down factor"
    return next((kind for word, kind in _KINDS.items() if word in key), None)


def file_kind(keys: Collection[str]) -> str | None:
    """Return what has tensors of these names, such as "a VAE", if it is no network at all; None if it is unknown."""
    return next((kind for kind, starts in _OTHER_FILES.items() if any(key.startswith(starts) for key in keys)), None)


def begins_as(start: bytes) -> str | None:
    """Return what a file with these first bytes is, if that is known and it is no .safetensors, however damaged."""
    if start[8:9] == b"{":
        return None
    return next((kind for begin, kind in _BEGINNINGS.items() if start.startswith(begin)), None)


def is_embedding(key: str) -> bool:
    """Return whether the tensor is of a textual inversion that comes with a LoRA."""
    return key.startswith(_EMBEDDINGS)
