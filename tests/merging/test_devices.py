"""Where a job runs: the devices there are, what happens when the memory of one is full, and that results agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import lib_pm.merging.layers
from lib_pm.core.errors import MergeInputError
from lib_pm.core.merge_layer import merge_layer
from lib_pm.core.registry import MODES
from lib_pm.merging.devices import DEVICES, Device, choose_device
from lib_pm.merging.layers import default_workers
from lib_pm.merging.merge import merge
from lib_pm.merging.recipe import LoraUse, make_recipe
from lib_pm.render.text import report_text
from tests.loras import deltas, make_lora, total_error, write
from tests.messages import saying, says

NAMES = [f"lora_unet_down_blocks_{level}_attentions_0_proj_in" for level in range(3)]
FullGpu = Callable[..., list[str]]
HERE = [name for name in DEVICES[1:] if name == "cpu" or getattr(torch, name).is_available()]


def loras(folder: Path, shapes: dict[str, tuple[int, ...]] | None = None, rank: int = 4) -> list[LoraUse]:
    shapes = shapes or dict.fromkeys(NAMES, (24, 16))
    return [
        LoraUse(write(folder / f"{index}.safetensors", make_lora(shapes, rank, seed=index)), weight, weight)
        for index, weight in enumerate((1.0, 0.7))
    ]


@pytest.mark.parametrize("device", HERE)
@pytest.mark.parametrize("mode", MODES)
def test_float32_on_every_device_is_float64_on_the_cpu(tmp_path: Path, mode: str, device: str) -> None:
    """Linear modes to the rounding of float32; in others that may move an entry over a threshold or to another sign.

    One such entry, of 270,000 of its size, is 2e-3 of the norm: on another processor it may be a few.
    """
    uses = loras(tmp_path, dict.fromkeys(NAMES, (320, 280)), rank=8)
    expected, got = (
        deltas(merge(make_recipe(uses, mode, dtype=dtype, save_dtype="float32"), device=where)[0])
        for where, dtype in (("cpu", "float64"), (device, "float32"))
    )
    assert total_error(got, expected) < (1e-5 if MODES[mode].method.linear else 1e-2)


def test_unknown_device() -> None:
    with pytest.raises(MergeInputError) as caught:
        choose_device("npu")
    assert says(caught.value, f"device … 'npu' … {', '.join(DEVICES)} … cuda:1"), caught.value


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps"])
def test_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(MergeInputError) as caught:
        choose_device(name)
    assert says(caught.value, f"device … {name!r} … machine … has: cpu."), caught.value
    assert choose_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    "name", ["cpu:x", "cpu:", "cuda:-1", "cuda:1.5", "cuda:\u0661", "cuda:" + "9" * 5000, "", None]
)
def test_what_is_no_device(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    gpus(monkeypatch, 2)
    with pytest.raises(MergeInputError) as caught:
        choose_device(name)
    assert says(caught.value, f"device … {name!r} … auto, cpu, cuda, mps"), caught.value


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: count - 1)


def test_one_of_several_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(MergeInputError, match=saying("'cuda:2' … has: cpu, cuda:0, cuda:1.")):
        choose_device("cuda:2")
    with pytest.raises(MergeInputError, match=saying("'cpu:1' … has: cpu, cuda:0, cuda:1.")):
        choose_device("cpu:1")


def test_auto_is_cuda_or_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has run MPS yet: it has to be asked for."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    gpus(monkeypatch, 0)
    assert choose_device("auto") == torch.device("cpu")
    assert choose_device("mps") == torch.device("mps")
    gpus(monkeypatch, 1)
    assert choose_device("auto") == torch.device("cuda")


def test_the_callers_gpu_is_the_one_of_all_workers(monkeypatch: pytest.MonkeyPatch, full_gpu: FullGpu) -> None:
    """Each thread has a current GPU of its own, the first to begin with."""
    full_gpu()
    gpus(monkeypatch, 2)
    seen: list[torch.device] = []
    Device("cuda").run("layer", 0, seen.append)
    assert seen == [torch.device("cuda", 1)]


@pytest.fixture
def full_gpu(monkeypatch: pytest.MonkeyPatch) -> FullGpu:
    """A GPU that raises the error, if it gets one, at every layer but the last. It computes as the CPU."""

    def install(error: Exception | None = None, free: int = 1 << 30, kind: str = "cuda") -> list[str]:
        calls: list[str] = []

        class Stream:
            def __init__(self, device: torch.device) -> None:
                calls.append("new stream")

            def synchronize(self) -> None:
                calls.append("done")

        @contextmanager
        def on(stream: Stream) -> Iterator[None]:
            calls.append("stream")
            yield

        def merge_on(
            mode: Any, name: str, shares: Any, values: Any, device: torch.device, dtype: torch.dtype, **how: Any
        ) -> Any:
            calls.append(f"{device.type} {name}")
            if error and device.type == kind and name != NAMES[-1]:
                raise error
            return merge_layer(mode, name, shares, values, torch.device("cpu"), dtype, **how)

        gpus(monkeypatch, 1 if kind == "cuda" else 0)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "stream", on)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 1 << 34))
        monkeypatch.setattr(lib_pm.merging.layers, "merge_layer", merge_on)
        return calls

    return install


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("CUDA out of memory."), RuntimeError("out of memory")])
def test_auto_falls_back_to_the_cpu(tmp_path: Path, full_gpu: FullGpu, error: Exception) -> None:
    recipe = make_recipe(loras(tmp_path), "ties_svd")
    expected, plain = merge(recipe, device="cpu")
    calls = full_gpu(error)
    tensors, report = merge(recipe, workers=1)
    full = [[f"cuda {name}", f"cpu {name}"] for name in NAMES[:2]]
    assert [call for call in calls if " lora" in call] == [*full[0], *full[1], f"cuda {NAMES[2]}"]
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert plain.notes == []
    (note,) = report.notes
    assert says(note, "2 layers … CPU … memory")
    assert f"  note: {note}" in report_text(report).splitlines()


@pytest.mark.parametrize(
    ("error", "facts"),
    [
        (
            NotImplementedError(
                "The operator 'aten::kthvalue.values' is not currently implemented for the MPS device."
            ),
            "mps … not support … (The operator 'aten::kthvalue.values'",
        ),
        (
            TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."),
            "mps … not support … (Cannot convert a MPS Tensor to float64",
        ),
        (RuntimeError("MPS: mm op not supported for Double"), "mps … not support … (MPS: mm op"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), "out of memory"),
    ],
    ids=["operation", "dtype", "operation of a dtype", "memory"],
)
def test_mps_falls_back_to_the_cpu(tmp_path: Path, full_gpu: FullGpu, error: Exception, facts: str) -> None:
    recipe = make_recipe(loras(tmp_path), "ties_svd")
    expected, _ = merge(recipe, device="cpu")
    calls = full_gpu(error, kind="mps")
    tensors, report = merge(recipe, device="mps", workers=1)
    full = [[f"mps {name}", f"cpu {name}"] for name in NAMES[:2]]
    assert calls == [*full[0], *full[1], f"mps {NAMES[2]}"]
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    (note,) = report.notes
    assert says(note, f"2 layers … CPU … {facts}"), note


@pytest.mark.parametrize("error", [TypeError("unsupported operand"), RuntimeError("illegal instruction")])
def test_bugs_on_mps_are_bugs(tmp_path: Path, full_gpu: FullGpu, error: Exception) -> None:
    full_gpu(error, kind="mps")
    with pytest.raises(type(error), match=str(error)):
        merge(make_recipe(loras(tmp_path), "ties_svd"), device="mps")


def test_a_worker_has_one_stream(tmp_path: Path, full_gpu: FullGpu) -> None:
    """torch keeps memory apart for each stream: one per layer would let none of it be used again."""
    calls = full_gpu()
    recipe = make_recipe(loras(tmp_path), "ties_svd")
    merge(recipe, workers=1)
    assert calls.count("new stream") == 1
    assert calls.count("stream") == calls.count("done") == len(NAMES)


def test_a_device_that_was_asked_for_does_not_fall_back(tmp_path: Path, full_gpu: FullGpu) -> None:
    full_gpu(torch.cuda.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(MergeInputError) as caught:
        merge(make_recipe(loras(tmp_path), "ties_svd"), device="cuda")
    assert says(caught.value, f"cuda … memory … {NAMES[0]} … device auto … CPU"), caught.value


def test_other_errors_are_no_full_memory(tmp_path: Path, full_gpu: FullGpu) -> None:
    full_gpu(RuntimeError("illegal instruction"))
    with pytest.raises(RuntimeError, match="illegal instruction"):
        merge(make_recipe(loras(tmp_path), "ties_svd"))


def test_a_layer_that_would_not_fit_is_not_tried(tmp_path: Path, full_gpu: FullGpu) -> None:
    """So that what the device holds beside the merge keeps its place; small layers stay there."""
    uses = loras(tmp_path, {NAMES[0]: (24, 16), NAMES[1]: (900, 700), NAMES[2]: (24, 16)})
    recipe = make_recipe(uses, "ties_svd")
    expected, _ = merge(recipe, device="cpu")
    calls = full_gpu(free=20 * 900 * 700)
    tensors, report = merge(recipe, workers=1)
    assert calls == [
        *("new stream", "stream", f"cuda {NAMES[0]}", "done"),
        f"cpu {NAMES[1]}",
        *("stream", f"cuda {NAMES[2]}", "done"),
    ]
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    (note,) = report.notes
    assert says(note, "1 layer … CPU … memory")
    calls.clear()
    assert merge(recipe, device="cuda", workers=1)[1].notes == []
    assert f"cuda {NAMES[1]}" in calls


def test_on_cuda_one_layer_is_copied_while_another_is_computed(full_gpu: FullGpu) -> None:
    full_gpu()
    assert {default_workers(mode, Device("auto")) for mode in MODES.values()} == {2}
