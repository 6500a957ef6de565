"""A folder of small LoRAs with a workspace over it, for tests of what the tab and the REST interface do."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lib_pm.workspace.job_queue import Job, Turn
from lib_pm.workspace.workspace import Workspace
from tests.loras import make_lora, write

SHAPES = {
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q": (16, 16),
    "lora_unet_mid_block_attentions_0_proj_in": (12, 16),
    "lora_te_text_model_encoder_layers_0_mlp_fc1": (16, 8),
}


class RecordingWorkspace(Workspace):
    """Remembers what was announced, and which device a turn was asked for."""

    def __init__(self, folder: Path, data: Path) -> None:
        super().__init__(folder, data)
        self.announced: list[str] = []
        self.turns: list[str] = []

    def announce(self, path: Path) -> None:
        assert path.is_file()
        self.announced.append(path.relative_to(self.folder).as_posix())

    def turn(self, device: str) -> Turn:
        self.turns.append(device)
        return nullcontext()


def make_workspace(root: Path) -> RecordingWorkspace:
    workspace = RecordingWorkspace(root / "loras", root / "data")
    fill(workspace.folder)
    return workspace


def fill(folder: Path) -> None:
    """`style` and `sub/char` go together, `other` says it is for another base model."""
    (folder / "sub").mkdir(parents=True)
    style = {"ss_base_model_version": "sd_v1", "ss_tag_frequency": '{"set": {"cat": 3}}'}
    write(folder / "style.safetensors", make_lora(SHAPES, 4, 2.0, seed=1), style)
    write(folder / "sub" / "char.safetensors", make_lora(SHAPES, 3, seed=2), {"ss_base_model_version": "sd_v1"})
    write(folder / "other.safetensors", make_lora(SHAPES, 2, seed=3), {"ss_base_model_version": "sdxl_base_v1-0"})


def files(workspace: Workspace) -> list[str]:
    """All files in the LoRA folder."""
    return sorted(
        path.relative_to(workspace.folder).as_posix() for path in workspace.folder.rglob("*") if path.is_file()
    )


def done(job: Job) -> Any:
    """The result of a job that has to succeed."""
    assert job.wait(60)
    assert job.state == "done", job.error
    return job.result


def failed(job: Job) -> str:
    """The error of a job that has to fail."""
    assert job.wait(60)
    assert job.state == "failed"
    return job.error
