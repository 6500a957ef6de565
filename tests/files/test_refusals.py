"""Files that are not read: each is refused with its name and what was found, none is dropped or misread."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.files.reader import open_lora
from lib_pm.merging.merge import merge
from lib_pm.merging.recipe import LoraUse, make_recipe
from lib_pm.merging.resize import NewRank, preview_resize
from tests.kinds import make
from tests.loras import make_lora, write
from tests.messages import says

NAME = "lora_unet_mid_block_attentions_0_proj_in"
LORA = make_lora({NAME: (24, 16)}, 4, 4.0)
UP, DOWN, ALPHA = f"{NAME}.lora_up.weight", f"{NAME}.lora_down.weight", f"{NAME}.alpha"


def read_all(path: Path) -> None:
    with open_lora(path) as file:
        for name in file.layers:
            file.read(name)


def refusal(path: Path) -> str:
    with pytest.raises(MergeInputError) as caught:
        read_all(path)
    return str(caught.value)


def refusal_by_name(path: Path) -> str:
    """Return the refusal of a file that is there: it has the file's name, not its folder's."""
    message = refusal(path)
    assert message.startswith(path.name)
    return message


def refusal_of(tmp_path: Path, tensors: dict[str, Tensor]) -> str:
    return refusal_by_name(write(tmp_path / "style.safetensors", tensors))


def ones(*keys: str) -> dict[str, Tensor]:
    return {key: torch.ones(4, 4) for key in keys}


@pytest.mark.parametrize(
    ("extra", "kind"),
    [
        (f"{NAME}.oft_diag", "OFT"),
        (f"{NAME}.lora_down.bias", "LoRA with biases of the down factor"),
        ("x.set_weight", "weights that take the place of the model's"),
        ("unet.conv_in.modules_to_save.weight", "PEFT with whole modules saved"),
        (f"{NAME}.oft_R.weight", "OFT"),
        (f"{NAME}.ia3_l", "IA3"),
        (f"{NAME}.lora_E", "AdaLoRA"),
        (f"{NAME}.vera_lambda_d", "VeRA"),
        (f"{NAME}.miss_block", "MiSS"),
        (f"{NAME}.bone_block", "Bone (MiSS)"),
    ],
)
def test_other_kinds_are_named(tmp_path: Path, extra: str, kind: str) -> None:
    message = refusal_of(tmp_path, LORA | ones(extra))
    assert says(message, f"style.safetensors … plain LoRA … {kind} (1 of 4 … {extra} … not supported"), message


@pytest.mark.parametrize("where", ["header", "beside"])
@pytest.mark.parametrize(
    ("peft_type", "kind"),
    [
        ("IA3", "IA3"),
        ("ADALORA", "AdaLoRA"),
        ("VERA", "VeRA"),
        ("MISS", "MiSS"),
        ("OFT", "OFT"),
        ("NEW", "NEW"),
    ],
)
def test_kinds_that_only_the_settings_name(tmp_path: Path, peft_type: str, kind: str, where: str) -> None:
    settings = {"peft_type": peft_type, "r": 4}
    path = tmp_path / "adapter_model.safetensors"
    if where == "header":
        write(
            path, LORA, {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in settings.items()})}
        )
    else:
        write(path, LORA)
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    message = refusal_by_name(path)
    assert says(message, f"adapter_model.safetensors … plain LoRA … {kind} (peft_type … not supported"), message


@pytest.mark.parametrize("peft_type", ["LORA", "PeftType.LORA", None])
def test_plain_by_the_settings(tmp_path: Path, peft_type: str | None) -> None:
    path = write(tmp_path / "adapter_model.safetensors", LORA)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": peft_type, "lora_alpha": 4}))
    read_all(path)


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        (("encoder.down.0.block.0.conv1.weight", "decoder.up.3.block.0.conv1.weight", "quant_conv.weight"), "a VAE"),
        (("decoder.up_blocks.0.resnets.0.conv1.weight", "post_quant_conv.bias"), "a VAE"),
        (("control_model.input_blocks.0.0.weight", "control_model.zero_convs.0.0.weight"), "a ControlNet"),
        (("controlnet_cond_embedding.conv_in.weight", "down_blocks.0.attentions.0.proj_in.weight"), "a ControlNet"),
        (("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"), "an IP-Adapter"),
        (("double_blocks.0.img_attn.qkv.weight", "img_in.weight"), "a checkpoint"),
        (("text_model.encoder.layers.0.mlp.fc1.weight",), "a text encoder"),
        (("clip_g", "clip_l"), "a textual inversion embedding"),
        (("emb_params",), "a textual inversion embedding"),
    ],
)
def test_what_is_no_network(tmp_path: Path, keys: tuple[str, ...], kind: str) -> None:
    message = refusal_of(tmp_path, ones(*keys))
    assert says(message, f"style.safetensors … {kind} … {min(keys)} … not a LoRA"), message


@pytest.mark.parametrize(
    "keys",
    [
        ("cond_stage_model.transformer.text_model.final_layer_norm.weight", "first_stage_model.encoder.conv_in.weight"),
        ("model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.out.2.bias"),
        ("conditioner.embedders.0.transformer.text_model.final_layer_norm.bias",),
        ("down_blocks.0.attentions.0.proj_in.weight", "conv_in.weight"),
    ],
    ids=["sd1", "unet", "sdxl", "diffusers"],
)
def test_checkpoint(tmp_path: Path, keys: tuple[str, ...]) -> None:
    message = refusal_of(tmp_path, ones(*keys))
    assert says(message, f"style.safetensors … a checkpoint … {min(keys)} … not a LoRA"), message


def test_lora_of_a_whole_checkpoints_names(tmp_path: Path) -> None:
    """Wan and Z-Image trainers write `diffusion_model.`, some with `model.` before it: a LoRA all the same."""
    key = "model.diffusion_model.blocks.0.self_attn.q"
    path = write(tmp_path / "wan.safetensors", ones(f"{key}.lora_A.weight", f"{key}.lora_B.weight"))
    with open_lora(path) as file:
        assert list(file.layers) == [key]


def test_mostly_unknown_tensors(tmp_path: Path) -> None:
    message = refusal_of(tmp_path, LORA | ones("mystery", "puzzle", "question", "riddle"))
    assert says(message, "style.safetensors … 4 of 7 tensors … no LoRA layer … mystery"), message


@pytest.mark.parametrize("extra", [("bundle_emb.cat.clip_l", "bundle_emb.cat.clip_g"), ("mystery",)])
def test_a_few_foreign_tensors_are_left_out_and_named(tmp_path: Path, extra: tuple[str, ...]) -> None:
    recipe = make_recipe([LoraUse(write(tmp_path / "style.safetensors", LORA | ones(*extra)))], "concat")
    tensors, report = merge(recipe)
    assert {key.partition(".")[0] for key in tensors} == {NAME}
    assert any(
        says(note, f"style.safetensors … {len(extra)} of {3 + len(extra)} … {extra[-1]}") for note in report.notes
    )
    with pytest.raises(MergeInputError) as caught:
        merge(recipe, strict=True)
    assert extra[-1] in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (f"{NAME}.hada_w1_a", "LoHa"),
        (f"{NAME}.lokr_w1", "LoKr"),
        (f"{NAME}.diff", "full difference"),
        (f"{NAME}.oft_blocks", "OFT"),
        (f"{NAME}.a1.weight", "GLoRA"),
    ],
)
def test_a_layer_of_two_kinds(tmp_path: Path, first: str, second: str) -> None:
    message = refusal_of(tmp_path, LORA | ones(first))
    assert says(message, f"style.safetensors … {NAME} … {second}"), message
    assert "LoRA" in message
    assert first in message


@pytest.mark.parametrize(
    ("kind", "removed", "missing"),
    [
        ("LoHa", "hada_w2_b", "w2_b"),
        ("LoKr", "lokr_w1", "w1_a … w1_b"),
        ("LoRA with biases", "lora_up.weight", "no up factor"),
    ],
)
def test_a_missing_part_of_other_kinds(tmp_path: Path, kind: str, removed: str, missing: str) -> None:
    tensors, _ = make(kind, {NAME: (24, 16)})
    del tensors[f"{NAME}.{removed}"]
    message = refusal_of(tmp_path, tensors)
    assert says(message, f"style.safetensors … {NAME} … {missing}"), message


def test_the_bias_of_an_up_factor_that_is_not_there(tmp_path: Path) -> None:
    message = refusal_of(tmp_path, LORA | {"x.lora_up.bias": torch.ones(4)})
    assert "x.lora_up.bias" in message


def test_a_weight_that_no_model_has(tmp_path: Path) -> None:
    """A few numbers could ask for terabytes."""
    row, column = torch.ones(1, 40_000), torch.ones(40_000, 1)
    tensors = {f"{NAME}.lokr_w1": row.T.contiguous(), f"{NAME}.lokr_w2": torch.ones(1, 2) @ torch.ones(2, 40_000)}
    assert "40000×40000" in refusal_of(tmp_path, tensors)
    halves = {"a": column, "b": row}
    tensors = {f"{NAME}.hada_w{half}_{part}": halves[part].clone() for half in "12" for part in halves}
    assert "40000×40000" in refusal_of(tmp_path, tensors)


@pytest.mark.parametrize(
    ("missing", "facts"),
    [
        ([UP], f"{DOWN} … no up factor"),
        ([DOWN], f"{UP} … no down factor"),
        ([UP, DOWN], "only an alpha … no up factor"),
    ],
    ids=["up", "down", "both"],
)
def test_missing_factor(tmp_path: Path, missing: list[str], facts: str) -> None:
    tensors = {key: tensor for key, tensor in LORA.items() if key not in missing}
    message = refusal_of(tmp_path, tensors)
    assert says(message, f"style.safetensors … {NAME} … {facts}"), message


@pytest.mark.parametrize(
    ("changed", "sizes"),
    [
        ({DOWN: torch.ones(3, 16)}, "down 3×16, up 24×4"),
        ({UP: torch.ones(24)}, "down 4×16, up 24"),
        ({UP: torch.ones(24, 4, 3, 3)}, "down 4×16, up 24×4×3×3"),
        ({UP: torch.ones(24, 0), DOWN: torch.ones(0, 16)}, "down 0×16, up 24×0"),
        ({f"{NAME}.lora_mid.weight": torch.ones(3, 4, 3, 3)}, "down 4×16, mid 3×4×3×3, up 24×4"),
    ],
    ids=["ranks", "vector", "kernel of up", "rank 0", "mid"],
)
def test_factors_that_do_not_fit(tmp_path: Path, changed: dict[str, Tensor], sizes: str) -> None:
    message = refusal_of(tmp_path, LORA | changed)
    facts = f"style.safetensors … factors … {NAME} … fit … {sizes} … up out×rank … down rank×in … kernel"
    assert says(message, facts), message


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("key", [UP, DOWN, ALPHA], ids=["up", "down", "alpha"])
def test_not_finite(tmp_path: Path, key: str, dtype: torch.dtype, bad: float) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in LORA.items()}
    tensors[key] = tensors[key].clone()
    tensors[key].view(-1)[-1] = bad
    message = refusal_of(tmp_path, tensors)
    assert says(message, f"style.safetensors … {NAME} … NaN … infinity … {key}"), message


def test_large_finite_values_are_no_infinity(tmp_path: Path) -> None:
    """Their sum overflows, they do not."""
    tensors = LORA | {UP: torch.full((24, 4), 3e38)}
    with open_lora(write(tmp_path / "style.safetensors", tensors)) as file:
        assert float(file.read(NAME).up.max()) == pytest.approx(3e38)


TOO_LARGE = {
    "3e38": LORA | {UP: torch.full((24, 4), 3e38)},
    "float64": LORA | {UP: torch.full((24, 4), 1e300, dtype=torch.float64)},
    "times zero": LORA | {UP: torch.full((24, 4), 1e300, dtype=torch.float64), DOWN: torch.zeros(4, 16)},
    "alpha": LORA | {ALPHA: torch.tensor(1e300, dtype=torch.float64)},
    "product": LORA | {UP: torch.full((24, 4), 1e12), DOWN: torch.full((4, 16), 1e12)},
}


@pytest.mark.parametrize("tensors", TOO_LARGE.values(), ids=list(TOO_LARGE))
@pytest.mark.parametrize("mode", ["concat", "add_svd", "ties", "ties_svd", "resize"])
def test_values_beyond_all_arithmetic(tmp_path: Path, mode: str, tensors: dict[str, Tensor]) -> None:
    path = write(tmp_path / "style.safetensors", tensors)
    with pytest.raises(MergeInputError) as caught:
        preview_resize(path, NewRank(2)) if mode == "resize" else merge(make_recipe([LoraUse(path)], mode))
    assert says(caught.value, f"style.safetensors … {NAME} … too large … 1e+17"), caught.value


def test_alpha_of_several_entries(tmp_path: Path) -> None:
    message = refusal_of(tmp_path, LORA | {ALPHA: torch.ones(2)})
    assert says(message, f"style.safetensors … {NAME} … 2 values … {ALPHA} … one"), message


def test_whole_numbers_in_a_factor(tmp_path: Path) -> None:
    message = refusal_of(tmp_path, LORA | {UP: torch.ones(24, 4, dtype=torch.int8)})
    assert says(message, f"style.safetensors … {UP} … I8 … floating point"), message


def test_factor_under_two_names(tmp_path: Path) -> None:
    message = refusal_of(tmp_path, LORA | {f"{NAME}.lora_B.weight": torch.ones(24, 4)})
    assert says(message, f"style.safetensors … {NAME} … two up factors … {NAME}.lora_B.weight … {UP}"), message


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (b"\x80\x02}q\x00.", "PyTorch … .pt, .ckpt, .bin"),
        (b"PK\x03\x04" + b"\0" * 60, "PyTorch … .pt, .ckpt, .bin"),
        (b"GGUF" + b"\x03\0\0\0" * 20, "GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
        (struct.pack("<Q", 0x0280) + b'{"a"', "not a .safetensors … damaged … cut off"),
        (struct.pack("<Q", ord("<")) + b'{"a"', "not a .safetensors … damaged … cut off"),
        (struct.pack("<Q", 50) + b"{" + b" " * 10, "not a .safetensors … damaged … cut off"),
        (b"", "empty"),
        (struct.pack("<Q", 2) + b"{}", "no tensors"),
    ],
    ids=["pickle", "zip", "GGUF", "LFS", "web page", "cut 640", "cut 60", "cut header", "empty", "no tensors"],
)
def test_not_a_lora_file(tmp_path: Path, content: bytes, facts: str) -> None:
    path = tmp_path / "style.safetensors"
    path.write_bytes(content)
    message = refusal_by_name(path)
    assert says(message, f"style.safetensors … {facts}"), message


def test_truncated(tmp_path: Path) -> None:
    path = write(tmp_path / "style.safetensors", LORA)
    path.write_bytes(path.read_bytes()[:-5])
    message = refusal_by_name(path)
    assert says(message, "style.safetensors … not a .safetensors … damaged … cut off"), message


def test_folder_and_missing_file(tmp_path: Path) -> None:
    assert says(refusal(tmp_path), f"{tmp_path} … folder … LoRA's .safetensors")
    for inside in ("pytorch_lora_weights.safetensors", "adapter_model.safetensors"):
        write(tmp_path / inside, LORA)
        assert says(refusal(tmp_path), f"{tmp_path} … folder … {inside}")
    missing = tmp_path / "no.safetensors"
    assert says(refusal(missing), f"{missing} … exist … LoRA's .safetensors")
