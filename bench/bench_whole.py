"""Whole merges as a process of their own, against reading the inputs and writing an output of that size."""

from pathlib import Path

import pytest

from bench.conftest import Row, children_cpu, run_process, usage_of_process
from bench.deltas import assert_is_the_sum

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
    assert_is_the_sum(out, inputs, (1.0, 0.7), rank if options else None)
    ours, floor = (*command, "--overwrite", "--quiet"), (FLOOR, copy, size, *inputs)
    mine, other, ratio = pairs.run(lambda: run_process(*ours), lambda: run_process(*floor), children_cpu, rounds)
    target = f"≤ {limit} ×" if limit else ""
    what = f"whole `{mode}`, {name} rank {rank} × 2"
    pairs.rows.append(Row(what, mine, "read inputs, write output", other, "CPU s", ratio, target, less=False))
    memory, other_memory = (usage_of_process(*each)[1] / 2**20 for each in (ours, floor))
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
