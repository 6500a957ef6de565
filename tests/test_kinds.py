"""Every kind of network that is read, in every mode: what it changes, by formulas of its own, and a merge's laws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import lib_pm.core.methods  # noqa: F401 (registers the modes)
from lib_pm.compare.analyse import analyse
from lib_pm.core.errors import MergeInputError
from lib_pm.core.registry import MODES
from lib_pm.files.reader import open_lora
from lib_pm.merging.merge import merge, merge_to_file
from lib_pm.merging.recipe import LoraUse, make_recipe
from lib_pm.merging.resize import NewRank, resize_to_file
from tests.kinds import DENSE, KINDS, changes_of, make
from tests.loras import make_lora, total_error, write
from tests.test_laws import CLIP, CONV1, CONV3, LINEAR, neutral, same_bytes

SHAPES = {LINEAR: (24, 20), CONV1: (16, 16, 1, 1), CONV3: (14, 12, 3, 3), CLIP: (30, 22)}
FLOAT16 = 5e-4  # what rounding a result to it costs

kinds = pytest.mark.parametrize("kind", KINDS)
modes = pytest.mark.parametrize("mode", MODES)


def merged(
    folder: Path, loras: Sequence[Mapping[str, Tensor]], strengths: Sequence[float], mode: str, **options: float
) -> dict[str, Tensor]:
    uses = [
        LoraUse(write(folder / f"{index}.safetensors", lora), strength, strength)
        for index, (lora, strength) in enumerate(zip(loras, strengths, strict=True))
    ]
    return merge(make_recipe(uses, mode, neutral(mode, **options), save_dtype="float32"), workers=1)[0]


def refused(kind: str, mode: str) -> bool:
    return kind in DENSE and MODES[mode].space == "factors"


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_what_a_file_changes(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    tensors, changes = make(kind, SHAPES, dtype=dtype)
    with open_lora(write(tmp_path / "x.safetensors", tensors)) as file:
        found = {name: file.read(name).delta() for name in (*file.layers, *file.vectors)}
        dense = {file.layers[name].rank is None for name in file.layers}
    assert dense <= {kind in DENSE}
    assert total_error({name: tensor.view_as(changes[name]) for name, tensor in found.items()}, changes) < 1e-6


@kinds
@modes
def test_identity_and_linear_in_strength(tmp_path: Path, kind: str, mode: str) -> None:
    tensors, changes = make(kind, SHAPES)
    if refused(kind, mode):
        with pytest.raises(MergeInputError) as caught:
            merged(tmp_path, [tensors], [1.0], mode)
        for said in ("0.safetensors", mode, f"{MODES[mode].method.id}_svd", "concat"):
            assert said in str(caught.value)
        return
    for weight in (1.0, -0.7):
        expected = {name: weight * change for name, change in changes.items()}
        assert total_error(changes_of(merged(tmp_path, [tensors], [weight], mode)), expected) < 2e-6


@kinds
@pytest.mark.parametrize("mode", ["concat", "add_svd"])
def test_a_sum_with_plain_loras(tmp_path: Path, kind: str, mode: str) -> None:
    """Layers, biases and norms that only some have are merged from those."""
    tensors, changes = make(kind, SHAPES, seed=1)
    plain = make_lora(SHAPES, 4, 2.0, seed=2) if kind != "norms" else make("norms", SHAPES, seed=2)[0]
    del_layer = {key: tensor for key, tensor in plain.items() if not key.startswith(CLIP)}
    expected = {name: 0.5 * change for name, change in changes.items()}
    others = make("norms", SHAPES, seed=2)[1] if kind == "norms" else changes_of(plain)
    for name, change in others.items():
        if not name.startswith(CLIP):
            expected[name] = expected[name] - 2 * change
    got = merged(tmp_path, [tensors, del_layer], [0.5, -2.0], mode, svd_rank=64)
    assert total_error(changes_of(got), expected) < 2e-6


@kinds
@modes
def test_order_does_not_matter(tmp_path: Path, kind: str, mode: str) -> None:
    if refused(kind, mode):
        return
    loras = [make(kind, SHAPES, seed=1)[0], make(kind, SHAPES, seed=2)[0]]
    options = {"density": 0.5, "svd_rank": 3}
    there = merged(tmp_path, loras, [1.0, -0.4], mode, **options)
    assert same_bytes(there, merged(tmp_path, loras[::-1], [-0.4, 1.0], mode, **options))


@kinds
def test_a_saved_result_is_read_as_what_it_was(tmp_path: Path, kind: str) -> None:
    tensors, changes = make(kind, SHAPES)
    recipe = make_recipe([LoraUse(write(tmp_path / "x.safetensors", tensors))], "concat", save_dtype="float32")
    merge_to_file(recipe, tmp_path / "out.safetensors")
    with open_lora(tmp_path / "out.safetensors") as file:
        found = {name: file.read(name).delta().double() for name in (*file.layers, *file.vectors)}
    assert total_error({name: tensor.view_as(changes[name]) for name, tensor in found.items()}, changes) < 1e-6


@pytest.mark.parametrize("kind", sorted(DENSE))
def test_a_rank_makes_a_lora_of_what_has_none(tmp_path: Path, kind: str) -> None:
    tensors, changes = make(kind, {LINEAR: (300, 280)})
    got = changes_of(merged(tmp_path, [tensors], [1.0], "add_svd", svd_rank=16))
    values = torch.linalg.svdvals(changes[LINEAR])
    best = float(values[16:].norm())
    assert best <= float((got[LINEAR] - changes[LINEAR]).norm()) <= 1.001 * best


@kinds
def test_resized_to_a_rank_that_keeps_all(tmp_path: Path, kind: str) -> None:
    tensors, changes = make(kind, SHAPES)
    path = write(tmp_path / "x.safetensors", tensors)
    resize_to_file(path, tmp_path / "out.safetensors", NewRank(64), save_dtype="float32")
    resized = load_file(tmp_path / "out.safetensors")
    assert total_error(changes_of(resized), changes) < 1e-6
    weights = {key.removesuffix(".diff") for key in resized if key.endswith(".diff")}
    assert weights == {name for name, change in changes.items() if change.ndim == 1 and not name.endswith(".bias")}


@kinds
def test_analysed(tmp_path: Path, kind: str) -> None:
    """Twice the same is similar in all; biases and norms are no part of it."""
    tensors, changes = make(kind, SHAPES)
    paths = [write(tmp_path / f"{index}.safetensors", tensors) for index in range(2)]
    found = analyse(make_recipe([LoraUse(path) for path in paths], "concat"), workers=1)
    size = sum(float(change.square().sum()) for change in changes.values() if change.ndim > 1) ** 0.5
    assert found.loras[0].norm == pytest.approx(size, rel=1e-5)
    cosine = found.pairs[0].whole.cosine
    assert cosine is None if kind == "norms" else cosine == pytest.approx(1)


def test_entries_of_vectors_are_merged_by_the_method(tmp_path: Path) -> None:
    """TIES on a norm, by hand: the sign with the larger sum wins, those that agree are averaged."""
    norms = [{"x.w_norm": torch.tensor(values)} for values in ([1.0, -2.0, 3.0], [2.0, 1.0, 1.0])]
    got = merged(tmp_path, norms, [1.0, 1.0], "ties_svd")
    assert got["x.diff"].tolist() == [1.5, -2.0, 2.0]


def test_pieces_of_a_fused_weight_without_factors(tmp_path: Path) -> None:
    """LoKr on Lumina 2's qkv, and differences of q, k and v with biases: the rows meet."""
    said, fused = {"ss_base_model_version": "lumina2"}, "diffusion_model.layers.0.attention.qkv"
    generator = torch.Generator().manual_seed(1)
    small, large = (torch.randn(*sizes, generator=generator) for sizes in ((48, 48), (80, 48)))
    kronecker = {f"{fused}.lokr_w1": small, f"{fused}.lokr_w2": large, f"{fused}.diff_b": torch.ones(3840)}
    rows = {"q": (0, 2304), "k": (2304, 3072), "v": (3072, 3840)}
    apart = {}
    expected = torch.kron(small.double(), large.double())
    bias = torch.ones(3840)
    for part, (first, last) in rows.items():
        name = f"transformer.layers.0.attn.to_{part}"
        apart[f"{name}.diff"] = torch.randn(last - first, 2304, generator=generator)
        apart[f"{name}.diff_b"] = torch.randn(last - first, generator=generator)
        expected[first:last] -= 0.5 * apart[f"{name}.diff"].double()
        bias[first:last] -= 0.5 * apart[f"{name}.diff_b"]
    uses = [
        LoraUse(write(tmp_path / f"{index}.safetensors", tensors, said), strength)
        for index, (tensors, strength) in enumerate([(kronecker, 1.0), (apart, -0.5)])
    ]
    got, _ = merge(make_recipe(uses, "concat", save_dtype="float32"), workers=1)
    assert got.keys() == {f"{fused}.diff", f"{fused}.diff_b"}
    assert total_error({"": got[f"{fused}.diff"]}, {"": expected}) < 1e-6
    assert torch.allclose(got[f"{fused}.diff_b"], bias)
