"""What of Windows and macOS can be seen without them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loras import make_lora, write

ROOT = Path(__file__).parent.parent
SHIPPED = sorted([*(ROOT / "lib_pm").rglob("*.py"), *(ROOT / "scripts").rglob("*.py"), ROOT / "run.py"])
POSIX_ONLY = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_needs_posix_to_be_imported(path: Path) -> None:
    """What only POSIX has is imported where it is used, behind what asks for it."""
    at_import = ast.parse(path.read_text(encoding="utf-8")).body
    imported = {alias.name.split(".")[0] for node in at_import if isinstance(node, ast.Import) for alias in node.names}
    imported |= {(node.module or "").split(".")[0] for node in at_import if isinstance(node, ast.ImportFrom)}
    assert imported & POSIX_ONLY == set()


def test_no_text_is_read_or_written_in_the_systems_encoding(tmp_path: Path) -> None:
    """Which on Windows is none that has Σ or 漢."""
    write(tmp_path / "a.safetensors", make_lora({"lora_unet_mid_block_attentions_0_proj_in": (24, 16)}, 4))
    (tmp_path / "mine.txt").write_text("漢:1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1\n", encoding="utf-8")
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    loras = ["a.safetensors:lbw=漢", "--lbw-presets", "mine.txt"]
    for words in (
        ["merge", *loras, "-o", "merged.safetensors"],
        ["analyse", *loras, "--plots", "plots"],
        ["merge", "--recipe", "merged.safetensors", "a.safetensors", "-o", "again.safetensors"],
        ["modes", "--markdown"],
    ):
        ended = subprocess.run(
            [sys.executable, "-X", "warn_default_encoding", "-W", "always::EncodingWarning", "-m", "lib_pm", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "cp1252"},
            capture_output=True,
            check=False,
        )
        said = ended.stderr.decode("cp1252")
        assert ended.returncode == 0, said
        assert [line for line in said.splitlines() if line.startswith(str(ROOT / "lib_pm"))] == []
