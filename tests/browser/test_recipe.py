"""The page's reader of tags, javascript/pm_recipe.js, means what lib_pm/prompt/tag.py means."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lib_pm.core.errors import MergeInputError
from lib_pm.prompt.tag import Tag, check_text, tags_of

ROOT = Path(__file__).resolve().parent.parent.parent
CASES = json.loads((ROOT / "tests" / "tags.json").read_text(encoding="utf-8"))
WORDS = "< > : : : = # , lora <lora:x: <lyco:y <pm:ties pm te= TE unet lbw=MIDD w off 0.5 1 -2 1e9 1_0 MIDD a=b".split()
WORDS += ["1,0,0", " ", "\u3000", "\x1d", "\ufeff"]
EDITS = """([text, edit, ...values]) => {
    const {recipe} = window.powerMerger;
    const set = {strengths: recipe.setStrengths, name: recipe.setName, lbw: recipe.setLbw}[edit];
    return set(text, recipe.parse(text)[0], ...values);
}"""


@pytest.fixture(scope="module")
def page(browser: Any) -> Iterator[Any]:
    """An empty page with the script; no gradio is needed."""
    page = browser.new_page()
    page.add_script_tag(path=ROOT / "javascript" / "pm_recipe.js")
    yield page
    page.close()


def parse(page: Any, texts: list[str]) -> list[list[dict[str, Any]]]:
    """The parts of each text, as the page reads it."""
    found: list[list[dict[str, Any]]] = page.evaluate("texts => texts.map(window.powerMerger.recipe.parse)", texts)
    return found


def is_broken(text: str) -> bool:
    try:
        check_text(text)
    except MergeInputError:
        return True
    return False


def says(tag: Tag) -> dict[str, Any]:
    """What Python reads, as the page puts it."""
    try:
        model, clip = tag.strengths
        read = {"clip": clip, "model": model, "lbw": tag.lbw, "out": tag.off, "other": list(tag.other)}
    except MergeInputError:
        return {"wrong": True}
    return {"wrong": False, "name": tag.name} | read if tag.name else {"wrong": True}


def said(part: dict[str, Any]) -> dict[str, Any]:
    if part["wrong"]:
        return {"wrong": True}
    return {"wrong": False} | {key: part[key] for key in ("name", "clip", "model", "lbw", "out", "other")}


def test_what_is_a_tag_and_what_should_be_one(page: Any) -> None:
    for case, parts in zip(CASES["texts"], parse(page, [case["text"] for case in CASES["texts"]]), strict=True):
        assert [part["text"] for part in parts if "name" in part] == case["loras"], case
        assert any(part.get("broken") for part in parts) == case["broken"], case


def test_what_a_tag_says(page: Any) -> None:
    for case, (part,) in zip(CASES["reads"], parse(page, [case["tag"] for case in CASES["reads"]]), strict=True):
        expected = {"lbw": "", "out": False, "other": []} | case | {"wrong": False}
        del expected["tag"]
        assert said(part) == ({"wrong": True} if case.get("wrong") else expected), case


def test_an_edit(page: Any) -> None:
    for case in CASES["edits"]:
        edit = next(key for key in ("strengths", "name", "lbw") if key in case)
        values = case[edit] if edit == "strengths" else [case[edit]]
        assert page.evaluate(EDITS, [case["tag"], edit, *values]) == case["becomes"], case


def test_random_texts_are_read_alike(page: Any) -> None:
    """3,000 of them, the same each time; half of them have at least one tag."""
    draw = random.Random(7)
    texts = ["".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(1500)]
    texts += [f"<lora:x:{''.join(draw.choices(WORDS[5:], k=draw.randint(1, 8)))}>" for _ in range(1500)]
    for text, parts in zip(texts, parse(page, texts), strict=True):
        if text.lstrip().startswith("#"):  # a line that is off
            continue
        tags = [part for part in parts if "name" in part]
        assert [part["text"] for part in tags] == [str(tag) for tag in tags_of(text) if tag.kind != "pm"], repr(text)
        assert any(part.get("broken") for part in parts) == is_broken(text), repr(text)
        for part, tag in zip(tags, (tag for tag in tags_of(text) if tag.kind != "pm"), strict=True):
            assert said(part) == says(tag), repr(text)


@pytest.mark.parametrize(
    ("name", "writable"),
    [("sub/a b (v1.5)", True), ("a>b", False), ("a<b", False), ("a:b", False), ("a\x1bb", False), (" a", False)],
)
def test_a_name_that_no_tag_can_hold_is_told(page: Any, name: str, writable: bool) -> None:
    why = page.evaluate("name => window.powerMerger.recipe.unwritable(name)", name)
    assert (why == "") == writable
    try:
        Tag("lora", ("x",)).with_name(name)
        assert writable
    except MergeInputError:
        assert not writable


def test_such_a_lora_is_listed_but_not_picked(page: Any) -> None:
    page.add_script_tag(path=ROOT / "javascript" / "pm_picker.js")
    page.evaluate(
        """names => {
            window.picked = [];
            const loras = names.map((name) => ({name, stem: name, folder: "", title: name, searched: name}));
            const {build} = window.powerMerger.picker;
            const built = build({label: "Add", loras: () => loras, pick: (lora) => window.picked.push(lora.name)});
            document.body.append(built.element);
        }""",
        ["odd:name", "plain"],
    )
    search = page.get_by_label("Add")
    search.fill("odd")
    assert "cannot go into a tag" in page.locator("[role=option] small").inner_text()
    search.press("Enter")
    search.fill("plain")
    search.press("Enter")
    assert page.evaluate("window.picked") == ["plain"]
