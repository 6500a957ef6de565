"""What takes a process of its own: threads set from outside, Ctrl-C and `kill`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lib_pm.cli import main
from tests.loras import make_lora, write

ROOT = Path(__file__).parent.parent
# Large enough for the range finder (more than 256) and for torch to split a sum among threads.
SHAPES = {
    f"lora_unet_down_blocks_{level}_attentions_0_transformer_blocks_0_attn1_to_q": (400, 640) for level in range(3)
}


def start(folder: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lib_pm", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=None if sys.platform == "win32" else heed_signals,
    )


def heed_signals() -> None:
    """A shell starts its background jobs, and many a CI runner all it runs, to ignore Ctrl-C; children inherit that."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)


def two_loras(folder: Path) -> list[str]:
    for index, name in enumerate("ab"):
        write(folder / f"{name}.safetensors", make_lora(SHAPES, 8 + index, 4.0, seed=index, dtype=torch.float16))
    return ["a.safetensors:0.8", "b.safetensors:-0.4"]


def test_bytes_depend_on_neither_threads_nor_order(tmp_path: Path) -> None:
    loras = two_loras(tmp_path)
    flags = ["--mode", "dare_ties_svd", "--svd-rank", "12", "--save-dtype", "float32"]
    jobs = {
        "one": start(tmp_path, "merge", *loras, *flags, "--threads", "1", "-o", "one.safetensors", OMP_NUM_THREADS="1"),
        "two": start(tmp_path, "merge", *loras, *flags, "--threads", "2", "-o", "two.safetensors", OMP_NUM_THREADS="2"),
        "swapped": start(
            tmp_path, "merge", *loras[::-1], *flags, "--threads", "1", "-o", "swapped.safetensors", OMP_NUM_THREADS="2"
        ),
    }
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, job in jobs.items():
        _, errors = job.communicate(timeout=60)
        assert (job.returncode, errors) == (0, "")
        tensors[name] = load_file(tmp_path / f"{name}.safetensors")
    for name in ("two", "swapped"):
        assert tensors[name].keys() == tensors["one"].keys()
        assert all(torch.equal(tensors[name][key], tensors["one"][key]) for key in tensors["one"]), name


def test_another_seed_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loras = two_loras(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, seed in (("one", "0"), ("again", "0"), ("other", "1")):
        words = ["--mode", "dare_linear", "--seed", seed, "--quiet", "-o", f"{name}.safetensors"]
        assert main(["merge", *loras, *words]) == 0
    one, again, other = (load_file(f"{name}.safetensors") for name in ("one", "again", "other"))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert all(not torch.equal(one[key], other[key]) for key in one if not key.endswith(".alpha"))


@pytest.mark.skipif(sys.platform == "win32", reason="there it is sent to all processes of a console")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "kill"])
def test_ctrl_c(tmp_path: Path, sent: signal.Signals) -> None:
    """In the middle of a merge: no partial file, the old one untouched, status 1, one line."""
    shapes = {f"lora_unet_down_blocks_{i // 9}_attentions_{i % 9}_proj_in": (3200, 3200) for i in range(99)}
    write(tmp_path / "a.safetensors", make_lora(shapes, 2))
    (tmp_path / "out.safetensors").write_text("old")
    job = start(tmp_path, "merge", "a.safetensors", "--mode", "ties_svd", "--overwrite", "-o", "out.safetensors")
    give_up = time.monotonic() + 30
    while not list(tmp_path.glob(".*.tmp")):
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.02)
    time.sleep(0.2)
    job.send_signal(sent)
    printed, errors = job.communicate(timeout=30)
    assert (job.returncode, printed, errors) == (1, "", "cancelled; nothing was written\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "out.safetensors"]
    assert (tmp_path / "out.safetensors").read_text() == "old"


def test_a_reader_that_has_had_enough(tmp_path: Path) -> None:
    process = start(tmp_path, "modes")
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["modes"], ["modes", "--json"], ["merge", "--help"], ["resize", "--help"], ["mrge"]],
    ids=" ".join,
)
def test_what_needs_no_torch_does_not_load_it(words: list[str]) -> None:
    """It takes a second and more, numpy a tenth of that."""
    code = (
        "import sys; from lib_pm.cli import main\n"
        f"try: main({words})\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'torch'} & sys.modules.keys()), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stderr.splitlines()[-1] == "[]"
    assert words == ["mrge"] or ended.stdout
