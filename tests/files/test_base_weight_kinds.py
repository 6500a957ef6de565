"""OFT, BOFT, IA3 and GLoRA, which are nothing without the base model's weight: against formulas in float64.

The formulas go block by block, as LyCORIS' documentation has them; none is from the code under test.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.files.checkpoint import Checkpoint
from lib_pm.files.reader import open_lora
from tests.loras import relative_error, write
from tests.messages import says

SIZES = {"linear": (16, 12), "conv": (16, 6, 3, 3)}
NAME = "lora_unet_x"

Made = tuple[dict[str, Tensor], Callable[[Tensor], Tensor]]  # the tensors; what they make of a weight (out, columns)


def draw(*sizes: int) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(sum(sizes))) * 0.3


def turn(block: Tensor, length: float = 1.0) -> Tensor:
    skew = (block - block.T).double() * length
    one = torch.eye(len(block), dtype=torch.float64)
    return (one + skew) @ torch.linalg.inv(one - skew)


def oft(sizes: tuple[int, ...], constraint: float = 0.0) -> Made:
    blocks, rescale = draw(4, 4, 4), draw(16, 1) + 1
    whole = float((blocks - blocks.transpose(1, 2)).double().norm())
    length = min(1.0, constraint * 16 / whole) if constraint else 1.0

    def change(weight: Tensor) -> Tensor:
        turned = [turn(block, length).T @ weight[4 * at : 4 * at + 4] for at, block in enumerate(blocks)]
        return torch.cat(turned) * rescale.double() - weight

    return {"oft_blocks": blocks, "rescale": rescale, "alpha": torch.tensor(constraint)}, change


def boft(sizes: tuple[int, ...]) -> Made:
    """Pass i mixes, in each block, two runs of rows that are 2^i half blocks apart."""
    blocks = draw(2, 4, 4, 4)

    def change(weight: Tensor) -> Tensor:
        rows = weight.clone()
        for number, stage in enumerate(blocks):
            apart = 2**number * 2
            order = [
                start + step + side * apart
                for start in range(0, 16, 2 * apart)
                for step in range(apart)
                for side in range(2)
            ]
            taken = rows[order]
            turned = torch.cat([turn(block) @ taken[4 * at : 4 * at + 4] for at, block in enumerate(stage)])
            rows = torch.empty_like(rows)
            rows[order] = turned
        return rows - weight

    return {"oft_blocks": blocks}, change


def ia3(sizes: tuple[int, ...], *, on_input: bool) -> Made:
    factors = draw(sizes[1] if on_input else sizes[0])

    def change(weight: Tensor) -> Tensor:
        if on_input:
            return weight * factors.double().repeat_interleave(weight.shape[1] // len(factors))
        return weight * factors.double().unsqueeze(1)

    return {"weight": factors, "on_input": torch.tensor(int(on_input))}, change


def glora(sizes: tuple[int, ...], *, old: bool = False) -> Made:
    out, inner, *kernel = sizes
    parts = {"a1": draw(inner, 2), "a2": draw(2, inner), "b1": draw(out, 2), "b2": draw(2, inner, *kernel)}

    def change(weight: Tensor) -> Tensor:
        a1, a2, b1, b2 = (part.double().flatten(1) for part in parts.values())
        behind = torch.einsum("oik,ij,jn->onk", weight.view(out, inner, -1), a1, a2).flatten(1)
        return (behind + b1 @ b2) * (3 / 2)

    names = dict(zip(parts, ("a2", "a1", "b2", "b1"), strict=True)) if old else {part: part for part in parts}
    return {f"{names[part]}.weight": tensor for part, tensor in parts.items()} | {"alpha": torch.tensor(3.0)}, change


KINDS: dict[str, Callable[[tuple[int, ...]], Made]] = {
    "OFT": oft,
    "OFT with a constraint": lambda sizes: oft(sizes, 0.01),
    "BOFT": boft,
    "IA3": lambda sizes: ia3(sizes, on_input=False),
    "IA3 on the input": lambda sizes: ia3(sizes, on_input=True),
    "GLoRA": glora,
    "GLoRA, old": lambda sizes: glora(sizes, old=True),
}


# The old GLoRA had no convolutions.
CASES = [(kind, layer) for kind in KINDS for layer in SIZES if (kind, layer) != ("GLoRA, old", "conv")]


@pytest.mark.parametrize(("kind", "layer"), CASES)
def test_what_they_make_of_a_weight(tmp_path: Path, kind: str, layer: str) -> None:
    sizes = SIZES[layer]
    tensors, change = KINDS[kind](sizes)
    path = write(tmp_path / "x.safetensors", {f"{NAME}.{part}": tensor for part, tensor in tensors.items()})
    weight = draw(*sizes)
    with Checkpoint(write(tmp_path / "base.safetensors", {"x.weight": weight})) as base, open_lora(path, base) as file:
        assert relative_error(file.read(NAME).delta(), change(weight.double().flatten(1))) < 2e-6
    title = next(title for title in ("OFT", "IA3", "GLoRA") if title in kind)
    with pytest.raises(MergeInputError) as caught:
        open_lora(path)
    assert says(caught.value, f"x.safetensors … {NAME} … {title} … --base FILE"), caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_of_another_size(tmp_path: Path, kind: str) -> None:
    tensors, _ = KINDS[kind](SIZES["linear"])
    path = write(tmp_path / "x.safetensors", {f"{NAME}.{part}": tensor for part, tensor in tensors.items()})
    with Checkpoint(write(tmp_path / "base.safetensors", {"x.weight": draw(10, 10)})) as base:
        with pytest.raises(MergeInputError) as caught:
            open_lora(path, base)
        assert says(caught.value, f"x.safetensors … {NAME} … 10×10"), caught.value
