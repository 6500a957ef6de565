"""Memory that is tight or full: fewer layers side by side, or an error that says how much is needed."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import lib_pm.merging.layers
from lib_pm.compare.analyse import analyse
from lib_pm.core.errors import MergeInputError
from lib_pm.core.layers import LayerShape
from lib_pm.merging import memory
from lib_pm.merging.memory import Need, free_memory
from lib_pm.merging.merge import merge, merge_to_file
from lib_pm.merging.plan import PlannedLayer
from lib_pm.merging.recipe import LoraUse, make_recipe
from lib_pm.merging.resize import NewRank, resize_to_file
from tests.loras import make_lora, write
from tests.messages import saying, says

SMALL, LARGE = "lora_unet_down_blocks_0_attentions_0_proj_in", "lora_unet_down_blocks_1_attentions_0_proj_in"
LAYERS = [PlannedLayer("small", LayerShape(2, 2), (), 1), PlannedLayer("large", LayerShape(20, 20), (), 1)]
MB = 1 << 20


def loras(folder: Path, count: int = 3, size: int = 600) -> list[LoraUse]:
    shapes = {SMALL: (24, 16), LARGE: (size, size)}
    return [LoraUse(write(folder / f"{seed}.safetensors", make_lora(shapes, 4, seed=seed))) for seed in range(count)]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets how much memory is free, in MB."""
    return lambda amount: monkeypatch.setattr(memory, "free_memory", lambda: amount * MB)


def need(layer: int, held: int = 0) -> Need:
    return Need(lambda planned: layer * planned.shape.out // 20 * MB, held * MB)


@pytest.mark.parametrize(
    ("amount", "workers"), [(math.inf, 4), (1000, 4), (500, 4), (499, 3), (250, 2), (249, 1), (100, 1)]
)
def test_as_many_workers_as_fit(free: Any, amount: float, workers: int) -> None:
    """Of 100 MB each, into four fifths of what is free; one alone may have it all."""
    free(amount)
    assert need(100).workers(4, LAYERS) == workers
    assert need(100).workers(1, LAYERS) == 1


def test_nothing_to_do_fits(free: Any) -> None:
    free(0)
    assert need(100).workers(4, []) == need(0).workers(4, LAYERS) == 4


@pytest.mark.parametrize(("held", "facts"), [(0, "100 MB … 99 MB"), (300, "100 MB … 300 MB … 399 MB")])
def test_what_does_not_fit_is_refused_with_the_numbers(free: Any, held: int, facts: str) -> None:
    free(99 + held)
    with pytest.raises(MergeInputError) as caught:
        need(100, held).workers(4, LAYERS)
    assert says(caught.value, f"large … {facts}"), caught.value


@pytest.mark.parametrize("job", ["merge", "merge_to_file", "resize", "analyse"])
def test_each_job_is_refused_before_a_layer_is_read(
    tmp_path: Path, free: Any, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    uses = loras(tmp_path)
    recipe = make_recipe(uses, "ties_svd")
    jobs = {
        "merge": lambda: merge(recipe, device="cpu"),
        "merge_to_file": lambda: merge_to_file(recipe, tmp_path / "out.safetensors", device="cpu"),
        "resize": lambda: resize_to_file(uses[0].path, tmp_path / "out.safetensors", NewRank(2), device="cpu"),
        "analyse": lambda: analyse(make_recipe(uses, "concat"), device="cpu"),
    }
    free(0.01)
    monkeypatch.setattr("lib_pm.files.reader.LoraFile.read", lambda *_: pytest.fail("read a layer"))
    with pytest.raises(MergeInputError, match=LARGE) as caught:
        jobs[job]()
    assert ("concat" in str(caught.value)) == job.startswith("merge"), "which helps only there"
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{use.path.name}" for use in uses]


def test_what_is_kept_in_memory_counts(tmp_path: Path, free: Any) -> None:
    """A merge at full rank is as large as the weights that it changes; one that goes into a file is held by layer."""
    recipe = make_recipe(loras(tmp_path, count=2, size=2000), "ties_svd", {"svd_rank": "full"}, save_dtype="float32")
    needed = memory_of_largest(recipe)
    free(needed / MB + 10)
    with pytest.raises(MergeInputError, match=saying("15 MB … result")):
        merge(recipe, device="cpu")
    free(needed / MB + 16)
    assert merge(recipe, device="cpu")[1].layers


def memory_of_largest(recipe: Any) -> int:
    with lib_pm.merging.merge.open_plan(recipe) as plan:
        device = lib_pm.merging.devices.Device("cpu")
        return max(lib_pm.merging.layers.memory_of(plan, layer, device) for layer in plan.layers)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 1.2 GiB for an array with shape (30, 13107200) and data type float32"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 1572864000 bytes. Error code 12 (Cannot allocate memory)"
        ),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: not enough memory: you tried to"),
        RuntimeError("std::bad_alloc"),
    ],
    ids=["numpy", "torch", "torch on Windows", "C++"],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_full_after_all(
    tmp_path: Path, free: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, workers: int
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    free(50)
    monkeypatch.setattr(lib_pm.merging.layers, "merge_layer", full)
    with pytest.raises(MergeInputError) as caught:
        merge(make_recipe(loras(tmp_path, size=60), "ties_svd"), device="cpu", workers=workers)
    assert says(caught.value, f"{SMALL} … 50 MB … concat"), caught.value
    assert caught.value.__cause__ is error


def test_other_errors_are_bugs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(lib_pm.merging.layers, "merge_layer", broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        merge(make_recipe(loras(tmp_path), "ties_svd"), device="cpu")


LIMITED = """
import os, resource, sys
from pathlib import Path
from lib_pm.cli import main
from lib_pm.merging import memory
beyond, told, *words = sys.argv[1:]
main([*words, "--mode", "ties", "--quiet", "-o", "first.safetensors"])  # what is loaded at first use, is
used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (used + int(beyond) * 2**20,) * 2)
if told == "untold":
    memory.free_memory = lambda: float("inf")
sys.exit(main([*words, "--mode", "ties_svd", "--threads", "2", "--quiet", "-o", "out.safetensors"]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits of addresses are Linux's")
@pytest.mark.parametrize(
    ("beyond", "told", "code", "said"),
    # 8 deltas of 1800 × 1800 in float32 are 99 MB
    [(90, "told", 2, ["needs about", LARGE]), (60, "untold", 2, ["Out of memory", LARGE]), (2000, "told", 0, [])],
    ids=["too little", "too little, and nothing known of it", "enough"],
)
def test_under_a_limit(tmp_path: Path, beyond: int, told: str, code: int, said: list[str]) -> None:
    uses = loras(tmp_path, count=8, size=1800)
    process = subprocess.run(
        [sys.executable, "-c", LIMITED, str(beyond), told, "merge", *(str(use.path) for use in uses)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stderr.count("\n")) == (code, 1 if code else 0), process.stderr
    assert all(words in process.stderr for words in said)
    assert (tmp_path / "out.safetensors").exists() == (code == 0)


def files(root: Path, **texts: str) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    4096 kB\n", **texts}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda what: (resource.RLIM_INFINITY,) * 2)


@pytest.mark.usefixtures("no_limit")
def test_free_memory_of_the_machine(tmp_path: Path) -> None:
    assert free_memory(tmp_path) == math.inf, "where there is no telling"
    assert free_memory(files(tmp_path)) == 4 * MB


@pytest.mark.usefixtures("no_limit")
@pytest.mark.parametrize("most", [2 * MB, 100 * MB, 5])
def test_free_memory_of_a_container(tmp_path: Path, most: int) -> None:
    """Files that were read count as used, and give way."""
    group = "sys/fs/cgroup/system.slice"
    texts = {
        "proc/self/cgroup": "0::/system.slice/webui.service\n",
        f"{group}/webui.service/memory.max": "max\n",
        f"{group}/webui.service/memory.current": f"{MB}\n",
        f"{group}/memory.max": f"{most}\n",
        f"{group}/memory.current": f"{MB}\n",
        f"{group}/memory.stat": f"anon 77\ninactive_file {MB // 4}\nactive_file {MB // 4}\n",
    }
    assert free_memory(files(tmp_path, **texts)) == {2 * MB: 1.5 * MB, 100 * MB: 4 * MB, 5: 0}[most]


@pytest.mark.usefixtures("no_limit")
def test_free_memory_of_an_older_container(tmp_path: Path) -> None:
    """Whose group has outside a name that is not there inside."""
    group = "sys/fs/cgroup/memory"
    texts = {
        "proc/self/cgroup": "9:cpu,cpuacct:/docker/abc\n8:memory:/docker/abc\n",
        f"{group}/memory.limit_in_bytes": f"{2 * MB}\n",
        f"{group}/memory.usage_in_bytes": f"{MB}\n",
    }
    assert free_memory(files(tmp_path, **texts)) == MB


def test_free_memory_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda what: (103 * MB, resource.RLIM_INFINITY))
    assert free_memory(files(tmp_path, **{"proc/self/status": "VmPeak:  9 kB\nVmSize:\t   30720 kB\n"})) == MB


@pytest.mark.parametrize("mode", ["ties_svd", "concat", "add_svd", "ties", "dare_linear_svd"])
def test_the_estimate_is_no_less_than_what_is_there_in_any_case(mode: str) -> None:
    """The stack of deltas, or the factors of all LoRAs."""
    shape, ranks = LayerShape(640, 320), [16] * 4
    values = {"svd_rank": 16} if mode.endswith("svd") else {}
    chosen = lib_pm.core.registry.MODES[mode]
    found = lib_pm.core.merge_layer.memory_needed(chosen, shape, ranks, values, torch.float32)
    dense = mode.endswith("svd") and mode != "add_svd"
    assert found >= (4 * 4 * 640 * 320 if dense else 2 * 4 * 64 * 960)
    assert lib_pm.core.merge_layer.memory_needed(chosen, shape, ranks * 2, values, torch.float32) > found
