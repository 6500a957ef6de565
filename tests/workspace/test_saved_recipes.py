"""Recipes kept by name, and the last one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lib_pm.core.errors import MergeInputError
from lib_pm.workspace.draft import Draft
from lib_pm.workspace.saved_recipes import SavedRecipes
from tests.chosen import chosen
from tests.messages import saying, says

DRAFT = Draft("<lora:größe:0.5>\n# <lora:b:1>", chosen("ties:density=0.5"), "model", "float64", "exact")


@pytest.fixture
def recipes(tmp_path: Path) -> SavedRecipes:
    return SavedRecipes(tmp_path / "data")


def files(recipes: SavedRecipes) -> list[str]:
    return sorted(path.relative_to(recipes.folder).as_posix() for path in recipes.folder.rglob("*") if path.is_file())


def test_nothing_is_there_or_made_at_first(recipes: SavedRecipes) -> None:
    assert recipes.names() == []
    assert recipes.last == Draft()
    assert not recipes.folder.exists()
    with pytest.raises(MergeInputError, match=saying("recipe 'a' … none")):
        recipes.load("a")


def test_they_come_back_by_name(recipes: SavedRecipes) -> None:
    recipes.save(" both ", DRAFT)
    recipes.save("Zebra", Draft())
    assert recipes.names() == ["both", "Zebra"]
    assert recipes.load("both") == SavedRecipes(recipes.folder).load("both ") == DRAFT
    assert files(recipes) == ["recipes/Zebra.json", "recipes/both.json"]
    assert "größe" in (recipes.folder / "recipes" / "both.json").read_text(encoding="utf-8")
    with pytest.raises(MergeInputError, match=saying("recipe 'c' … both, Zebra")):
        recipes.load("c")


def test_none_is_overwritten_unasked(recipes: SavedRecipes) -> None:
    recipes.save("a", DRAFT)
    with pytest.raises(MergeInputError, match=saying("recipe 'a' … already … another name … overwriting")):
        recipes.save("a ", Draft("<lora:new:1>"))
    assert recipes.load("a") == DRAFT
    recipes.save("a", Draft("<lora:new:1>"), overwrite=True)
    assert recipes.load("a") == Draft("<lora:new:1>")
    assert files(recipes) == ["recipes/a.json"]


def test_deleting(recipes: SavedRecipes) -> None:
    recipes.save("a", DRAFT)
    recipes.save("b", DRAFT)
    recipes.delete("a")
    assert recipes.names() == ["b"]
    with pytest.raises(MergeInputError, match=saying("recipe 'a' … b")):
        recipes.delete("a")


@pytest.mark.parametrize("name", ["../a", "", "/a", "..", pytest.param("漢" * 100, id="long in bytes")])
def test_names_that_are_none(recipes: SavedRecipes, name: str) -> None:
    for act in (recipes.load, recipes.delete, lambda name: recipes.save(name, DRAFT)):
        with pytest.raises(MergeInputError, match=saying("recipe name")):
            act(name)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"text": 7}', b"\xff\xfe"])
def test_a_damaged_file_is_named_and_can_be_deleted(recipes: SavedRecipes, content: bytes) -> None:
    recipes.save("a", DRAFT)
    (recipes.folder / "recipes" / "a.json").write_bytes(content)
    with pytest.raises(MergeInputError, match=saying("recipe 'a'")):
        recipes.load("a")
    assert recipes.names() == ["a"]
    recipes.delete("a")
    assert recipes.names() == []


def test_the_last_one_comes_back(recipes: SavedRecipes) -> None:
    recipes.keep_last(Draft("<lora:a:1>"))
    recipes.keep_last(DRAFT)
    assert SavedRecipes(recipes.folder).last == DRAFT
    assert recipes.names() == []
    assert files(recipes) == ["last.json"]
    (recipes.folder / "last.json").write_text("{")
    assert recipes.last == Draft()


def test_a_file_is_plain_json(recipes: SavedRecipes) -> None:
    recipes.save("a", DRAFT)
    written = json.loads((recipes.folder / "recipes" / "a.json").read_text(encoding="utf-8"))
    assert written == {
        "text": DRAFT.text,
        "pm": "ties:density=0.5:lambda=1",
        "apply": "model",
        "dtype": "float64",
        "precision": "exact",
    }


def test_what_cannot_be_written_or_read_is_said_without_a_path(
    recipes: SavedRecipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes.save("a", DRAFT)

    def refuse(path: Any, *args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        with pytest.raises(MergeInputError) as unread:
            recipes.load("a")
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", refuse)
        with pytest.raises(MergeInputError) as unwritten:
            recipes.save("b", DRAFT, overwrite=True)
    assert says(unread.value, "recipe 'a' … read … Permission denied"), unread.value
    assert says(unwritten.value, "recipe 'b' … written … not permitted"), unwritten.value
    assert str(recipes.folder) not in f"{unread.value}{unwritten.value}"
    assert files(recipes) == ["recipes/a.json"], "nothing is left behind"


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(MergeInputError, match=saying("recipe 'a' … written")):
        SavedRecipes(tmp_path / "data").save("a", DRAFT)
