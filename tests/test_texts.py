"""docs/texts.md has all texts, and is what the code says."""

from __future__ import annotations

import re
from itertools import chain

import pytest

from tests.texts import PAGE, ROOT, catalogue, page, template, texts_of

TEXTS = list(chain.from_iterable(texts for files in catalogue().values() for texts in files.values()))
# Modules whose words are names for the machine: layers, blocks, models, tensors.
NO_TEXTS = ("lib_pm/families/", "lib_pm/core/", "lib_pm/files/folders.py", "lib_pm/__init__.py")


def test_the_page_is_what_the_code_says():
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.texts writes it anew"


def test_every_text_of_every_module_is_in_it():
    missing = {
        path.name: text
        for path in (ROOT / "lib_pm").rglob("*.py")
        if not path.relative_to(ROOT).as_posix().startswith(NO_TEXTS)
        for text in texts_of(path)
        if text not in TEXTS
    }
    assert not missing


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        (
            'raise MergeInputError(f"{path.name} has {len(found)} layers.")',
            ["{path's name} has {number of found} layers."],
        ),
        ('gr.Button("Go", elem_id="pm_go")', ["Go"]),
        ('gr.HTML("<p>Two <b>words</b></p>")', ["Two", "words"]),
        ('"""Not a docstring."""\nx = "a-name"\ny = re.compile(r"not \\d this")', []),
        ('raise TypeError("a bug of ours")', []),
    ],
)
def test_what_counts_as_a_text(source, texts, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(source, encoding="utf-8")
    assert list(texts_of(path)) == texts


def test_the_template_has_what_the_pages_show():
    fixed = template()
    assert all(text == translation and "{" not in text for text, translation in fixed.items())
    assert {"Merge and save", "Density", "Default mode", "No LoRA matches all of these words."} <= fixed.keys()


def test_the_labels_of_the_tab_are_in_it(tmp_path):
    gr = pytest.importorskip("gradio")
    from lib_pm.ui import tab
    from tests.workspaces import RecordingWorkspace

    workspace = RecordingWorkspace(tmp_path / "loras", tmp_path / "data")
    shown = set()
    for block in tab.build(workspace).blocks.values():
        shown |= {getattr(block, name, None) for name in ("label", "info", "placeholder")}
        shown |= {block.value} if isinstance(block, gr.Button) else set()
    known = [re.sub(r"\\\{.*?\\\}", ".+", re.escape(text)) for text in TEXTS]
    shown = {text for text in shown if isinstance(text, str) and re.search("[a-z]{2} |[A-Z]", text)}
    assert len(shown) > 40
    unknown = {text for text in shown if not any(re.fullmatch(pattern, text, re.DOTALL) for pattern in known)}
    assert not unknown
