"""Analyses of files, against what dense deltas in float64 say; and what there is to say where there is nothing."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lib_pm.compare import analyse as module
from lib_pm.compare.findings import Analysis, Spectrum
from lib_pm.core.errors import MergeInputError
from lib_pm.merging.progress import Cancelled
from lib_pm.merging.recipe import LoraUse, make_recipe
from lib_pm.render.text import analysis_text, number
from tests.layouts import Shapes
from tests.loras import KOHYA, deltas, make_lora, write
from tests.messages import saying

TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
IN04 = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
MID = "lora_unet_mid_block_attentions_0_proj_in"
MID_CONV = "lora_unet_mid_block_resnets_0_conv1"
OUT11 = "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_2"
BLOCKS = {TEXT: "BASE", IN04: "IN04", MID: "MID", MID_CONV: "MID", OUT11: "OUT11"}
SHAPES: Shapes = {TEXT: (24, 16), IN04: (20, 20), MID: (24, 16), MID_CONV: (12, 8, 3, 3), OUT11: (10, 40)}


def subset(*names: str) -> Shapes:
    return {name: SHAPES[name] for name in names}


@pytest.fixture
def uses(tmp_path: Path) -> list[LoraUse]:
    """Three LoRAs of different ranks, alphas, dtypes and layers, at different strengths and block weights."""
    a = write(tmp_path / "a.safetensors", make_lora(SHAPES, 4, 2.0, seed=1, cp=[MID_CONV]))
    b = write(tmp_path / "b.safetensors", make_lora(subset(TEXT, MID, MID_CONV, OUT11), 7, seed=2, dtype=torch.float16))
    c = write(tmp_path / "c.safetensors", make_lora(subset(IN04, MID, OUT11), 16, 8.0, seed=3))
    return [LoraUse(a, 0.8, -0.5), LoraUse(b, -1.5, 1.0, "MID=0.5,OUT11=0"), LoraUse(c, 1.0)]


def analyse(uses: Sequence[LoraUse], **arguments: Any) -> Analysis:
    return module.analyse(make_recipe(uses, "concat"), **arguments)


def weighted(uses: list[LoraUse]) -> list[dict[str, np.ndarray]]:
    """The weighted deltas that there are, by layer, for the fixture's block weights."""
    factors = {"b": {"MID": 0.5, "OUT11": 0.0}}
    found = []
    for use in uses:
        block_weights = factors.get(use.name, {})
        weights = {
            name: (use.clip if name == TEXT else use.model) * block_weights.get(block, 1.0)
            for name, block in BLOCKS.items()
        }
        found.append({name: weights[name] * d.numpy() for name, d in deltas(use.path).items() if weights[name]})
    return found


def stacked(one: dict[str, np.ndarray], other: dict[str, np.ndarray], block: str = "") -> tuple[np.ndarray, np.ndarray]:
    names = [name for name in one if name in other and block in ("", BLOCKS[name])]
    return tuple(np.concatenate([[0.0], *(lora[name].ravel() for name in names)]) for lora in (one, other))


def cosine(a: np.ndarray, b: np.ndarray) -> float | None:
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms else None


def conflict(a: np.ndarray, b: np.ndarray) -> float | None:
    sizes = np.abs(a * b)
    return float(sizes[a * b < 0].sum() / sizes.sum()) if sizes.sum() else None


def close(value: float | None) -> object:
    return None if value is None else pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("workers", [1, 3])
def test_everything_is_that_of_the_dense_deltas(uses: list[LoraUse], workers: int) -> None:
    found, matrices = analyse(uses, workers=workers), weighted(uses)
    assert (found.family, found.layers, found.blocks) == ("Stable Diffusion 1", 5, ("BASE", "IN04", "MID", "OUT11"))
    for lora, mine in zip(found.loras, matrices, strict=True):
        squares = {name: float((delta**2).sum()) for name, delta in mine.items()}
        assert (lora.used, lora.norm) == (len(mine), pytest.approx(math.sqrt(sum(squares.values())), rel=1e-7))
        for block in found.blocks:
            share = sum(square for name, square in squares.items() if BLOCKS[name] == block) / sum(squares.values())
            assert lora.shares[block] == pytest.approx(share, abs=1e-7)
        assert lora.spectrum == spectrum(list(mine.values()))
    assert [lora.layers for lora in found.loras] == [5, 4, 3]
    for pair, (i, j) in zip(found.pairs, itertools.combinations(range(3), 2), strict=True):
        assert pair.names == (found.loras[i].name, found.loras[j].name)
        for block, relation in {"": pair.whole, **pair.blocks}.items():
            a, b = stacked(matrices[i], matrices[j], block)
            assert relation.cosine == close(cosine(a, b))
            assert relation.conflict == close(conflict(a, b))
            names = [n for n in matrices[i] if n in matrices[j] and block in ("", BLOCKS[n])]
            assert relation.layers == len(names)
    sums = [sum(lora[name] for lora in matrices if name in lora) for name in SHAPES]
    assert found.norm == pytest.approx(math.sqrt(sum(float((delta**2).sum()) for delta in sums)), rel=1e-7)
    assert found.spectrum == spectrum(sums)


class spectrum:  # noqa: N801 (reads as a value)
    """Equal to a Spectrum of these matrices, up to rounding."""

    def __init__(self, matrices: list[np.ndarray]) -> None:
        energies = np.zeros(max(min(matrix.shape) for matrix in matrices))
        for matrix in matrices:
            values = np.linalg.svd(matrix, compute_uv=False) ** 2
            energies[: len(values)] += values
        self.kept = np.cumsum(energies) / energies.sum()

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Spectrum)
        length = len(other.kept)
        assert np.allclose(other.kept, self.kept[:length], atol=1e-7)
        assert self.kept[length - 1] == pytest.approx(1.0)
        for percent, rank in other.ranks.items():
            assert self.kept[rank - 1] >= percent / 100 - 1e-7
            assert rank == 1 or self.kept[rank - 2] < percent / 100
        return sorted(other.ranks) == [90, 95, 99]


def test_a_recipes_mode_does_not_matter_and_its_filters_do(uses: list[LoraUse]) -> None:
    def values(found: Analysis) -> dict[str, object]:
        return found.to_json() | {"seconds": 0}

    plain = values(analyse(uses))
    assert values(module.analyse(make_recipe(uses, "dare_ties_svd", {"density": 0.1}))) == plain
    only = module.analyse(make_recipe(uses, "concat", apply="model", layers=["attn", "te"]))
    assert only.blocks == ("IN04",)
    assert [lora.used for lora in only.loras] == [1, 0, 1]


def test_one_lora_alone(uses: list[LoraUse]) -> None:
    found = analyse(uses[:1])
    assert found.pairs == ()
    assert found.loras[0].spectrum == spectrum(list(weighted(uses[:1])[0].values()))
    assert (found.norm, found.spectrum) == (pytest.approx(found.loras[0].norm), found.loras[0].spectrum)
    assert "1 LoRA for" in analysis_text(found)
    assert "sum:" not in analysis_text(found)


def test_the_same_lora_twice_and_its_opposite(uses: list[LoraUse]) -> None:
    path = uses[0].path
    found = analyse([LoraUse(path), LoraUse(path, 0.5, 0.5), LoraUse(path, -1.0, -1.0)])
    assert [lora.name for lora in found.loras] == ["a", "a (2)", "a (3)"]
    assert [pair.whole.cosine for pair in found.pairs] == [pytest.approx(sign) for sign in (1, -1, -1)]
    assert [pair.whole.conflict for pair in found.pairs] == [pytest.approx(x, abs=1e-6) for x in (0, 1, 1)]
    assert "same except for" in found.pairs[0].meaning
    assert "opposites" in found.pairs[1].meaning
    nothing = analyse([LoraUse(path), LoraUse(path, -1.0, -1.0)])
    assert (nothing.norm, nothing.spectrum.kept, nothing.spectrum.ranks) == (0, (), {})
    assert "sum: norm 0\n    energy kept: nothing" in analysis_text(nothing)


def test_no_layer_in_common(uses: list[LoraUse], tmp_path: Path) -> None:
    d = write(tmp_path / "d.safetensors", make_lora(subset(TEXT), 4, seed=4))
    found = analyse([LoraUse(d), uses[2]])
    (pair,) = found.pairs
    assert (pair.whole.layers, pair.whole.cosine, pair.whole.conflict) == (0, None, None)
    assert {relation.cosine for relation in pair.blocks.values()} == {None}
    assert "no layers in common" in pair.meaning
    assert "NaN" not in json.dumps(found.to_json())
    assert "nan" not in analysis_text(found).lower()
    # what one takes from a layer at weight 0 is not in common either
    assert analyse([LoraUse(d, 1.0, 0.0), LoraUse(d)]).pairs[0].whole.layers == 0


def test_nothing_has_a_weight(uses: list[LoraUse]) -> None:
    found = analyse([LoraUse(use.path, 0.0, 0.0) for use in uses])
    assert (found.layers, found.blocks, found.norm) == (0, (), 0)
    assert [lora.spectrum.ranks for lora in found.loras] == [{}, {}, {}]
    assert all("no layers in common" in pair.meaning for pair in found.pairs)
    json.dumps(found.to_json(), allow_nan=False)


def test_a_layer_that_is_zero(uses: list[LoraUse], tmp_path: Path) -> None:
    zero = {MID + KOHYA[0]: torch.zeros(24, 4), MID + KOHYA[1]: torch.ones(4, 16)}
    found = analyse([LoraUse(write(tmp_path / "z.safetensors", zero)), uses[2]])
    (pair,) = found.pairs
    assert (pair.whole.layers, pair.whole.cosine, pair.whole.conflict) == (1, None, None)
    assert "one is zero" in pair.meaning
    assert (found.loras[0].norm, found.loras[0].spectrum.ranks) == (0, {})
    assert found.norm == pytest.approx(found.loras[1].norm)
    json.dumps(found.to_json(), allow_nan=False)


def test_layers_outside_of_all_blocks(tmp_path: Path) -> None:
    """SD3 has no block weights here; its text encoders are still told apart from the rest."""
    names = ["lora_unet_joint_blocks_0_x_block_attn_proj", "lora_te1_text_model_encoder_layers_0_mlp_fc1"]
    tensors = [make_lora(dict.fromkeys(names, (16, 16)), 4, seed=seed) for seed in (1, 2)]
    found = analyse([LoraUse(write(tmp_path / f"{i}.safetensors", each)) for i, each in enumerate(tensors)])
    assert found.family == "an unknown model"
    assert found.blocks == ("BASE", "other")
    squares = [float((delta**2).sum()) for delta in deltas(tensors[0]).values()]
    assert found.loras[0].shares == {
        "other": pytest.approx(squares[0] / sum(squares)),
        "BASE": pytest.approx(squares[1] / sum(squares)),
    }


@pytest.mark.parametrize(
    ("value", "written"), [(None, "–"), (-0.001, "0.00"), (0.004, "0.00"), (-0.006, "-0.01"), (1.0, "1.00")]
)
def test_numbers_in_tables(value: float | None, written: str) -> None:
    assert number(value) == written


def test_bytes_do_not_depend_on_threads(uses: list[LoraUse]) -> None:
    one, four = (analyse(uses, workers=workers).to_json() | {"seconds": 0} for workers in (1, 4))
    assert json.dumps(one) == json.dumps(four)


def test_cancel_within_a_layer(uses: list[LoraUse]) -> None:
    seen = []

    def progress(done: int, total: int, name: str, unit: str = "layers") -> None:
        if unit == "layers":
            seen.append((done, total, name))
            if done == 2:
                raise Cancelled

    with pytest.raises(Cancelled):
        analyse(uses, progress=progress, workers=1)
    assert seen == [(1, 5, TEXT), (2, 5, IN04)]


def test_one_layer_is_held_at_a_time(uses: list[LoraUse], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read for a layer is gone before the one after it is read."""
    import weakref

    from lib_pm.files.reader import LoraFile

    alive: list[weakref.ref[torch.Tensor]] = []
    read, most = LoraFile.read, 0

    def counted(self: LoraFile, name: str) -> object:
        nonlocal most
        layer = read(self, name)
        alive.append(weakref.ref(layer.up))
        most = max(most, sum(ref() is not None for ref in alive))
        return layer

    monkeypatch.setattr(LoraFile, "read", counted)
    analyse(uses, workers=1)
    assert len(alive) == 11
    assert most <= 3


def test_what_is_too_large_names_lora_and_layer(uses: list[LoraUse]) -> None:
    with pytest.raises(MergeInputError, match=saying(f"{IN04} … a.safetensors, c.safetensors … smaller strengths")):
        analyse([LoraUse(large(uses[0].path, 1e17), 1e6), uses[2]], workers=1)
    with pytest.raises(MergeInputError, match=saying("a.safetensors … layer … too large")):
        analyse([LoraUse(large(uses[0].path, 1e9)), uses[2]], workers=1)


def large(path: Path, times: float) -> Path:
    return write(path, {name: tensor * times if "up" in name else tensor for name, tensor in load_file(path).items()})


def test_different_models_are_refused(uses: list[LoraUse], tmp_path: Path) -> None:
    sdxl = {"lora_unet_output_blocks_5_1_transformer_blocks_1_attn2_to_k": (24, 2048)}
    other = write(tmp_path / "xl.safetensors", make_lora(sdxl, 4))
    with pytest.raises(MergeInputError, match=saying("different models … a.safetensors … xl.safetensors")):
        analyse([uses[0], LoraUse(other)])
