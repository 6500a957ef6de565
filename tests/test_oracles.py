"""Modes against PEFT's and mergekit's own code, where that is right.

PEFT merges real adapters of a small model; ours merges the same factors. DARE gets our masks in both, since PEFT draws
from the global generator. Where a mode departs, its docstring says so, and the departure is a test here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
import torch
from mergekit.merge_methods.generalized_task_arithmetic import get_mask
from mergekit.sparsify import magnitude
from peft import LoraConfig, get_peft_model
from peft.utils import merge_utils
from torch import Tensor, nn

import lib_pm.core.methods  # noqa: F401 (registers the modes)
from lib_pm.core.layers import Layer, LayerShape
from lib_pm.core.merge_layer import merge_layer
from lib_pm.core.registry import MODES
from lib_pm.core.rng import RandomBits
from lib_pm.core.shares import Share

PEFT_NAMES = {
    "concat": "cat",
    "add": "linear",
    "add_svd": "svd",
    **{
        mode: mode
        for mode in MODES
        if mode.removesuffix("_svd") in ("ties", "dare_linear", "dare_ties", "magnitude_prune")
    },
}
DENSITY, SEED, RANK = 0.6, 5, 5
SHAPES = {"linear": LayerShape(26, 21), "conv": LayerShape(12, 8, (3, 3)), "conv1": LayerShape(12, 8, (1, 1))}
ALPHAS = (2.0, 7.0, 5.0)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(21, 26)
        self.conv = nn.Conv2d(8, 12, 3)
        self.conv1 = nn.Conv2d(8, 12, 1)


@pytest.fixture(scope="module")
def factors() -> dict[tuple[int, str], tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return {
        (index, name): (
            torch.randn(shape.out, RANK, generator=generator),
            torch.randn(RANK, shape.columns, generator=generator),
        )
        for index in range(len(ALPHAS))
        for name, shape in SHAPES.items()
    }


def peft_delta(factors, mode, weights, rank, masks, monkeypatch) -> dict[str, Tensor]:
    """What PEFT's add_weighted_adapter makes of them, as matrices."""
    model = Model()
    configs = [LoraConfig(r=RANK, lora_alpha=alpha, target_modules=list(SHAPES)) for alpha in ALPHAS]
    peft = get_peft_model(model, configs[0], adapter_name="0")
    for index, config in enumerate(configs[1:], start=1):
        peft.add_adapter(str(index), config)
    for (index, name), (up, down) in factors.items():
        module, shape = getattr(model, name), SHAPES[name]
        ones = (1,) * len(shape.kernel)
        module.lora_B[str(index)].weight.data = up.reshape(shape.out, RANK, *ones)
        module.lora_A[str(index)].weight.data = down.reshape(RANK, shape.inner, *shape.kernel)
    if masks:
        monkeypatch.setattr(
            merge_utils,
            "random_pruning",
            lambda tensor, density, rescale: tensor * next(masks).reshape(tensor.shape) / density,
        )
    names = [str(index) for index in range(len(weights))]
    peft.add_weighted_adapter(names, list(weights), "merged", PEFT_NAMES[mode], svd_rank=rank, density=DENSITY)
    return {name: getattr(model, name).get_delta_weight("merged").detach().flatten(1) for name in SHAPES}


def our_delta(factors, mode, weights, rank) -> dict[str, Tensor]:
    values = {"density": DENSITY, "seed": SEED, "svd_rank": rank}
    options = MODES[mode].values({name: value for name, value in values.items() if name in MODES[mode].options})
    return {name: merge(factors, mode, name, weights, options).delta() for name in SHAPES}


def merge(factors, mode, name, weights, options) -> Layer:
    shares = [
        Share(Layer(SHAPES[name], *factors[index, name], ALPHAS[index] / RANK), weight, bytes([index]))
        for index, weight in enumerate(weights)
    ]
    merged = merge_layer(MODES[mode], name, shares, options, torch.device("cpu"), torch.float32)
    assert merged
    return merged.layer


def our_masks(factors, mode, count) -> Iterator[Tensor]:
    """The masks of `drop_random`, in the order in which PEFT asks for them: per layer A then B, or the delta."""
    for name in ("linear", "conv", "conv1"):
        shape = SHAPES[name]
        contents = [hashlib.sha256(bytes([index]) + name.encode()).digest() for index in range(count)]
        if MODES[mode].space == "delta":
            parts = [(b"", (shape.out, shape.columns))]
        else:
            parts = [(b"down", (RANK, shape.columns)), (b"up", (shape.out, RANK))]
        for part, size in parts:
            for content in contents:
                bits = RandomBits(SEED, content + part)
                yield torch.from_numpy(bits.below(DENSITY, size[0] * size[1])).reshape(size)


@pytest.mark.parametrize("rank", [3, 8])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 0.5, 0.5), (1.0, 0.7, 0.2), (1.0, -0.7)])
def test_modes_are_peft(factors, mode, weights, rank, monkeypatch):
    """All modes at equal positive weights; those without an election at all weights, negative ones too."""
    if "ties" in mode and len(set(weights)) > 1:
        weights = (weights[0],) * len(weights)
    masks = our_masks(factors, mode, len(weights)) if MODES[mode].method.random else None
    if "ties" in mode and MODES[mode].space == "factors":
        # PEFT elects before it multiplies by sqrt(weight·scale): the same only if that is the same for all
        monkeypatch.setattr(f"{__name__}.ALPHAS", (RANK,) * 3)
    theirs = peft_delta(factors, mode, weights, rank, masks, monkeypatch)
    ours = our_delta(factors, mode, weights, rank)
    for name in SHAPES:
        torch.testing.assert_close(ours[name].float(), theirs[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.7, 0.2), (1.0, -0.7, 2.0)])
def test_ties_elects_by_the_weighted_entries_as_mergekit_does(factors, weights):
    options = MODES["ties_svd"].values({"density": DENSITY, "svd_rank": 99})
    for name in SHAPES:
        deltas = [up @ down * ALPHAS[index] / RANK for (index, layer), (up, down) in factors.items() if layer == name]
        trimmed = [magnitude(delta, DENSITY) * weight for delta, weight in zip(deltas, weights, strict=False)]
        stack = torch.stack(trimmed)
        mask = get_mask(stack, "sum")
        expected = (stack * mask).sum(0) / mask.sum(0).clamp(min=1)
        ours = merge(factors, "ties_svd", name, weights, options).delta().float()
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_ties_departs_from_peft_where_a_negative_strength_votes(factors):
    """In PEFT a LoRA votes the same whatever its weight; a subtracted one should vote the other way."""
    deltas, weights = torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, -1.0])
    options = MODES["ties"].values({"density": 1.0})
    assert MODES["ties"].method(deltas.clone(), weights, [b"", b""], options).tolist() == [-2.0]
    assert merge_utils.ties(list(deltas), weights, 1.0).tolist() == [-0.5]


def test_a_single_weight_is_not_normalised_away(factors):
    """mergekit's `normalize` divides by the weights that agree, so one LoRA at 0.5 would act as 1."""
    options = MODES["ties"].values({"density": 1.0})
    assert MODES["ties"].method(torch.ones(1, 3), torch.tensor([0.5]), [b""], options).tolist() == [0.5] * 3
