"""Sheets that are drawn once and kept, and what an error in one leaves of the others. Nothing is drawn here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from demo import drawing
from demo.drawing import NAMES, OVERVIEW, Drawing, keep, kept
from demo.grids import SHEETS, Sheet, cells
from demo.page import _progress_html, _sheets_html
from demo.painter import Painter, Turns

WHITE = Image.new("RGB", (4, 4), "white")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every picture is white at once; the titles of the sheets that were drawn."""
    titles: list[str] = []

    def sheet(painter: Painter, sheet: Sheet) -> Image.Image:
        titles.append(sheet.title)
        painter._drawn(len(list(cells(sheet))))
        return WHITE

    def picture(painter: Painter, *_: Any, **__: Any) -> Image.Image:
        painter._drawn(1)
        return WHITE

    monkeypatch.setattr(Painter, "sheet", sheet)
    monkeypatch.setattr(Painter, "picture", picture)
    monkeypatch.setattr(drawing, "state", lambda: "key")
    monkeypatch.setattr(Drawing, "_overview", lambda self, painter: painter.picture("") and WHITE)
    return titles


def make(tmp_path: Path) -> Drawing:
    (tmp_path / "loras").mkdir(exist_ok=True)
    return Drawing(tmp_path, tmp_path / "loras", Turns())


def test_a_picture_is_kept_under_its_key(tmp_path: Path) -> None:
    file = tmp_path / "one.png"
    assert not kept(file, "key")
    keep(WHITE, file, "key")
    assert kept(file, "key")
    assert not kept(file, "other")
    assert list(tmp_path.iterdir()) == [file]
    file.write_bytes(file.read_bytes()[:20])
    assert not kept(file, "key")


def test_all_is_drawn_once_and_ready_at_the_next_start(tmp_path: Path, drawn: list[str]) -> None:
    first = make(tmp_path)
    assert (first.sheets, first.done, first.what) == ({}, 0, "loading the model")
    assert "0 of" in _progress_html(first)
    assert "None is ready" in _sheets_html(first)
    first.run(None)
    assert drawn == [sheet.title for sheet in SHEETS.values()]
    assert set(first.sheets) == set(NAMES)
    assert (first.done, first.what, first.errors) == (first.total, "", [])
    assert _progress_html(first) == ""

    second = make(tmp_path)
    assert set(second.sheets) == set(NAMES)
    second.run(None)
    assert (second.done, len(drawn)) == (second.total, len(SHEETS))


def test_what_was_drawn_from_something_else_is_drawn_again(
    tmp_path: Path, drawn: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path).run(None)
    monkeypatch.setattr(drawing, "state", lambda: "another key")
    again = make(tmp_path)
    assert again.sheets == {}
    again.run(None)
    assert len(drawn) == 2 * len(SHEETS)


def test_an_error_in_one_leaves_the_others(tmp_path: Path, drawn: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def overview(self: Drawing, painter: Painter) -> Image.Image:
        raise RuntimeError("<a merge> is wrong")

    monkeypatch.setattr(Drawing, "_overview", overview)
    sheets = make(tmp_path)
    sheets.run(None)
    assert set(sheets.sheets) == set(NAMES) - {OVERVIEW}
    assert (sheets.done, sheets.what) == (sheets.total, "")
    assert "overview could not be drawn" in _progress_html(sheets)
    assert "&lt;a merge&gt; is wrong" in _progress_html(sheets)
    assert "overview" not in _sheets_html(sheets)


def test_the_state_is_of_code_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("lib_pm", "demo"):
        (tmp_path / folder).mkdir()
    code, weights = tmp_path / "lib_pm" / "a.py", tmp_path / "demo" / "b.safetensors"
    monkeypatch.setattr(drawing, "_ROOT", tmp_path)
    monkeypatch.setattr(drawing, "DATA", tmp_path / "demo")
    seen = set()
    for file in (None, code, weights, code):
        if file:
            file.write_text(f"{len(seen)}")
        seen.add(drawing.state())
    assert len(seen) == 4
