"""Files that are there whole or not at all, of which one of several writers gets the name."""

from __future__ import annotations

import errno
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_pm.core.errors import MergeInputError
from lib_pm.files import leftovers, writer
from lib_pm.files.whole_file import WholeFile, copy_file, write_text
from lib_pm.files.writer import StreamWriter, check_target
from lib_pm.workspace.card import Card, write_card
from lib_pm.workspace.draft import Draft
from lib_pm.workspace.saved_recipes import SavedRecipes
from tests.files.test_writer import file_size_limit
from tests.messages import saying, says

AT_ONCE = 4


def no_links(*_: Any, **__: Any) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def as_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rename refuses a name that is taken, for which the system's own lock is stood in for by one of ours."""
    replace, lock = os.replace, threading.Lock()

    def rename(source: str, target: Path) -> None:
        with lock:
            if os.path.exists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), source, 183, str(target))
            replace(source, target)

    monkeypatch.setattr(leftovers, "WINDOWS", True)
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "link", lambda *_: pytest.fail("a link on Windows"))


@pytest.mark.parametrize("system", ["links", "no links", "Windows"])
def test_of_several_merges_into_one_new_name_one_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    """All of them have found the name free before the first one is done."""
    target, all_have_looked = tmp_path / "out.safetensors", threading.Barrier(AT_ONCE)

    def look(path: Path, overwrite: bool) -> None:
        check_target(path, overwrite)
        all_have_looked.wait(10)

    monkeypatch.setattr(writer, "check_target", look)
    if system == "no links":
        monkeypatch.setattr(os, "link", no_links)
    elif system == "Windows":
        as_windows(monkeypatch)

    def merge(index: int) -> str:
        try:
            with StreamWriter(target, 200) as out:
                out.add("a", torch.full((3,), float(index)))
                out.finish({"index": str(index)})
        except MergeInputError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(AT_ONCE) as pool:
        said = list(pool.map(merge, range(AT_ONCE)))
    assert said.count("") == 1
    assert all(says(text, "out.safetensors … already") for text in said if text)
    assert f'"index":"{said.index("")}"'.encode() in target.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]


@pytest.mark.parametrize("system", ["links", "no links"])
def test_a_dangling_link_is_a_name_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    if system == "no links":
        monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "a").symlink_to("nowhere")
    with pytest.raises(FileExistsError), WholeFile(tmp_path / "a") as whole:
        whole.place()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert not (tmp_path / "nowhere").exists()


def test_without_links_a_name_that_was_kept_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(os, "replace", no_links)
    with pytest.raises(PermissionError), WholeFile(tmp_path / "a") as whole:
        whole.place()
    assert list(tmp_path.iterdir()) == []


def test_windows_keeps_a_file_that_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Access is denied", None, 5)

    target = tmp_path / "out.safetensors"
    target.write_text("old")
    as_windows(monkeypatch)
    monkeypatch.setattr(os, "replace", refuse)
    with (
        pytest.raises(MergeInputError, match=saying("out.safetensors … open … LoRAs")),
        StreamWriter(target, 200, overwrite=True) as out,
    ):
        out.finish({})
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]


def test_the_processs_umask_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one for all threads: for a moment, a file that another one makes would be open to everybody."""
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda mask: pytest.fail("set"))
            write_text(tmp_path / "a", "text", "it")
            with StreamWriter(tmp_path / "b.safetensors", 200) as out:
                out.finish({})
    finally:
        os.umask(before)
    if os.name != "nt":
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


class TestTexts:
    """What the tab and `analyse` write: recipes, cards, plots."""

    def test_one_that_did_not_fit_leaves_the_old_one(self, tmp_path: Path) -> None:
        lora, recipes = tmp_path / "a.safetensors", SavedRecipes(tmp_path)
        write_card(lora, Card("old"))
        recipes.keep_last(Draft("old"))
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        with file_size_limit(500):
            with pytest.raises(MergeInputError, match=saying("The card of a … written")):
                write_card(lora, Card("new" * 1000))
            with pytest.raises(MergeInputError, match=saying("The recipe 'last' … written")):
                recipes.keep_last(Draft("new" * 1000))
            with pytest.raises(MergeInputError, match=saying("The plot … written")):
                write_text(tmp_path / "plot.svg", "new" * 1000, "The plot")
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_half_a_character(self, tmp_path: Path) -> None:
        with pytest.raises(MergeInputError, match=saying(r"The text … '\ud800'")):
            write_text(tmp_path / "a", "a\ud800", "The text")
        assert list(tmp_path.iterdir()) == []

    def test_none_is_overwritten_unasked(self, tmp_path: Path) -> None:
        write_text(tmp_path / "a", "old", "The text", overwrite=False)
        with pytest.raises(MergeInputError, match=saying("The text … already")):
            write_text(tmp_path / "a", "new", "The text", overwrite=False)
        assert (tmp_path / "a").read_text() == "old"

    def test_a_file_where_the_folder_should_be(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        with pytest.raises(MergeInputError, match=saying("The text … written")):
            write_text(tmp_path / "a" / "b", "new", "The text", overwrite=False)

    def test_a_picture_is_copied_whole(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"x" * 1000)
        with file_size_limit(500), pytest.raises(MergeInputError, match=saying("The picture of b … written")):
            write_card(tmp_path / "b.safetensors", Card("", tmp_path / "a.png"))
        assert not (tmp_path / "b.png").exists()
        copy_file(tmp_path / "a.png", tmp_path / "b.png")
        assert (tmp_path / "b.png").read_bytes() == b"x" * 1000
