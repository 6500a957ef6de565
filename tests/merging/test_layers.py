"""Layers side by side: their order, how many at a time, how they stop, where they run."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lib_pm.core.errors import MergeInputError
from lib_pm.core.layers import LayerShape
from lib_pm.core.registry import MODES
from lib_pm.files.writer import StreamWriter
from lib_pm.merging.devices import Device
from lib_pm.merging.layers import Finished, default_workers, run_layers
from lib_pm.merging.merge import merge, merge_to_file
from lib_pm.merging.plan import PlannedLayer
from lib_pm.merging.progress import Cancelled, silent
from lib_pm.merging.recipe import LoraUse, make_recipe
from lib_pm.merging.resize import NewRank, resize_to_file
from tests.loras import delta, deltas, make_lora, relative_error, total_error, write
from tests.messages import says

LAYERS = [PlannedLayer(f"layer {index}", LayerShape(4, 4), (), 4) for index in range(12)]
NAMES = [f"lora_unet_down_blocks_{level}_attentions_0_proj_in" for level in range(3)]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """So that a setting of the process's shows."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def done(planned: PlannedLayer) -> Finished:
    return Finished(planned, {}, 1, 1, 0.0, 0.0)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_order(workers: int) -> None:
    """Even when the first layer takes longest."""
    others = threading.Event()

    def work(planned: PlannedLayer) -> Finished:
        if workers > 1 and planned is LAYERS[0]:
            assert others.wait(5)
        elif planned is LAYERS[1]:
            others.set()
        return done(planned)

    seen: list[tuple[int, int, str]] = []
    results = list(run_layers(LAYERS, work, lambda *step: seen.append(step), workers))
    assert [planned for planned, _ in results] == LAYERS
    assert all(finished and finished.planned is planned for planned, finished in results)
    assert seen == [(index + 1, 12, layer.name) for index, layer in enumerate(LAYERS)]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_only_a_few_layers_are_held(workers: int) -> None:
    begun: list[str] = []

    def work(planned: PlannedLayer) -> Finished:
        begun.append(planned.name)
        return done(planned)

    for count, _ in enumerate(run_layers(LAYERS, work, silent, workers)):
        assert len(begun) - count <= 2 * workers
    assert len(begun) == len(LAYERS)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("where", ["work", "progress", "caller"])
def test_stopping_cancels_what_has_not_begun(workers: int, where: str) -> None:
    begun: list[str] = []

    def work(planned: PlannedLayer) -> Finished:
        begun.append(planned.name)
        if where == "work" and planned is LAYERS[3]:
            raise Cancelled
        if planned in LAYERS[4:]:
            time.sleep(0.3)  # time enough to cancel what waits behind them
        return done(planned)

    def progress(done: int, total: int, layer: str) -> None:
        if where == "progress" and done == 4:
            raise Cancelled

    with pytest.raises(Cancelled), closing(run_layers(LAYERS, work, progress, workers)) as results:  # noqa: PT012
        for planned, _ in results:
            assert torch.get_num_threads() == 2
            if where == "caller" and planned is LAYERS[3]:
                raise Cancelled
    assert torch.get_num_threads() == 2
    assert len(begun) <= 4 + workers
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("power-merger")]


def test_one_worker_for_what_is_linear() -> None:
    cpu = Device("cpu")
    assert {default_workers(mode, cpu) for mode in MODES.values() if mode.method.linear} == {1}
    assert 1 <= default_workers(MODES["ties_svd"], cpu) <= 4


def loras(folder: Path, count: int = 2, rank: int = 4, **how: Any) -> list[LoraUse]:
    shapes = dict.fromkeys(NAMES, (24, 16))
    return [
        LoraUse(write(folder / f"{index}.safetensors", make_lora(shapes, rank, seed=index, **how)))
        for index in range(count)
    ]


def resize(use: LoraUse, target: Path, workers: int) -> None:
    resize_to_file(use.path, target, NewRank(2), workers=workers)


def merge_one(use: LoraUse, target: Path, workers: int) -> None:
    merge_to_file(make_recipe([use], "ties"), target, workers=workers)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("job", [merge_one, resize])
def test_failing_to_write_stops_the_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Callable[..., None], workers: int
) -> None:
    """While the error is still looked at, with all frames that it went through, nothing runs on any more."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(StreamWriter, "add", full)
    (use,) = loras(tmp_path, count=1)
    with pytest.raises(OSError, match="full") as caught:
        job(use, tmp_path / "out.safetensors", workers)
    assert caught.traceback
    assert torch.get_num_threads() == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("power-merger")]


@pytest.mark.parametrize("mode", ["concat", "dare_ties_svd"])
def test_memory_and_file_hold_the_same(tmp_path: Path, mode: str) -> None:
    recipe = make_recipe(loras(tmp_path), mode)
    tensors, _ = merge(recipe, workers=2)
    merge_to_file(recipe, tmp_path / "out.safetensors", workers=1)
    written = load_file(tmp_path / "out.safetensors")
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("workers", [0, -1])
def test_workers_that_there_cannot_be(tmp_path: Path, workers: int) -> None:
    with pytest.raises(MergeInputError) as caught:
        merge(make_recipe(loras(tmp_path), "concat"), workers=workers)
    assert says(caught.value, f"threads … {workers} … a whole number … 1"), caught.value


def test_alpha_is_exact_in_bfloat16_and_one_for_all(tmp_path: Path) -> None:
    """bfloat16 has 8 bits: 257 would become 256, and the LoRA too strong by 0.4 %."""
    one, two = make_lora({NAMES[0]: (300, 310)}, 256), make_lora({NAMES[1]: (300, 310)}, 257)
    uses = [LoraUse(write(tmp_path / f"{len(t)}{n}.safetensors", t)) for n, t in enumerate((one, two))]
    merge_to_file(make_recipe(uses, "concat", save_dtype="bfloat16"), tmp_path / "out.safetensors")
    written = load_file(tmp_path / "out.safetensors")
    alphas = {name: written[f"{name}.alpha"] for name in NAMES[:2]}
    assert [float(alpha) for alpha in alphas.values()] == [513, 513]  # the sum of both ranks
    assert [alpha.dtype for alpha in alphas.values()] == [torch.float32, torch.float32]
    for name, tensors in zip(NAMES, (one, two), strict=False):
        assert relative_error(delta(written, name), delta(tensors, name)) < 4e-3


def test_overflow_names_layer_and_loras(tmp_path: Path) -> None:
    use, other = loras(tmp_path)
    write(use.path, {name: tensor * 1e6 for name, tensor in load_file(use.path).items()})
    recipe = make_recipe([use, other], "concat")
    with pytest.raises(MergeInputError) as caught:
        merge_to_file(recipe, tmp_path / "out.safetensors")
    facts = f"{NAMES[0]} … 0.safetensors, 1.safetensors … value … factor … float16 … 6.55e+04"
    assert says(caught.value, f"{facts} … smaller strengths … float32 … bfloat16"), caught.value
    assert not (tmp_path / "out.safetensors").exists()
    recipe = make_recipe(recipe.loras, "concat", save_dtype="bfloat16")
    assert merge(recipe)[1].loras[0].used == 3


def test_float8_merges_with_float16(tmp_path: Path) -> None:
    use, other = loras(tmp_path, dtype=torch.float16)
    eight = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(other.path).items()}
    write(other.path, eight)
    tensors, _ = merge(make_recipe([use, other], "concat", save_dtype="float32"))
    one, two = deltas(use.path), deltas(other.path)
    assert total_error(deltas(tensors), {name: one[name] + two[name] for name in one}) < 1e-6


def test_float16_on_the_cpu_is_float32_and_says_so(tmp_path: Path) -> None:
    uses = loras(tmp_path)
    expected, plain = merge(make_recipe(uses, "ties_svd"), device="cpu")
    tensors, report = merge(make_recipe(uses, "ties_svd", dtype="float16"), device="cpu")
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert plain.notes == []
    (note,) = report.notes
    assert says(note, "float32 … CPU … slow … float16")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_dtypes_of_the_computation(tmp_path: Path, mode: str, dtype: str) -> None:
    """Eight bits of bfloat16 leave an error of a few percent at most where entries are neither pruned nor elected."""
    uses = loras(tmp_path)
    options = {"density": 1.0} if "density" in MODES[mode].options and "ties" not in mode else {}
    expected, got = (deltas(merge(make_recipe(uses, mode, options, dtype=d))[0]) for d in ("float32", dtype))
    if "ties" in mode:
        assert got.keys() == expected.keys()
    else:
        assert total_error(got, expected) < (3e-2 if dtype == "bfloat16" else 1e-3)
