"""Where a job runs: the devices there are, what happens when the memory of one is full, and that results agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import lib_pm.jobs.run
from lib_pm.core.errors import MergeInputError
from lib_pm.core.registry import MODES
from lib_pm.core.spaces import merge_layer
from lib_pm.jobs.devices import DEVICES, Device, choose_device
from lib_pm.jobs.merge import merge
from lib_pm.jobs.recipe import LoraUse, make_recipe
from lib_pm.jobs.run import default_workers
from tests.loras import deltas, make_lora, total_error, write

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
    """An entry that rounding moves over a threshold or to another sign is as small as the threshold or the sum."""
    uses = loras(tmp_path, dict.fromkeys(NAMES, (320, 280)), rank=8)
    expected, got = (
        deltas(merge(make_recipe(uses, mode, dtype=dtype, save_dtype="float32"), device=where)[0])
        for where, dtype in (("cpu", "float64"), (device, "float32"))
    )
    assert total_error(got, expected) < (1e-5 if MODES[mode].method.linear else 1e-3)


def test_unknown_device() -> None:
    with pytest.raises(MergeInputError) as caught:
        choose_device("npu")
    assert str(caught.value) == f"device is 'npu'; allowed: {', '.join(DEVICES)}."


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps"])
def test_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(MergeInputError) as caught:
        choose_device(name)
    assert str(caught.value) == f"device is {name!r}, which this machine does not have; it has: cpu."
    assert choose_device("auto") == torch.device("cpu")


@pytest.fixture
def full_gpu(monkeypatch: pytest.MonkeyPatch) -> FullGpu:
    """A GPU that says it is full at every layer but the last, if it gets an error for that. It computes as the CPU."""

    def install(error: Exception | None = None, free: int = 1 << 30) -> list[str]:
        calls: list[str] = []

        class Stream:
            def __init__(self, device: torch.device) -> None:
                self.device = device

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
            if error and device.type == "cuda" and name != NAMES[-1]:
                raise error
            return merge_layer(mode, name, shares, values, torch.device("cpu"), dtype, **how)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "stream", on)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 1 << 34))
        monkeypatch.setattr(lib_pm.jobs.run, "merge_layer", merge_on)
        return calls

    return install


@pytest.mark.parametrize(
    "error",
    [torch.cuda.OutOfMemoryError("CUDA out of memory."), RuntimeError("MPS backend out of memory (MPS allocated …)")],
    ids=["cuda", "mps"],
)
def test_auto_falls_back_to_the_cpu(tmp_path: Path, full_gpu: FullGpu, error: Exception) -> None:
    recipe = make_recipe(loras(tmp_path), "ties_svd")
    expected, plain = merge(recipe, device="cpu")
    calls = full_gpu(error)
    tensors, report = merge(recipe, workers=1)
    full = [[f"cuda {name}", f"cpu {name}"] for name in NAMES[:2]]
    assert [call for call in calls if call not in ("stream", "done")] == [*full[0], *full[1], f"cuda {NAMES[2]}"]
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert plain.notes == []
    assert report.notes == ["2 layers were done on the CPU: the device's memory was full"]
    assert "  note: 2 layers were done on the CPU: the device's memory was full" in report.to_text().splitlines()


def test_a_device_that_was_asked_for_does_not_fall_back(tmp_path: Path, full_gpu: FullGpu) -> None:
    full_gpu(torch.cuda.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(MergeInputError) as caught:
        merge(make_recipe(loras(tmp_path), "ties_svd"), device="cuda")
    assert str(caught.value) == (
        f"The memory of cuda is full at layer {NAMES[0]}; device auto puts such layers on the CPU."
    )


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
        *("stream", f"cuda {NAMES[0]}", "done"),
        f"cpu {NAMES[1]}",
        *("stream", f"cuda {NAMES[2]}", "done"),
    ]
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert report.notes == ["1 layers were done on the CPU: the device's memory was full"]
    calls.clear()
    assert merge(recipe, device="cuda", workers=1)[1].notes == []
    assert f"cuda {NAMES[1]}" in calls


def test_on_cuda_one_layer_is_copied_while_another_is_computed(full_gpu: FullGpu) -> None:
    full_gpu()
    assert {default_workers(mode, Device("auto")) for mode in MODES.values()} == {2}
