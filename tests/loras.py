"""Makes LoRA files for tests, and computes what merges of them should be in float64, apart from the code under test."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

KOHYA = (".lora_up.weight", ".lora_down.weight")
PEFT = (".lora_B.weight", ".lora_A.weight")


def make_lora(
    shapes: Mapping[str, tuple[int, ...]],
    rank: int = 4,
    alpha: float | None = None,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    endings: tuple[str, str] = KOHYA,
    cp: Iterable[str] = (),
) -> dict[str, Tensor]:
    """Random factors for layers of these weight shapes. alpha None leaves it out. cp: layers with a mid factor."""
    tensors = {}
    for name, (out, inner, *kernel) in shapes.items():
        generator = torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(name.encode()))
        ones = (1,) * len(kernel)
        up = torch.randn(out, rank, *ones, generator=generator) * 0.02
        if name in cp:
            down = torch.randn(rank, inner, *ones, generator=generator) * 0.1
            tensors[f"{name}.lora_mid.weight"] = torch.randn(rank, rank, *kernel, generator=generator).to(dtype)
        else:
            down = torch.randn(rank, inner, *kernel, generator=generator) * 0.1
        tensors[name + endings[0]] = up.to(dtype)
        tensors[name + endings[1]] = down.to(dtype)
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha, dtype=dtype)
    return tensors


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    save_file(dict(tensors), str(path), dict(metadata) if metadata else None)
    return path


def delta(tensors: Mapping[str, Tensor], name: str, endings: tuple[str, str] = KOHYA) -> Tensor:
    """ΔW of a layer as a float64 matrix, by the formula alone."""
    up, down = tensors[name + endings[0]].double(), tensors[name + endings[1]].double()
    rank = down.shape[0]
    scale = float(tensors[f"{name}.alpha"]) / rank if f"{name}.alpha" in tensors else 1.0
    if f"{name}.lora_mid.weight" in tensors:
        mid = tensors[f"{name}.lora_mid.weight"].double()
        whole = torch.zeros(up.shape[0], down.shape[1], *mid.shape[2:], dtype=torch.float64)
        for first in range(rank):
            for second in range(rank):
                outer = torch.outer(up[:, first].flatten(), down[second].flatten())
                whole += outer[:, :, None, None] * mid[first, second]
        return scale * whole.flatten(1)
    return scale * up.flatten(1) @ down.flatten(1)


def deltas(tensors: Mapping[str, Tensor] | Path, endings: tuple[str, str] = KOHYA) -> dict[str, Tensor]:
    """ΔW of every layer."""
    if isinstance(tensors, Path):
        tensors = load_file(str(tensors))
    names = [key.removesuffix(endings[0]) for key in tensors if key.endswith(endings[0])]
    return {name: delta(tensors, name, endings) for name in names}


def relative_error(got: Tensor, expected: Tensor) -> float:
    """‖got − expected‖ / ‖expected‖; ‖got‖ where zero is expected."""
    size = float(expected.double().norm())
    error = float((got.double() - expected.double()).norm())
    return error / size if size else error


def total_error(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The relative error over all layers together; layers have to be the same."""
    assert got.keys() == expected.keys()
    error = sum(float((got[name].double() - expected[name].double()).square().sum()) for name in expected)
    size = sum(float(expected[name].double().square().sum()) for name in expected)
    return (error / size) ** 0.5
