"""A LoRA's card in the WebUI: what is read of it, and what writing one leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib_pm.core.errors import MergeInputError
from lib_pm.workspace.card import Card, find_picture, joined_activation, read_card, write_card
from tests.messages import saying


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return tmp_path / "my style.v2.safetensors"


def card_json(lora: Path) -> Path:
    return lora.with_name("my style.v2.json")


def test_none(lora: Path) -> None:
    assert read_card(lora) == Card()


@pytest.mark.parametrize("picture", ["my style.v2.png", "my style.v2.preview.png", "my style.v2.webp"])
def test_what_is_read(lora: Path, picture: str) -> None:
    card_json(lora).write_text('\ufeff{"activation text": " a, b ", "notes": "mine"}', encoding="utf-8")
    path = lora.with_name(picture)
    path.write_bytes(b"picture")
    assert read_card(lora) == Card("a, b", path)
    assert find_picture(lora) == path


@pytest.mark.parametrize("content", [b"", b"[]", b'{"activation text": 7}', b"\xff"])
def test_one_that_cannot_be_read_is_an_empty_one(lora: Path, content: bytes) -> None:
    card_json(lora).write_bytes(content)
    assert read_card(lora) == Card()


def test_activation_texts_are_joined_without_repeating(lora: Path) -> None:
    cards = [Card("cat, red cat"), Card(""), Card(" red cat ,, blue "), Card("cat")]
    assert joined_activation(cards) == "cat, red cat, blue"
    assert joined_activation([]) == ""


def test_writing_one(lora: Path, tmp_path: Path) -> None:
    picture = tmp_path / "input.preview.png"
    picture.write_bytes(b"picture")
    write_card(lora, Card(" größe, b ", picture))
    assert json.loads(card_json(lora).read_text(encoding="utf-8")) == {"activation text": "größe, b"}
    assert lora.with_name("my style.v2.png").read_bytes() == b"picture"
    assert read_card(lora) == Card("größe, b", lora.with_name("my style.v2.png"))


def test_what_else_is_there_stays(lora: Path, tmp_path: Path) -> None:
    card_json(lora).write_text('{"notes": "mine", "preferred weight": 0.8, "activation text": "old"}')
    own, picture = lora.with_name("my style.v2.preview.jpg"), tmp_path / "input.png"
    own.write_bytes(b"own")
    picture.write_bytes(b"other")
    write_card(lora, Card("new", picture))
    assert json.loads(card_json(lora).read_text()) == {
        "notes": "mine",
        "preferred weight": 0.8,
        "activation text": "new",
    }
    assert read_card(lora).picture == own
    assert own.read_bytes() == b"own"
    assert not lora.with_name("my style.v2.png").exists()


def test_a_card_that_cannot_be_written_is_said_without_a_path(lora: Path) -> None:
    card_json(lora).mkdir()
    with pytest.raises(MergeInputError, match=saying("my style.v2.json … read … repair … remove")) as error:
        write_card(lora, Card("new"))
    assert str(lora.parent) not in str(error.value)


def test_a_damaged_json_is_not_thrown_away(lora: Path) -> None:
    """A comma too many, written by hand: what it says is still the user's."""
    card_json(lora).write_text('{"notes": "mine",}')
    with pytest.raises(MergeInputError, match="my style"):
        write_card(lora, Card("new"))
    assert card_json(lora).read_text() == '{"notes": "mine",}'
