"""Resizing, against full float64 SVDs and against kohya's rules, written here from their definitions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.core.layers import Layer
from lib_pm.core.merge_layer import MergedLayer
from lib_pm.merging import devices, resize
from lib_pm.merging.report import Report
from lib_pm.merging.resize import (
    NO_LIMIT,
    Dynamic,
    NewRank,
    parse_dynamic,
    preview_resize,
    resize_layer,
    resize_to_file,
)
from lib_pm.render.text import report_text
from tests.layouts import Shapes
from tests.loras import KOHYA, PEFT, deltas, make_lora, relative_error, write
from tests.messages import saying, says

LINEAR = "lora_unet_mid_block_attentions_0_proj_in"
WIDE = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
CONV, CP = "lora_unet_mid_block_resnets_0_conv1", "lora_unet_mid_block_resnets_0_conv2"
NARROW = "lora_unet_conv_out"
ZERO = "lora_unet_mid_block_attentions_0_proj_out"
SHAPES: Shapes = {LINEAR: (24, 16), WIDE: (300, 320), CONV: (12, 8, 3, 3), CP: (12, 8, 3, 3), NARROW: (4, 8, 3, 3)}


def decaying(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each rank component half the size of the one before, as training leaves them."""
    for name, tensor in tensors.items():
        if name.endswith(KOHYA[0]):
            sizes = 0.5 ** torch.arange(tensor.shape[1], dtype=torch.float64)
            tensor *= sizes.reshape(1, -1, *[1] * (tensor.dim() - 2)).to(tensor.dtype)
    return tensors


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tensors = decaying(make_lora(SHAPES, 8, 4.0, cp=[CP]))
    tensors |= {ZERO + KOHYA[0]: torch.zeros(24, 8), ZERO + KOHYA[1]: torch.ones(8, 16)}
    return write(tmp_path / "in.safetensors", tensors, {"ss_base_model_version": "sd_v1_mine"})


def resized(source: Path, rank: int = NO_LIMIT, **how: Any) -> tuple[Report, dict[str, Tensor]]:
    target = source.with_name("out.safetensors")
    new = NewRank(rank, how.pop("conv_rank", None), how.pop("dynamic", None))
    how = {"save_dtype": "float32", "overwrite": True} | how
    return resize_to_file(source, target, new, **how), load_file(target)


def ranks_of(tensors: dict[str, Tensor]) -> dict[str, int]:
    """Rank by layer; alpha has to be one for all, or some loaders read it wrong."""
    ranks = {}
    for name, tensor in tensors.items():
        if name.endswith(KOHYA[1]):
            layer = name.removesuffix(KOHYA[1])
            ranks[layer] = tensor.shape[0]
    assert len({float(tensor) for name, tensor in tensors.items() if name.endswith(".alpha")}) == 1
    return ranks


@pytest.mark.parametrize(("rank", "conv_rank"), [(3, None), (3, 2), (1, 5), (8, 8)])
def test_fixed_rank_is_the_best_approximation(source: Path, rank: int, conv_rank: int | None) -> None:
    report, tensors = resized(source, rank=rank, conv_rank=conv_rank)
    before, after = deltas(source), deltas(tensors)
    convolutions = (CONV, CP, NARROW)
    expected_ranks = {name: (conv_rank or rank) if name in convolutions else rank for name in before}
    expected_ranks[NARROW] = min(expected_ranks[NARROW], 4)  # the weight has no more
    assert ranks_of(tensors) == expected_ranks
    kept_all = total_all = 0.0
    rounding = 4 * 2**-24  # the CP layer's down factor is rounded to float32: both energies, squares, move by 2 · 2⁻²⁴
    energies = {layer.name: layer.kept_energy for layer in report.layers}
    for name, whole in before.items():
        values = torch.linalg.svdvals(whole).square()
        kept, total = float(values[: expected_ranks[name]].sum()), float(values.sum())
        kept_all, total_all = kept_all + kept, total_all + total
        error = float((after[name] - whole).norm())
        assert error <= (total - kept) ** 0.5 * (1 + 1e-6) + 1e-6 * total**0.5
        assert energies[name] == (pytest.approx(kept / total, rel=rounding if name == CP else 1e-9) if total else None)
    assert report.kept_energy == pytest.approx(kept_all / total_all, rel=rounding)


def test_shapes_and_scale_are_kept(source: Path) -> None:
    _, tensors = resized(source, rank=8)
    for name, (out, inner, *kernel) in SHAPES.items():
        rank = 4 if name == NARROW else 8
        assert tensors[name + KOHYA[0]].shape == (out, rank, *[1] * len(kernel))
        assert tensors[name + KOHYA[1]].shape == (rank, inner, *kernel)
    before, after = deltas(source), deltas(tensors)
    assert all(relative_error(after[name], before[name]) < 1e-6 for name in SHAPES)


def test_no_layer_gets_more_rank_than_it_has(source: Path) -> None:
    report, tensors = resized(source, rank=64)
    assert max(ranks_of(tensors).values()) == 8
    assert report.kept_energy == pytest.approx(1.0)


def kohyas_rank(rule: str, target: float, values: Tensor, max_rank: int) -> int:
    """`rank_resize` of kohya-ss/sd-scripts on all singular values of the unscaled weight, largest first."""
    if values[0] <= 1e-6:
        return 1
    if rule == "sv_ratio":
        index = int((values > values[0] / target).sum())
    elif rule == "sv_fro":
        shares = values.square().cumsum(0) / values.square().sum()
        index = int(torch.searchsorted(shares, target**2)) + 1
    else:
        shares = values.cumsum(0) / values.sum()
        index = int(torch.searchsorted(shares, target)) + 1
    return min(max(1, min(index, len(values) - 1)) + 1, max_rank)


RULES = [
    ("sv_ratio", 1.0),
    ("sv_ratio", 3.0),
    ("sv_ratio", 20.0),
    ("sv_ratio", 1e4),
    ("sv_fro", 0.5),
    ("sv_fro", 0.9),
    ("sv_fro", 0.99),
    ("sv_cumulative", 0.3),
    ("sv_cumulative", 0.8),
    ("sv_cumulative", 0.95),
]


@pytest.mark.parametrize("max_rank", [1 << 20, 4])
@pytest.mark.parametrize(("rule", "target"), RULES, ids=[f"{rule}={target}" for rule, target in RULES])
def test_dynamic_rules_are_kohyas(source: Path, rule: str, target: float, max_rank: int) -> None:
    report, tensors = resized(source, rank=max_rank, dynamic=parse_dynamic(f"{rule}={target}"))
    unscaled = {name: delta * (1 if name == ZERO else 2) for name, delta in deltas(source).items()}  # alpha / rank
    expected = {
        name: kohyas_rank(rule, target, torch.linalg.svdvals(delta), max_rank) for name, delta in unscaled.items()
    }
    # kohya may take one component more than the LoRA has: it would be filled with zeros
    assert ranks_of(tensors) == {name: min(rank, 8) for name, rank in expected.items()}
    assert {layer.name: layer.rank for layer in report.layers} == ranks_of(tensors)


def test_dynamic_with_a_limit_for_convolutions(source: Path) -> None:
    _, tensors = resized(source, rank=6, conv_rank=2, dynamic=parse_dynamic("sv_fro=1"))
    assert ranks_of(tensors) == {LINEAR: 6, WIDE: 6, CONV: 2, CP: 2, NARROW: 2, ZERO: 1}


def test_a_scale_does_not_change_what_a_rule_sees(tmp_path: Path) -> None:
    """kohya's rules look at the unscaled factors: a tiny alpha does not make a layer zero."""
    ranks = []
    for alpha in (8.0, 1e-9):
        path = write(tmp_path / "in.safetensors", decaying(make_lora({LINEAR: (24, 16)}, 8, alpha)))
        ranks.append(ranks_of(resized(path, dynamic=parse_dynamic("sv_ratio=10"))[1]))
    assert ranks[0] == ranks[1]
    assert ranks[0][LINEAR] > 1


def test_peft_names_of_an_unknown_family_are_kept(tmp_path: Path) -> None:
    name = "diffusion_model.blocks.0.ffn.0"
    path = write(tmp_path / "in.safetensors", make_lora({name: (24, 16)}, 8, 4.0, endings=PEFT))
    _, tensors = resized(path, rank=8)
    assert set(tensors) == {name + ending for ending in PEFT}
    assert relative_error(deltas(tensors, PEFT)[name], deltas(path, PEFT)[name]) < 1e-6


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ((4, 0, ""), NewRank(4)),
        ((4, 2, ""), NewRank(4, 2)),
        ((4, 2, "sv_fro=0.9"), NewRank(4, 2, Dynamic("sv_fro", 0.9))),
        ((0, 0, "sv_fro=0.9"), NewRank(NO_LIMIT, None, Dynamic("sv_fro", 0.9))),
    ],
)
def test_fields_of_a_form(fields: tuple[int, int, str], expected: NewRank) -> None:
    assert NewRank.of_form(*fields) == expected


@pytest.mark.parametrize(("fields", "facts"), [((0, 4, ""), "rank … 0 … 1"), ((-1, 0, ""), "rank … -1 … 1")])
def test_a_form_without_a_rank(fields: tuple[int, int, str], facts: str) -> None:
    with pytest.raises(MergeInputError, match=saying(facts)):
        NewRank.of_form(*fields)


def test_metadata_and_text(source: Path) -> None:
    report, _ = resized(source, rank=4, conv_rank=2, dynamic=parse_dynamic("sv_fro=0.9"))
    lines = report_text(report, every_layer=True).splitlines()
    assert lines[0] == "in.safetensors resized to sv_fro 0.9, at most rank 4, conv rank 2"
    assert any(re.fullmatch(rf"  {LINEAR}: rank \d, kept energy \d+\.\d\d%", line) for line in lines)
    assert any(re.fullmatch(r"  kept energy: \d+\.\d\d% overall, lowest .*", line) for line in lines)
    with safe_open(report.file, "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_base_model_version"] == "sd_v1_mine"
    assert metadata["modelspec.merged_from"] == "in"
    assert metadata["ss_network_dim"] == "Dynamic"
    assert "power_merger_recipe" not in metadata


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("sv_fr=0.9", "dynamic rule 'sv_fr' … sv_ratio=…, sv_fro=…, sv_cumulative=…"),
        ("sv_ratio=0.5", "sv_ratio … '0.5' … 1"),
        ("sv_ratio=inf", "sv_ratio … 'inf' … 1"),
        ("sv_fro", "sv_fro … '' … 0 … 1"),
        ("sv_fro=0", "sv_fro … '0' … 0 … 1"),
        ("sv_fro=nan", "sv_fro … 'nan' … 0 … 1"),
        ("sv_cumulative=1.1", "sv_cumulative … '1.1' … 0 … 1"),
    ],
)
def test_messages_of_rules(text: str, facts: str) -> None:
    with pytest.raises(MergeInputError) as caught:
        parse_dynamic(text)
    assert says(caught.value, facts), caught.value


@pytest.mark.parametrize(
    ("how", "facts"),
    [
        ({"rank": 0}, "rank … 0 … 1"),
        ({"rank": 4, "conv_rank": -1}, "conv rank … -1 … 1"),
        (
            {"rank": 4, "save_dtype": "int8"},
            "save_dtype … 'int8' … float32, float16, bfloat16, float64",
        ),
        (
            {"rank": 4, "device": "npu"},
            "device … 'npu' … auto, cpu, cuda, mps … cuda:1",
        ),
        ({"rank": 4, "workers": 0}, "threads … 0 … 1"),
    ],
    ids=lambda value: str(value),
)
def test_messages(source: Path, how: dict[str, Any], facts: str) -> None:
    with pytest.raises(MergeInputError) as caught:
        resized(source, **how)
    assert says(caught.value, facts), caught.value
    assert [path.name for path in source.parent.iterdir()] == ["in.safetensors"]


def test_two_workers_give_the_same_bytes(source: Path) -> None:
    _, one = resized(source, rank=3, workers=1)
    _, two = resized(source, rank=3, workers=2)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_auto_falls_back_to_the_cpu(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is full for all layers: the result is the CPU's, and the report says so."""

    def resize_on(layer: Layer, rank: int, dynamic: Dynamic | None) -> MergedLayer:
        if layer.up.device.type == "meta":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return resize_layer(layer, rank, dynamic)

    _, expected = resized(source, rank=3, device="cpu")
    monkeypatch.setattr(devices, "choose_device", lambda name: torch.device("meta"))
    monkeypatch.setattr(resize, "resize_layer", resize_on)
    report, tensors = resized(source, rank=3, workers=1)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    (note,) = report.notes
    assert says(note, f"{len(report.layers)} layers … CPU … memory")


def test_a_preview_is_what_is_written_then(source: Path) -> None:
    new = NewRank(3, conv_rank=2)
    before = sorted(source.parent.iterdir())
    preview = preview_resize(source, new, save_dtype="float32")
    assert sorted(source.parent.iterdir()) == before, "nothing is written"
    report, tensors = resized(source, 3, conv_rank=2)
    assert preview.layers == report.layers
    assert preview.kept_energy == report.kept_energy
    assert preview.size == sum(tensor.nbytes for tensor in tensors.values())
