"""The report's numbers, against what the files and a float64 SVD say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lib_pm.merging.merge import merge, merge_to_file
from lib_pm.merging.recipe import LoraUse, make_recipe
from lib_pm.merging.report import peak_memory
from lib_pm.render.text import report_text
from tests.layouts import Shapes
from tests.loras import deltas, make_lora, write

TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
IN03, MID = "lora_unet_down_blocks_0_downsamplers_0_conv", "lora_unet_mid_block_attentions_0_proj_in"
OUT11 = "lora_unet_up_blocks_3_attentions_2_proj_in"
ONE: Shapes = {TEXT: (24, 16), MID: (24, 16), OUT11: (20, 30)}
TWO: Shapes = {MID: (24, 16), IN03: (12, 8, 3, 3)}


@pytest.fixture
def uses(tmp_path: Path) -> list[LoraUse]:
    one = write(tmp_path / "one.safetensors", make_lora(ONE, 4, 2.0))
    two = write(tmp_path / "two.safetensors", make_lora(TWO, 6, seed=1))
    three = write(tmp_path / "three.safetensors", make_lora({OUT11: (20, 30)}, 5))
    return [LoraUse(one, 0.8, 0.0), LoraUse(two, -0.5, -0.5, ",".join(["1"] * 17)), LoraUse(three, 0.0)]


def test_counts(uses: list[LoraUse]) -> None:
    _, report = merge(make_recipe(uses, "concat"))
    one, two, three = report.loras
    assert (one.name, one.layers, one.used, one.off_by_block) == ("one", 3, 2, [])
    assert (two.name, two.layers, two.used, two.off_by_block) == ("two", 2, 1, [IN03])
    assert (three.name, three.layers, three.used, three.off_by_block) == ("three", 1, 0, [])
    assert {layer.name: (layer.rank, layer.loras) for layer in report.layers} == {MID: (10, 2), OUT11: (4, 1)}
    assert report.left_out == {TEXT: "every weight is 0", IN03: "every weight is 0"}
    assert all(layer.kept_energy is None for layer in report.layers)
    assert report.kept_energy is None


def test_kept_energy(uses: list[LoraUse]) -> None:
    _, report = merge(make_recipe(uses, "add_svd", {"rank": 3, "lambda": 2}))
    one, two = deltas(uses[0].path), deltas(uses[1].path)
    expected = {MID: 0.8 * one[MID] - 0.5 * two[MID], OUT11: 0.8 * one[OUT11]}
    kept = total = 0.0
    for layer in report.layers:
        energies = torch.linalg.svdvals(expected[layer.name]).square()
        assert layer.rank == 3
        assert layer.kept_energy == pytest.approx(float(energies[:3].sum() / energies.sum()), rel=1e-9)
        kept, total = kept + float(energies[:3].sum()), total + float(energies.sum())
    assert report.kept_energy == pytest.approx(kept / total, rel=1e-9)


@pytest.mark.parametrize("mode", ["ties_svd", "dare_linear_svd"])
def test_kept_energy_is_a_share(uses: list[LoraUse], mode: str) -> None:
    _, report = merge(make_recipe(uses, mode, {"rank": 2}))
    energies = [layer.kept_energy for layer in report.layers]
    assert all(energy is not None and 0 < energy < 1 for energy in energies)
    assert report.kept_energy is not None
    assert min(energies) < report.kept_energy < max(energies)


def test_convolutions_that_conv_rank_0_leaves_out(tmp_path: Path) -> None:
    path = write(tmp_path / "two.safetensors", make_lora(TWO, 6))
    tensors, report = merge(make_recipe([LoraUse(path)], "add_svd", {"conv_rank": 0}))
    assert report.left_out == {IN03: "convolutions, because svd_conv_rank is 0"}
    assert not any(name.startswith(IN03) for name in tensors)
    assert report.loras[0].used == 1
    (line,) = (line for line in report_text(report).splitlines() if line.startswith("  left out:"))
    assert all(fact in line for fact in ("1 layer,", "convolutions", "svd_conv_rank is 0", IN03))


def test_json_has_all_of_it(uses: list[LoraUse], tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    report = merge_to_file(make_recipe(uses, "add_svd", {"rank": 3}), target)
    value = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert value["what"] == "Add (SVD) of 3 LoRAs (svd_rank 3, lambda 1)"
    assert value["loras"] == [
        {"name": "one", "layers": 3, "used": 2, "off_by_block": [], "without_alpha": 0},
        {"name": "two", "layers": 2, "used": 1, "off_by_block": [IN03], "without_alpha": 2},
        {"name": "three", "layers": 1, "used": 0, "off_by_block": [], "without_alpha": 1},
    ]
    assert [layer["name"] for layer in value["layers"]] == [MID, OUT11]
    assert all(layer["rank"] == 3 and 0 < layer["kept_energy"] < 1 for layer in value["layers"])
    assert value["left_out"].keys() == {TEXT, IN03}
    assert 0 < value["kept_energy"] < 1
    assert value["notes"] == []
    assert value["seconds"] > 0
    assert value["file"] == str(target)
    assert value["size"] == target.stat().st_size


def test_peak_memory(uses: list[LoraUse]) -> None:
    """Torch alone takes more than 50 MB, and less than a terabyte: the unit is bytes on every system."""
    _, report = merge(make_recipe(uses, "concat"))
    assert report.peak_memory is not None
    assert 50e6 < report.peak_memory < 1e12
    assert f"peak memory {report.peak_memory / 2**20:.0f} MB" in report_text(report)


@pytest.mark.parametrize(
    ("system", "told", "expected"),
    [("win32", None, None), ("darwin", 123456789, 123456789), ("freebsd13", 123456, 123456 * 1024)],
)
def test_peak_memory_elsewhere(
    uses: list[LoraUse], monkeypatch: pytest.MonkeyPatch, system: str, told: int | None, expected: int | None
) -> None:
    """Windows has no module for it, macOS counts bytes, others kilobytes."""
    usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda _: SimpleNamespace(ru_maxrss=told))
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setitem(sys.modules, "resource", usage if told else None)
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    assert peak_memory() == expected
    monkeypatch.undo()
    monkeypatch.setattr("lib_pm.merging.report.peak_memory", lambda: expected)
    _, report = merge(make_recipe(uses, "concat"))
    assert ("peak memory" in report_text(report)) == (expected is not None)


def test_nothing_is_left(uses: list[LoraUse]) -> None:
    """In memory an empty merge is no error: a strength of 0 in the middle of a plot is one of its cells."""
    zero = [LoraUse(use.path, 0.0, 0.0) for use in uses]
    tensors, report = merge(make_recipe(zero, "concat"))
    assert tensors == {}
    assert "  result: 0 layers, rank none" in report_text(report).splitlines()
