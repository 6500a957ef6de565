"""A folder of LoRAs as the tab shows it: names that are short and clear, folders, messages without paths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lib_pm.core.errors import MergeInputError
from lib_pm.files import aliases, library
from lib_pm.workspace.workspace import ListedLora, Workspace
from tests.loras import make_lora, write


def workspace_of(tmp_path: Path, *names: str) -> Workspace:
    """A workspace with empty files of these names."""
    folder = tmp_path / "loras"
    folder.mkdir()
    for name in names:
        path = folder / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return Workspace(folder, tmp_path / "data")


def test_names_are_short_where_they_are_clear(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path, "b", "A", "sub/style", "sub/deep/x", "other/style", "b.v2")
    assert workspace.loras() == [
        ListedLora("A", ""),
        ListedLora("b", ""),
        ListedLora("b.v2", ""),
        ListedLora("other/style", "other"),
        ListedLora("sub/style", "sub"),
        ListedLora("x", "sub/deep"),
    ]


@pytest.mark.parametrize(
    "names",
    [
        ("a", "sub/a", "other/a"),
        ("Style", "sub/style", "sub/STYLE"),
        ("sub/a", "sub/sub/a", "b"),
        ("a.b", "a", "sub/a.b"),
    ],
)
def test_a_name_that_is_shown_finds_its_file(tmp_path: Path, names: tuple[str, ...]) -> None:
    workspace = workspace_of(tmp_path, *names)
    shown = {
        workspace.find(lora.name).relative_to(workspace.folder).as_posix(): lora.name for lora in workspace.loras()
    }
    assert set(shown) == {f"{name}.safetensors" for name in names}
    for file, name in shown.items():
        assert workspace.name_of(workspace.folder / file) == name


def test_what_is_no_lora_is_not_listed(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path, "a")
    for name in ("a.png", "a.json", ".a.1234.tmp"):
        (workspace.folder / name).touch()
    assert [lora.name for lora in workspace.loras()] == ["a"]


def test_a_new_file_is_there_at_once(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path, "a")
    workspace.loras()
    (workspace.folder / "b.safetensors").touch()
    assert [lora.name for lora in workspace.loras()] == ["a", "b"]
    assert workspace.find("b") == workspace.folder / "b.safetensors"


def test_an_alias_finds_its_file(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path)
    tensors = make_lora({"lora_unet_mid_block_attentions_0_proj_in": (4, 4)}, 1)
    path = write(workspace.folder / "v2_final.safetensors", tensors, {"ss_output_name": "Style"})
    assert workspace.name_of(workspace.find("Style")) == path.stem


def test_an_unknown_name_opens_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tab asks at each keystroke; what it learnt holds until a file changes."""
    workspace, opened, safe_open = workspace_of(tmp_path), [], aliases.safe_open
    tensors = make_lora({"lora_unet_mid_block_attentions_0_proj_in": (4, 4)}, 1)
    for name in "abc":
        write(workspace.folder / f"{name}.safetensors", tensors, {"ss_output_name": f"alias {name}"})

    def counted(path: str, framework: str) -> object:
        opened.append(Path(path).name)
        return safe_open(path, framework)

    def ask(name: str) -> str:
        opened.clear()
        try:
            return workspace.find(name).stem
        except MergeInputError:
            return ""

    monkeypatch.setattr(aliases, "safe_open", counted)
    assert (ask("alias x"), opened) == ("", ["a.safetensors", "b.safetensors", "c.safetensors"])
    assert (ask("alias b"), opened) == ("b", [])
    write(workspace.folder / "b.safetensors", tensors, {"ss_output_name": "alias xyz"})
    assert (ask("alias b"), opened) == ("", ["b.safetensors"])
    (workspace.folder / "c.safetensors").unlink()
    write(workspace.folder / "d.safetensors", tensors, {"ss_output_name": "alias c"})
    assert (ask("alias c"), opened) == ("d", ["d.safetensors"])


def test_folders(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path, "a", "z/a", "b/c/a")
    (workspace.folder / "empty").mkdir()
    assert workspace.folders() == ["", "b", "b/c", "empty", "z"]


def test_two_thousand_loras_are_walked_once_and_none_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = workspace_of(tmp_path, *(f"folder {number % 50}/style {number // 2}" for number in range(2000)))
    walks, walk = [], library.walk

    def counted(top: Path) -> object:
        walks.append(top)
        return walk(top)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(library, "walk", counted)
    monkeypatch.setattr(aliases, "safe_open", refuse)
    shown = workspace.loras()
    assert len(shown) == len({lora.name for lora in shown}) == 2000
    assert walks == [workspace.folder]
    assert workspace.find("folder 7/style 3").parent.name == "folder 7"


@pytest.mark.parametrize(
    "ask",
    [
        lambda workspace: workspace.find("no_such_lora"),
        lambda workspace: workspace.find("../b"),
        lambda workspace: workspace.find("/etc/passwd"),
        lambda workspace: workspace.find("a"),
        lambda workspace: workspace.find(""),
    ],
)
def test_what_is_not_found_is_said_without_a_path(tmp_path: Path, ask: Callable[[Workspace], object]) -> None:
    workspace = workspace_of(tmp_path, "x/a", "y/a")
    (tmp_path / "b.safetensors").touch()
    with pytest.raises(MergeInputError) as error:
        ask(workspace)
    assert str(tmp_path) not in workspace.public(str(error.value))


def test_a_folder_that_is_not_there_is_said_without_a_path(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "loras", tmp_path / "data")
    with pytest.raises(MergeInputError) as error:
        workspace.loras()
    said = workspace.public(str(error.value))
    assert str(tmp_path) not in said
    assert "does not exist" in said


def test_public(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path)
    assert (
        workspace.public(f"{workspace.folder}/sub/a.safetensors is already there")
        == "sub/a.safetensors is already there"
    )
    assert workspace.public("no path in it") == "no path in it"
