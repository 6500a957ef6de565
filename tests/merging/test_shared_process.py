"""What a merge leaves to the others of its process: torch's threads, and how it multiplies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from lib_pm.merging import threads
from lib_pm.merging.layers import run_layers
from lib_pm.merging.merge import merge
from lib_pm.merging.plan import PlannedLayer
from lib_pm.merging.precision import Settings, full_precision
from lib_pm.merging.progress import silent
from lib_pm.merging.recipe import LoraUse, make_recipe
from tests.loras import make_lora, write
from tests.merging.test_layers import LAYERS

NAMES = [f"lora_unet_down_blocks_{level}_attentions_0_proj_in" for level in range(3)]
Value = TypeVar("Value")
new_settings = pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch has them from 2.9 on"
)


def loras(folder: Path) -> list[LoraUse]:
    shapes = dict.fromkeys(NAMES, (320, 280))
    return [LoraUse(write(folder / f"{seed}.safetensors", make_lora(shapes, 8, seed=seed))) for seed in range(2)]


def on_a_thread(work: Callable[[], Value]) -> Value:
    """What a thread finds that touches torch for the first time."""
    found: list[Value] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture(autouse=True)
def host() -> Iterator[None]:
    """Torch's threads and precision as a host may have set them; put back at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)
    as_fresh()


def as_fresh() -> None:
    torch.set_float32_matmul_precision("highest")
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        for holder in (torch.backends.mkldnn.matmul, torch.backends.cuda.matmul, torch.backends):
            holder.fp32_precision = "none"


def overlapping(job: Callable[[Callable[[], object]], None]) -> None:
    """The job twice at once; the first to begin is the first to end. It calls what it is given when it is inside."""
    began, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        job(lambda: (began.set(), may_end.wait(10)))
        ended.set()

    def inside_the_second() -> None:
        may_end.set()
        assert ended.wait(10)

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(first)]
        assert began.wait(10)
        futures.append(pool.submit(job, inside_the_second))
        for future in futures:
            future.result()


@pytest.mark.parametrize("workers", [1, 2])
def test_each_layer_is_computed_on_one_thread_and_others_keep_theirs(workers: int) -> None:
    seen: set[tuple[int, int, int]] = set()

    def work(layer: PlannedLayer) -> tuple[str, int]:
        return threading.current_thread().name, torch.get_num_threads()

    for _, (name, own) in run_layers(LAYERS, work, silent, workers):
        assert name.startswith("power-merger"), "never the caller's: it has other numbers set"
        seen.add((own, torch.get_num_threads(), on_a_thread(torch.get_num_threads)))
    assert seen == {(1, 3, 3)}
    assert (torch.get_num_threads(), on_a_thread(torch.get_num_threads)) == (3, 3)


def test_each_library_below_torch_computes_alone_too() -> None:
    with threads.own_threads(1) as pool:
        assert pool.submit(threads.is_alone).result()
    assert not threads.is_alone()
    assert not on_a_thread(threads.is_alone)


def test_where_the_libraries_are_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_setters", list)
    with threads.own_threads(1) as pool:
        assert pool.submit(threads.is_alone).result()
        assert (torch.get_num_threads(), on_a_thread(torch.get_num_threads)) == (3, 3)


def test_overlapping_merges_leave_threads_alone(tmp_path: Path) -> None:
    recipe = make_recipe(loras(tmp_path), "ties")

    def job(inside: Callable[[], object]) -> None:
        merge(
            recipe,
            device="cpu",
            workers=1,
            progress=lambda done, _, name, *unit: inside() if name == NAMES[0] else None,
        )

    overlapping(job)
    assert (torch.get_num_threads(), on_a_thread(torch.get_num_threads)) == (3, 3)


def allowed_tf32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True


def high() -> None:
    torch.set_float32_matmul_precision("high")


def medium() -> None:
    torch.set_float32_matmul_precision("medium")


def tf32_for_all() -> None:
    torch.backends.fp32_precision = "tf32"


def tf32_on_cuda() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"


def bfloat16_on_the_cpu() -> None:
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"


def both_kinds() -> None:
    allowed_tf32()
    bfloat16_on_the_cpu()


HOSTS = [
    as_fresh,
    allowed_tf32,
    high,
    medium,
    *(pytest.param(each, marks=new_settings) for each in (tf32_for_all, tf32_on_cuda, bfloat16_on_the_cpu, both_kinds)),
]


@pytest.mark.parametrize("setting", HOSTS)
def test_a_merge_on_the_cpu_leaves_a_gpus_precision_alone(tmp_path: Path, setting: Callable[[], None]) -> None:
    """A1111 allows TF32 when it starts; images that are made beside a merge keep it."""
    recipe = make_recipe(loras(tmp_path), "ties_svd", save_dtype="float32")
    expected, _ = merge(recipe, device="cpu")
    setting()
    before = Settings.read()
    seen: set[str] = set()
    got, _ = merge(recipe, device="cpu", workers=2, progress=lambda *_: seen.add(Settings.read().cuda))
    assert Settings.read() == before
    assert seen == {before.cuda}
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("setting", HOSTS)
def test_overlapping_jobs_multiply_in_full_and_put_back_what_there_was(
    setting: Callable[[], None], device: str
) -> None:
    setting()
    before = Settings.read()

    def job(inside: Callable[[], object]) -> None:
        with full_precision("cpu", device):
            inside()
            now = Settings.read()
            assert now.is_full("cpu")
            assert now.is_full(device)
            # what other tools ask is no error inside, if it was none outside
            assert (now.overall is None) <= (before.overall is None)

    overlapping(job)
    assert Settings.read() == before


@new_settings
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_setting_for_all_devices_still_is_one_afterwards(device: str) -> None:
    tf32_for_all()
    with full_precision("cpu", device):
        assert Settings.read().is_full(device)
    torch.backends.fp32_precision = "ieee"
    assert Settings.read() == Settings("highest", "ieee", "ieee")


def test_what_the_host_sets_meanwhile_stays() -> None:
    medium()
    with full_precision("cpu", "cuda"):
        high()
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.parametrize(("overall", "cpu_is_full"), [("highest", True), ("high", True), ("medium", False)])
def test_before_torch_2_9(monkeypatch: pytest.MonkeyPatch, overall: str, cpu_is_full: bool) -> None:
    """There is one setting, in which "high" is a GPU's TF32 and changes nothing on a CPU."""
    monkeypatch.setattr("lib_pm.merging.precision._backends", lambda: (None, None))
    torch.set_float32_matmul_precision(overall)
    with full_precision("cpu"):
        assert torch.get_float32_matmul_precision() == (overall if cpu_is_full else "highest")
        with full_precision("cpu", "cuda"):
            assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == overall


def test_a_gpus_merge_multiplies_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed_tf32()

    def tf32(layer: PlannedLayer) -> Any:
        return torch.backends.cuda.matmul.allow_tf32

    assert {found for _, found in run_layers(LAYERS, tf32, silent, 1, "cuda")} == {False}
    assert torch.backends.cuda.matmul.allow_tf32
    assert {found for _, found in run_layers(LAYERS, tf32, silent, 1, "cpu")} == {True}
