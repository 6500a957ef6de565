"""A folder of LoRAs with all that a file system can hold."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lib_pm.core.errors import MergeInputError
from lib_pm.files.folders import walk
from lib_pm.files.library import Library
from lib_pm.workspace.workspace import Workspace
from tests.messages import saying

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links and pipes")


@contextmanager
def no_waiting() -> Iterator[None]:
    """What hangs is a failure, not the end of the tests."""

    def hangs(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(60)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def found(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in Library(folder).names()]


def test_links_in_circles_end(tmp_path: Path) -> None:
    """Three links in each of three folders, each to all of them: to follow them all takes 3⁴⁰ steps."""
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.safetensors").touch()
        for other in "abc":
            (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    (tmp_path / "back").symlink_to(tmp_path)
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "itself.safetensors").symlink_to("itself.safetensors")
    with no_waiting():
        assert found(tmp_path) == ["a/a.safetensors", "b/b.safetensors", "c/c.safetensors"]
        assert Workspace(tmp_path, tmp_path).folders() == ["", "a", "b", "c"]


def test_links_are_followed(tmp_path: Path) -> None:
    """LoRAs may lie on another disk. A folder that is there itself too is listed under its own name."""
    for name in ("far/sub", "loras/zoo"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x.safetensors").touch()
    (tmp_path / "loras" / "far").symlink_to(tmp_path / "far")
    (tmp_path / "loras" / "another").symlink_to(tmp_path / "loras" / "zoo")
    (tmp_path / "loras" / "y.safetensors").symlink_to(tmp_path / "far" / "sub" / "x.safetensors")
    assert found(tmp_path / "loras") == ["far/sub/x.safetensors", "y.safetensors", "zoo/x.safetensors"]
    assert next(walk(tmp_path / "loras" / "far")) == (tmp_path / "loras" / "far", [])


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "link.safetensors").symlink_to("pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "device.safetensors").symlink_to("/dev/zero")
    (tmp_path / "gone.safetensors").symlink_to("nowhere")
    with no_waiting():
        for name in ("pipe", "link", "folder", "device", "gone", "other"):
            with pytest.raises(MergeInputError, match=saying("0 LoRAs")):
                Library(tmp_path).find(name)


def test_a_file_that_became_a_pipe_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.safetensors").touch()
    library = Library(tmp_path)
    names = library.names()
    monkeypatch.setattr(Library, "names", lambda _: names)
    (tmp_path / "a.safetensors").unlink()
    os.mkfifo(tmp_path / "a.safetensors")
    with no_waiting(), pytest.raises(MergeInputError, match=saying("LoRA 'b'")):
        library.find("b")


def test_a_folder_that_may_not_be_read_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """(Permissions would not stop a test that runs as root.)"""
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.safetensors").touch()
    scandir = os.scandir

    def refuse(folder: Path) -> object:
        if folder.name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert found(tmp_path) == ["a.safetensors"]
