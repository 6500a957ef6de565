"""Whole merges as a process of their own, against reading the inputs and writing an output of that size."""

from pathlib import Path

import pytest
import torch

from tests.bench.conftest import Row, children_cpu, peak_of_process, run_process
from tests.loras import deltas

FLOOR = Path(__file__).with_name("floor.py")


@pytest.mark.benchmark(timer=children_cpu)
@pytest.mark.parametrize(
    ("name", "mode", "rank", "rounds", "limit"),
    [("sd15", "add_svd", 16, 9, 1.3), ("sdxl", "concat", 32, 3, None), ("sdxl", "add_svd", 32, 3, None)],
)
def test_whole_merge_against_the_floor(pairs, files, tmp_path, name, mode, rank, rounds, limit):
    out, copy = tmp_path / "out.safetensors", tmp_path / "copy.safetensors"
    inputs = files[name]
    options = ["--svd-rank", rank] if mode == "add_svd" else []
    command = ["-m", "lib_pm", "merge", f"{inputs[0]}:1", f"{inputs[1]}:0.7", "--mode", mode, *options, "-o", out]
    run_process(*command)
    size = out.stat().st_size
    check(out, inputs, mode, rank)
    ours, floor = (*command, "--overwrite", "--quiet"), (FLOOR, copy, size, *inputs)
    mine, other, ratio = pairs.run(lambda: run_process(*ours), lambda: run_process(*floor), children_cpu, rounds)
    target = f"≤ {limit} ×" if limit else ""
    what = f"whole `{mode}`, {name} rank {rank} × 2"
    pairs.rows.append(Row(what, mine, "read inputs, write output", other, "CPU s", ratio, target, less=False))
    memory, other_memory = (peak_of_process(*each) / 2**20 for each in (ours, floor))
    output = size / 2**20
    target_memory = f"≤ that + the output ({output:.0f} MB)"
    pairs.rows.append(
        Row(
            f"peak memory of `{mode}`, {name}",
            memory,
            "the same",
            other_memory,
            "MB",
            memory / other_memory,
            target_memory,
            less=False,
        )
    )
    assert memory <= other_memory + output
    assert limit is None or ratio <= limit


def check(out: Path, inputs: list[Path], mode: str, rank: int) -> None:
    """A few layers against the float64 sum."""
    merged, *sources = (deltas_of_some(path) for path in (out, *inputs))
    for layer, got in merged.items():
        expected = sources[0][layer] + 0.7 * sources[1][layer]
        values = torch.linalg.svdvals(expected)
        best = float(values[rank:].norm()) if mode == "add_svd" else 0.0
        assert float((got - expected).norm()) <= best * 1.001 + 3e-4 * float(values.norm())


def deltas_of_some(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        keys = [key for key in file.keys() if "attn1_to_q" in key or "encoder_layers_3_mlp" in key]  # noqa: SIM118
        return deltas({key: file.get_tensor(key) for key in keys[:12]})
