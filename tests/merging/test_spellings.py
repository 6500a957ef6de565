"""LoRAs of one model from different trainers, who call and cut its layers differently, are merged layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lib_pm.compare.analyse import analyse
from lib_pm.core.errors import MergeInputError
from lib_pm.merging.merge import merge, merge_to_file
from lib_pm.merging.recipe import LoraUse, make_recipe
from tests.layouts import Shapes
from tests.loras import KOHYA, PEFT, delta, make_lora, write
from tests.messages import says

# Family -> what a file says of it, layers in its main names, and what each of these consists of elsewhere, by rows.
Cuts = dict[str, dict[str, list[tuple[int, int]]]]
QKV: dict[str, tuple[str, dict[str, tuple[int, int]], Cuts]] = {
    "flux1": (
        "flux1",
        {
            "lora_unet_double_blocks_0_img_attn_qkv": (9216, 3072),
            "lora_unet_single_blocks_37_linear1": (21504, 3072),
            "lora_unet_final_layer_adaLN_modulation_1": (6144, 3072),
        },
        {
            "lora_unet_double_blocks_0_img_attn_qkv": {
                "transformer.transformer_blocks.0.attn.to_q": [(0, 3072)],
                "transformer.transformer_blocks.0.attn.to_k": [(3072, 6144)],
                "transformer.transformer_blocks.0.attn.to_v": [(6144, 9216)],
            },
            "lora_unet_single_blocks_37_linear1": {
                "transformer.single_transformer_blocks.37.attn.to_q": [(0, 3072)],
                "transformer.single_transformer_blocks.37.attn.to_k": [(3072, 6144)],
                "transformer.single_transformer_blocks.37.attn.to_v": [(6144, 9216)],
                "transformer.single_transformer_blocks.37.proj_mlp": [(9216, 21504)],
            },
            "lora_unet_final_layer_adaLN_modulation_1": {
                "transformer.norm_out.linear": [(3072, 6144), (0, 3072)],
            },
        },
    ),
    "z-image": (
        "zimage",
        {"lora_unet_layers_29_attention_qkv": (11520, 3840), "lora_unet_layers_29_attention_out": (3840, 3840)},
        {
            "lora_unet_layers_29_attention_qkv": {
                "diffusion_model.layers.29.attention.to_q": [(0, 3840)],
                "diffusion_model.layers.29.attention.to_k": [(3840, 7680)],
                "diffusion_model.layers.29.attention.to_v": [(7680, 11520)],
            },
            "lora_unet_layers_29_attention_out": {"diffusion_model.layers.29.attention.to_out.0": [(0, 3840)]},
        },
    ),
    "lumina2": (
        "lumina2",
        {"diffusion_model.layers.0.attention.qkv": (3840, 2304)},
        {
            "diffusion_model.layers.0.attention.qkv": {
                "transformer.layers.0.attn.to_q": [(0, 2304)],
                "transformer.layers.0.attn.to_k": [(2304, 3072)],
                "transformer.layers.0.attn.to_v": [(3072, 3840)],
            }
        },
    ),
    "sd3": (
        "sd3",
        {
            "lora_unet_joint_blocks_23_context_block_adaLN_modulation_1": (3072, 1536),
            "lora_unet_joint_blocks_23_x_block_attn_qkv": (4608, 1536),
        },
        {
            "lora_unet_joint_blocks_23_context_block_adaLN_modulation_1": {
                "lycoris_transformer_blocks_23_norm1_context_linear": [(1536, 3072), (0, 1536)],
            },
            "lora_unet_joint_blocks_23_x_block_attn_qkv": {
                "lycoris_transformer_blocks_23_attn_to_q": [(0, 1536)],
                "lycoris_transformer_blocks_23_attn_to_k": [(1536, 3072)],
                "lycoris_transformer_blocks_23_attn_to_v": [(3072, 4608)],
            },
        },
    ),
    "hunyuan-video-1.5": (
        "hunyuan-video-1.5/lora",
        {"diffusion_model.double_blocks.53.txt_attn.qkv": (6144, 2048)},
        {
            "diffusion_model.double_blocks.53.txt_attn.qkv": {
                "lora_unet_double_blocks_53_txt_attn_q": [(0, 2048)],
                "lora_unet_double_blocks_53_txt_attn_k": [(2048, 4096)],
                "lora_unet_double_blocks_53_txt_attn_v": [(4096, 6144)],
            }
        },
    ),
}
RANK = 3


def endings_of(name: str) -> tuple[str, str]:
    return PEFT if "." in name else KOHYA


def scale_of(tensors: Mapping[str, Tensor], name: str) -> float:
    rank = tensors[name + endings_of(name)[1]].shape[0]
    return float(tensors[f"{name}.alpha"]) / rank if f"{name}.alpha" in tensors else 1.0


def product(tensors: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """ΔW·x: as good as ΔW itself, and a thousandth of the memory."""
    up, down = (tensors[name + ending].double() for ending in endings_of(name))
    return scale_of(tensors, name) * up @ (down @ x)


def layers_of(tensors: Mapping[str, Tensor]) -> set[str]:
    return {key.removesuffix(ending) for key in tensors for ending in (KOHYA[0], PEFT[0]) if key.endswith(ending)}


def make(shapes: Shapes, seed: int, alpha: float | None = None) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        tensors |= make_lora({name: shape}, RANK, alpha, seed=seed, endings=endings_of(name))
    return tensors


def one_and_cut(family: str, alphas: bool = True) -> tuple[str, dict[str, Tensor], dict[str, Tensor], Cuts]:
    """A LoRA in the main names, and another whose layers are cut, each with an alpha of its own."""
    said, shapes, cuts = QKV[family]
    one = make(shapes, 1, alpha=6.0)
    cut: dict[str, Tensor] = {}
    for name, parts in cuts.items():
        for number, (part, rows) in enumerate(parts.items()):
            out = sum(end - start for start, end in rows)
            cut |= make({part: (out, shapes[name][1])}, 2, alpha=1.5 + number if alphas else None)
    return said, one, cut, cuts


def expected(tensors: Mapping[str, Tensor], parts: Mapping[str, list[tuple[int, int]]], x: Tensor, out: int) -> Tensor:
    """The product of the parts that are there, each in its rows; zero where none is."""
    whole = torch.zeros(out, x.shape[1], dtype=torch.float64)
    for part, rows in parts.items():
        if part + endings_of(part)[0] in tensors:
            here = product(tensors, part, x)
            for start, end in rows:
                whole[start:end], here = here[: end - start], here[end - start :]
    return whole


@pytest.mark.parametrize("family", QKV)
@pytest.mark.parametrize("missing", [False, True], ids=["all", "no second part"])
def test_fused_and_cut(tmp_path: Path, family: str, missing: bool) -> None:
    """The sum is exact, row by row, whatever the alphas."""
    said, one, cut, cuts = one_and_cut(family)
    if missing:
        gone = {list(parts)[1] for parts in cuts.values() if len(parts) > 1}
        cut = {key: tensor for key, tensor in cut.items() if not key.startswith(tuple(f"{name}." for name in gone))}
    paths = [
        write(tmp_path / "one.safetensors", one, {"ss_base_model_version": said}),
        write(tmp_path / "cut.safetensors", cut, {"ss_base_model_version": said}),
    ]
    uses = [LoraUse(paths[0], 1.0, 1.0), LoraUse(paths[1], -0.5, -0.5)]
    merge_to_file(make_recipe(uses, "concat", save_dtype="float32"), tmp_path / "out.safetensors")
    merged = load_file(tmp_path / "out.safetensors")
    assert layers_of(merged) == set(cuts)
    for name, parts in cuts.items():
        up, down = endings_of(name)
        x = torch.randn(merged[name + down].shape[1], 2, dtype=torch.float64)
        right = product(one, name, x) - 0.5 * expected(cut, parts, x, merged[name + up].shape[0])
        assert float((product(merged, name, x) - right).norm() / right.norm()) < 1e-6


def test_elementwise_modes_see_the_weight_that_the_parts_make_up(tmp_path: Path) -> None:
    """So the result is the same whether q, k and v were one or three in a file."""
    said, one, cut, cuts = one_and_cut("sd3", alphas=False)
    name = "lora_unet_joint_blocks_23_x_block_attn_qkv"
    one = {key: tensor for key, tensor in one.items() if key.startswith(name)}
    parts = list(cuts[name])
    cut = {key: tensor for key, tensor in cut.items() if key.startswith(tuple(parts))}
    whole = {
        f"{name}.lora_up.weight": torch.block_diag(*(cut[f"{part}.lora_up.weight"] for part in parts)),
        f"{name}.lora_down.weight": torch.cat([cut[f"{part}.lora_down.weight"] for part in parts]),
    }
    metadata = {"ss_base_model_version": said}
    first = write(tmp_path / "one.safetensors", one, metadata)
    deltas = []
    for number, tensors in enumerate((whole, cut)):
        other = write(tmp_path / f"{number}.safetensors", tensors, metadata)
        options = {"density": 0.3, "svd_rank": "full"}
        recipe = make_recipe([LoraUse(first), LoraUse(other)], "ties_svd", options, save_dtype="float32")
        deltas.append(merge(recipe)[0][f"{name}.diff"])
    assert float((deltas[0] - deltas[1]).norm() / deltas[0].norm()) < 1e-6


def test_deltas_and_biases_are_put_together_too(tmp_path: Path) -> None:
    """q is whole, k is a LoRA, v and its bias are whole: in the weight of another trainer they are rows."""
    name, parts = "lora_unet_joint_blocks_23_x_block_attn_qkv", "lycoris_transformer_blocks_23_attn_to_"
    random = torch.Generator().manual_seed(0)
    q, v = torch.randn(2, 1536, 1536, generator=random)
    bias = torch.randn(1536, generator=random)
    cut = {f"{parts}q.diff": q, f"{parts}v.diff": v, f"{parts}v.diff_b": bias}
    cut |= make({f"{parts}k": (1536, 1536)}, 2, alpha=1.5)
    one = make({name: (4608, 1536)}, 1)
    metadata = {"ss_base_model_version": "sd3"}
    paths = [write(tmp_path / f"{len(some)}.safetensors", some, metadata) for some in (one, cut)]
    merged, _ = merge(make_recipe([LoraUse(paths[0]), LoraUse(paths[1], 0.5, 0.5)], "concat", save_dtype="float32"))
    assert merged.keys() == {f"{name}.diff", f"{name}.diff_b"}
    right = torch.cat([q.double(), delta(cut, f"{parts}k"), v.double()]) * 0.5 + delta(one, name)
    assert float((merged[f"{name}.diff"] - right).norm() / right.norm()) < 1e-6
    assert torch.equal(merged[f"{name}.diff_b"], torch.cat([torch.zeros(3072), bias * 0.5]))


@pytest.mark.parametrize("family", QKV)
def test_where_all_agree_names_and_cuts_stay(tmp_path: Path, family: str) -> None:
    said, one, cut, _ = one_and_cut(family)
    for tensors in (one, cut):
        path = write(tmp_path / "a.safetensors", tensors, {"ss_base_model_version": said})
        merged, _ = merge(make_recipe([LoraUse(path), LoraUse(path)], "concat"))
        assert layers_of(merged) == layers_of(tensors)


def test_one_layer_twice_in_a_file(tmp_path: Path) -> None:
    said, one, cut, _ = one_and_cut("z-image")
    both = {
        key.replace("lora_unet_layers_29_attention_qkv", "diffusion_model.layers.29.attention.qkv"): tensor
        for key, tensor in one.items()
    } | cut
    paths = [
        write(tmp_path / "one.safetensors", one, {"ss_base_model_version": said}),
        write(tmp_path / "both.safetensors", both, {"ss_base_model_version": said}),
    ]
    with pytest.raises(MergeInputError) as caught:
        merge(make_recipe([LoraUse(path) for path in paths], "concat"))
    name = "lora_unet_layers_29_attention_qkv"
    fused, cut_up = (f"diffusion_model.layers.29.attention.{part}" for part in ("qkv", "to_k"))
    assert says(caught.value, f"both.safetensors … {name} … {fused} … {cut_up}"), caught.value


def test_text_encoders_meet_too(tmp_path: Path) -> None:
    """Flux.1's second text encoder is te2 for diffusers and OneTrainer, te3 for kohya's trainers and ComfyUI."""
    flux = {"lora_unet_double_blocks_0_img_attn_proj": (3072, 3072)}
    path = "encoder.block.23.layer.0.SelfAttention.q"
    clip = "text_model.encoder.layers.0.mlp.fc1"
    styles: list[Shapes] = [
        {"lora_te3_" + path.replace(".", "_"): (8, 8), "lora_te1_" + clip.replace(".", "_"): (8, 8), **flux},
        {"lora_te2_" + path.replace(".", "_"): (8, 8), "lora_te_" + clip.replace(".", "_"): (8, 8), **flux},
        {f"text_encoder_2.{path}": (8, 8), f"text_encoder.{clip}": (8, 8)},
        {f"text_encoders.t5xxl.transformer.{path}": (8, 8), f"text_encoders.clip_l.transformer.{clip}": (8, 8)},
    ]
    uses = [
        LoraUse(write(tmp_path / f"{i}.safetensors", make(shapes, i), {"ss_base_model_version": "flux1"}))
        for i, shapes in enumerate(styles)
    ]
    merged, _ = merge(make_recipe(uses, "concat", save_dtype="float32"))
    layers = {key.partition(".")[0]: tensor.shape[0] for key, tensor in merged.items() if "lora_down" in key}
    assert layers == {
        "lora_te1_text_model_encoder_layers_0_mlp_fc1": 4 * RANK,
        "lora_te3_encoder_block_23_layer_0_SelfAttention_q": 4 * RANK,
        "lora_unet_double_blocks_0_img_attn_proj": 2 * RANK,
    }


def test_they_are_compared_layer_by_layer(tmp_path: Path) -> None:
    """A LoRA beside itself cut up is the same LoRA."""
    said, one, _, cuts = one_and_cut("lumina2")
    cut = {}
    for name, parts in cuts.items():
        up, down = (one[name + ending] for ending in endings_of(name))
        for part, rows in parts.items():
            cut[part + PEFT[0]] = torch.cat([up[start:end] for start, end in rows]).clone()
            cut[part + PEFT[1]] = down.clone()
            cut[f"{part}.alpha"] = torch.tensor(6.0)
    paths = [
        write(tmp_path / f"{number}.safetensors", tensors, {"ss_base_model_version": said})
        for number, tensors in enumerate((one, cut))
    ]
    (pair,) = analyse(make_recipe([LoraUse(path) for path in paths], "concat")).pairs
    assert pair.whole.cosine == pytest.approx(1.0, abs=1e-5)


def test_biases_and_norms_meet_too(tmp_path: Path) -> None:
    """Wan's, as LoRAs that make it faster have them: under the names of ComfyUI and of diffusers."""
    weight = {"diffusion_model.blocks.0.self_attn.q": (1536, 1536)}
    vectors = {name: torch.randn(1536) for name in ("self_attn.q.diff_b", "norm3.diff", "self_attn.norm_k.diff")}
    one = make(weight, 1) | {f"diffusion_model.blocks.0.{name}": vector for name, vector in vectors.items()}
    theirs = {"self_attn.q.diff_b": "attn1.to_q.diff_b", "norm3.diff": "norm2.diff"}
    other = make({"transformer.blocks.0.attn1.to_q": (1536, 1536)}, 2) | {
        f"transformer.blocks.0.{theirs[name]}": 10 * vectors[name] for name in theirs
    }
    uses = [LoraUse(write(tmp_path / f"{number}.safetensors", tensors)) for number, tensors in enumerate((one, other))]
    merged, _ = merge(make_recipe(uses, "concat", save_dtype="float32"))
    for name, vector in vectors.items():
        found = merged[f"diffusion_model.blocks.0.{name}"]
        assert torch.allclose(found.flatten(), (11 if name in theirs else 1) * vector, rtol=1e-5)
    assert merged["diffusion_model.blocks.0.self_attn.q.lora_A.weight"].shape == (2 * RANK, 1536)
