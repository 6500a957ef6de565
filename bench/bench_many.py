"""Many LoRAs at once: time grows as their number does, and memory does not."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench.conftest import Row, children_cpu, run_process, usage_of_process
from bench.deltas import assert_is_the_sum
from tests import layouts
from tests.loras import make_lora, write

GB = 1e9


SOME = {"SDXL": (layouts.sdxl(), 32, 16), "SD1.5": (layouts.sd15(), 16, 100)}


@pytest.fixture(scope="module")
def many(request, tmp_path_factory) -> Iterator[tuple[str, int, list[Path]]]:
    shapes, rank, count = SOME[request.param]
    folder = tmp_path_factory.mktemp("many")
    paths = []
    for seed in range(count):
        lora = make_lora(shapes, rank, rank / 2, seed=seed, dtype=torch.float16)
        paths.append(write(folder / f"{seed}.safetensors", lora))
    yield request.param, rank, paths
    for path in paths:
        path.unlink()


@pytest.mark.benchmark(timer=children_cpu)
@pytest.mark.parametrize(
    ("many", "mode"), [("SDXL", "concat"), ("SDXL", "add_svd"), ("SD1.5", "add_svd")], indirect=["many"]
)
def test_many(pairs, many, tmp_path, mode):
    """Averages of all, at their own rank where the mode has one."""
    name, rank, paths = many
    options = ["--svd-rank", rank] if mode == "add_svd" else []

    def usage(count: int) -> tuple[float, int]:
        loras = [f"{path}:{1 / count}" for path in paths[:count]]
        return usage_of_process("-m", "lib_pm", "merge", *loras, "--mode", mode, *options, "-o", out, "--overwrite")

    out, count = tmp_path / "out.safetensors", len(paths)
    start = children_cpu()
    run_process("-c", "import lib_pm.cli")
    imports = children_cpu() - start
    few, _ = usage(count // 4)
    whole, peak = usage(count)
    size = out.stat().st_size
    assert_is_the_sum(out, paths, [1 / count] * count, rank if options else None)
    what = f"`{mode}` of {count} LoRAs, {name} rank {rank}"
    mine, other = whole - imports, 4 * (few - imports)
    pairs.rows.append(
        Row(what, mine, f"four times {count // 4} of them", other, "CPU s", mine / other, "≤ 1", less=False)
    )
    allowed, inputs = size + 1.5 * GB, sum(path.stat().st_size for path in paths)
    memory = f"peak memory of that; the inputs have {inputs / GB:.2g} GB"
    limit = f"the output of {size / GB:.2g} GB and 1.5 GB"
    pairs.rows.append(Row(memory, peak / GB, limit, allowed / GB, "GB", peak / allowed, "≤ 1", less=False))
    pairs.benchmark.pedantic(lambda: None)
    out.unlink()
    assert peak <= allowed
