"""Makes networks of every kind that is read, and says what each changes: by formulas in float64 of their own.

Each formula goes entry by entry or by numpy's own products; none is from the code under test.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from tests.loras import delta, make_lora

Sizes = tuple[int, ...]
Made = tuple[dict[str, Tensor], dict[str, Tensor]]  # the tensors; what they change, in float64, by name

ALPHA = 3.0


def make(kind: str, shapes: Mapping[str, Sizes], seed: int = 0, dtype: torch.dtype = torch.float32) -> Made:
    """Return a network of that kind for weights of these sizes, and its deltas as matrices."""
    tensors: dict[str, Tensor] = {}
    changes: dict[str, Tensor] = {}
    for name, sizes in shapes.items():
        draw = _Draw(seed * 1_000_003 + zlib.crc32(f"{kind} {name}".encode()), dtype)
        made, change = KINDS[kind](draw, sizes)
        tensors |= {f"{name}.{part}": tensor for part, tensor in made.items()}
        changes |= {name + of: tensor for of, tensor in change.items()}
    return tensors, changes


def changes_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what a result changes, in float64, by the layer's name; that of a bias ends in `.bias`."""
    plain = [key.removesuffix(".lora_up.weight") for key in tensors if key.endswith(".lora_up.weight")]
    changes = {name: delta(tensors, name) for name in plain}
    for ending, of in ((".diff", ""), (".diff_b", ".bias")):
        changes |= {
            key.removesuffix(ending) + of: tensor.double().flatten(1) if tensor.ndim > 1 else tensor.double()
            for key, tensor in tensors.items()
            if key.endswith(ending)
        }
    return changes


class _Draw:
    """Random tensors, rounded to a dtype as a file has them."""

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._dtype = dtype

    def __call__(self, *sizes: int, scale: float = 0.3) -> Tensor:
        return (torch.randn(*sizes, generator=self._generator) * scale).to(self._dtype)

    def number(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=self._dtype)


def _wide(tensors: Iterable[Tensor]) -> list[np.ndarray]:
    return [tensor.double().numpy() for tensor in tensors]


def _tucker(core: Tensor, a: Tensor, b: Tensor) -> np.ndarray:
    """core (i, j, kh, kw), a (i, rows), b (j, columns), as LyCORIS' rebuild_tucker has it."""
    wide_core, wide_a, wide_b = _wide((core, a, b))
    whole = np.zeros((a.shape[1], b.shape[1], *core.shape[2:]))
    for i in range(core.shape[0]):
        for j in range(core.shape[1]):
            whole += np.multiply.outer(np.outer(wide_a[i], wide_b[j]), wide_core[i, j])
    return whole.reshape(a.shape[1], -1)


def _loha(rank: int) -> Callable[[_Draw, Sizes], Made]:
    def make(draw: _Draw, sizes: Sizes) -> Made:
        width = int(np.prod(sizes[1:]))
        names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
        tensors = {name: draw(sizes[0], rank) if name.endswith("a") else draw(rank, width) for name in names}
        a1, b1, a2, b2 = _wide(tensors.values())
        change = (a1 @ b1) * (a2 @ b2) * (ALPHA / rank)
        return tensors | {"alpha": draw.number(ALPHA)}, {"": torch.from_numpy(change)}

    return make


def _loha_tucker(draw: _Draw, sizes: Sizes) -> Made:
    if len(sizes) == 2:
        return _loha(2)(draw, sizes)
    rank, (out, inner, *kernel) = 2, sizes
    tensors = {}
    change = np.full((out, inner * int(np.prod(kernel))), ALPHA / rank)
    for half in (1, 2):
        core, a, b = draw(rank, rank, *kernel), draw(rank, out), draw(rank, inner)
        tensors |= {f"hada_t{half}": core, f"hada_w{half}_a": a, f"hada_w{half}_b": b}
        change *= _tucker(core, a, b)
    return tensors | {"alpha": draw.number(ALPHA)}, {"": torch.from_numpy(change)}


def _lokr(first: int, second: int, *, tucker: bool = False) -> Callable[[_Draw, Sizes], Made]:
    """The ranks of the two matrices; 0 for a whole one."""

    def make(draw: _Draw, sizes: Sizes) -> Made:
        out, inner, *kernel = sizes
        tensors: dict[str, Tensor] = {}
        scale = ALPHA / (second or first) if first or second else 1.0
        small = _matrix(draw, "lokr_w1", (2, 2), first, tensors)
        core = tucker and bool(kernel)
        large = _matrix(draw, "lokr_w2", (out // 2, inner // 2, *kernel), second, tensors, tucker=core)
        tensors["alpha"] = draw.number(ALPHA if first or second else float("inf"))
        return tensors, {"": torch.from_numpy(np.kron(small, large) * scale)}

    return make


def _matrix(
    draw: _Draw, name: str, sizes: Sizes, rank: int, tensors: dict[str, Tensor], *, tucker: bool = False
) -> np.ndarray:
    rows, inner, *kernel = sizes
    if not rank:
        tensors[name] = draw(*sizes)
        return tensors[name].double().numpy().reshape(rows, -1)
    if tucker:
        core, a, b = draw(rank, rank, *kernel), draw(rank, rows), draw(rank, inner)
        tensors |= {f"{name.replace('w', 't')}": core, f"{name}_a": a, f"{name}_b": b}
        return _tucker(core, a, b)
    a, b = draw(rows, rank), draw(rank, inner * int(np.prod(kernel)))
    tensors |= {f"{name}_a": a, f"{name}_b": b}
    return np.matmul(*_wide((a, b)))


def _full(draw: _Draw, sizes: Sizes) -> Made:
    tensors = {"diff": draw(*sizes), "diff_b": draw(sizes[0])}
    return tensors, {"": tensors["diff"].double().flatten(1), ".bias": tensors["diff_b"].double()}


def _norm(draw: _Draw, sizes: Sizes) -> Made:
    tensors = {"w_norm": draw(sizes[0]), "b_norm": draw(sizes[0])}
    return tensors, {"": tensors["w_norm"].double(), ".bias": tensors["b_norm"].double()}


def _biases(draw: _Draw, sizes: Sizes) -> Made:
    """PEFT's lora_bias: the up factor has a bias, which is scaled like the rest."""
    lora = {key.removeprefix("x."): tensor for key, tensor in make_lora({"x": sizes}, 4, ALPHA).items()}
    lora["lora_up.bias"] = draw(sizes[0])
    change = delta({f"x.{part}": tensor for part, tensor in lora.items()}, "x")
    return lora, {"": change, ".bias": lora["lora_up.bias"].double() * (ALPHA / 4)}


KINDS: dict[str, Callable[[_Draw, Sizes], Made]] = {
    "LoHa": _loha(2),
    "LoHa of a high rank": _loha(6),
    "LoHa, Tucker": _loha_tucker,
    "LoKr": _lokr(0, 2),
    "LoKr in factors": _lokr(1, 2),
    "LoKr, Tucker": _lokr(0, 2, tucker=True),
    "LoKr whole": _lokr(0, 0),
    "full difference": _full,
    "norms": _norm,
    "LoRA with biases": _biases,
}
# Those that have no factors in the layers of the tests.
DENSE = {"LoHa of a high rank", "LoKr whole", "full difference"}
