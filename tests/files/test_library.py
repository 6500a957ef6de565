"""Finding LoRAs by the names that the WebUI knows them by."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lib_pm.core.errors import MergeInputError
from lib_pm.files.library import Library, clear_name
from tests.loras import write
from tests.messages import saying, says


@pytest.fixture
def library(tmp_path: Path) -> Library:
    for name, alias in {
        "style.safetensors": "",
        "my style v1.5.safetensors": "",
        "Loud.SAFETENSORS": "",
        "chars/anna.safetensors": "Anna the Great",
        "chars/bob.safetensors": "twins",
        "old/anna.safetensors": "twins",
        "old/style.safetensors": "",
        "old/loud.safetensors": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, {"x": torch.ones(1)}, {"ss_output_name": alias} if alias else None)
    (tmp_path / "notes.txt").write_text("no LoRA")
    (tmp_path / "damaged.safetensors").write_bytes(b"\x00")
    return Library(tmp_path)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("my style v1.5", "my style v1.5.safetensors"),
        ("my style v1.5.safetensors", "my style v1.5.safetensors"),
        ("MY Style V1.5", "my style v1.5.safetensors"),
        ("style", "style.safetensors"),  # the one at the top is named in full by that
        ("old/style", "old/style.safetensors"),
        ("old\\style", "old/style.safetensors"),
        ("OLD/Style", "old/style.safetensors"),
        ("bob", "chars/bob.safetensors"),
        ("Loud", "Loud.SAFETENSORS"),  # its own spelling before another's
        ("loud", "old/loud.safetensors"),
        ("Anna the Great", "chars/anna.safetensors"),
        ("damaged", "damaged.safetensors"),
    ],
)
def test_find(library: Library, name: str, found: str) -> None:
    assert library.find(name) == library.folder / found


def test_a_new_file_is_found_at_once(library: Library) -> None:
    with pytest.raises(MergeInputError):
        library.find("new")
    write(library.folder / "new.safetensors", {"x": torch.ones(1)})
    assert library.find("new") == library.folder / "new.safetensors"


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("anna", "'anna' … chars/anna, old/anna … full"),
        ("ANNA", "'ANNA' … chars/anna, old/anna … full"),
        ("twins", "'twins' … chars/bob, old/anna … full"),
        ("stile", "LoRA 'stile' … folder {folder} … style"),
        ("stile.safetensors", "LoRA 'stile.safetensors' … folder {folder} … style"),
        ("zzz", "LoRA 'zzz' … folder {folder} … 9 LoRAs"),
        ("notes", "LoRA 'notes' … folder {folder} … 9 LoRAs"),
    ],
)
def test_messages(library: Library, name: str, facts: str) -> None:
    with pytest.raises(MergeInputError) as caught:
        library.find(name)
    assert says(caught.value, facts.format(folder=library.folder.name)), caught.value


def test_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MergeInputError) as caught:
        Library(tmp_path / "no").find("style")
    assert says(caught.value, f"LoRA folder {tmp_path / 'no'}")


def test_a_file_outside_of_all_sub_folders_has_a_name_of_its_own(tmp_path: Path) -> None:
    """The WebUI takes `a` for the one that it read last, which may be the other."""
    for place in (tmp_path / "a.safetensors", tmp_path / "sub" / "a.safetensors"):
        place.parent.mkdir(exist_ok=True)
        place.touch()
        library = Library(tmp_path)
        assert library.find(clear_name(library.names()[place])) == place
    assert clear_name("a") == "./a"
    with pytest.raises(MergeInputError, match=saying("LoRA './b'")):
        Library(tmp_path).find("./b")


class TestSeveralFolders:
    """A1111 has one beside the LoRA folder, Forge Neo as many as it is told."""

    @staticmethod
    def library(root: Path, *names: str) -> Library:
        """The folder `Lora` and all others that the names begin with."""
        for name in names:
            path = root / f"{name}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        others = dict.fromkeys(root.joinpath(*name.split("/")[:2]) for name in names if name.startswith("more"))
        return Library(root / "Lora", tuple(others))

    def test_their_files_have_the_folders_name_before_their_own(self, tmp_path: Path) -> None:
        library = self.library(tmp_path, "Lora/a", "Lora/sub/b", "more/LyCORIS/a", "more/LyCORIS/sub/c")
        names = {path.relative_to(tmp_path).as_posix(): name for path, name in library.names().items()}
        assert names == {
            "Lora/a.safetensors": "a",
            "Lora/sub/b.safetensors": "sub/b",
            "more/LyCORIS/a.safetensors": "LyCORIS/a",
            "more/LyCORIS/sub/c.safetensors": "LyCORIS/sub/c",
        }
        assert library.find("c") == library.others[0] / "sub" / "c.safetensors"

    @pytest.mark.parametrize(
        "names",
        [
            ("Lora/a", "more/LyCORIS/a"),
            ("Lora/a", "more1/loras/a", "more2/loras/a"),
            ("Lora/loras/a", "Lora/Loras (2)/a", "more/loras/a"),
            ("Lora/a", "Lora/sub/a", "more/x/sub/a", "more/x/a"),
        ],
    )
    def test_every_name_finds_its_own_file(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        library = self.library(tmp_path, *names)
        found = library.names()
        assert len(found) == len(set(found.values())) == len(names)
        for path, full in found.items():
            assert library.find(clear_name(full)) == path

    def test_a_folder_that_is_in_another_or_not_there_adds_nothing(self, tmp_path: Path) -> None:
        library = self.library(tmp_path, "Lora/a", "Lora/sub/b")
        with_others = Library(library.folder, (tmp_path / "gone", library.folder / "sub", library.folder))
        assert with_others.names() == library.names()
        assert list(Library(library.folder, (tmp_path,)).names().values()) == ["a", "sub/b"]


def test_a_name_that_is_no_text_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.safetensors")).touch()
    except OSError:
        pytest.skip("this file system has text for names alone")
    assert list(Library(tmp_path).names().values()) == ["a"]
