"""An analysis as HTML."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree

import pytest

from lib_pm.compare.findings import Analysis, LoraAnalysis, Pair, Relation, Spectrum
from lib_pm.render.analysis_html import analysis_html

EVIL = '<img src=x onerror="alert(1)">'


def analysis(*names: str) -> Analysis:
    loras = tuple(LoraAnalysis(name, 5, 4, 2.5, {"MID": 1.0}, Spectrum((0.9, 0.96, 1.0))) for name in names)
    pairs = tuple(
        Pair((one, other), Relation(3, -0.125, 0.61), {"MID": Relation(3, None, None)}, f"{one} & {other}: fight.")
        for one, other in itertools.pairwise(names)
    )
    return Analysis("SD", 5, ("MID",), loras, pairs, 3.25, Spectrum((0.5, 0.91, 0.99)), (f"a note of {EVIL}",))


def parsed(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html.replace(' xmlns="http://www.w3.org/2000/svg"', ""))


def table(element: ElementTree.Element) -> list[list[str]]:
    return [[cell.text or "" for cell in row] for row in element.iter("tr")]


def test_sentences_tables_plots():
    root = parsed(analysis_html(analysis("a", "b")))
    assert root.get("class") == "pm-analysis"
    assert [item.text for item in root.iter("li")] == ["a & b: fight.", f"Note: a note of {EVIL}."]
    pairs, loras = map(table, root.iter("table"))
    assert pairs[1:] == [["a and b", "-0.12", "61%", "3"]]
    assert loras[1:] == [
        ["a", "4 of 5", "2.5", "1", "2", "3"],
        ["b", "4 of 5", "2.5", "1", "2", "3"],
        ["sum", "5", "3.25", "2", "3", "3"],
    ]
    assert len(list(root.iter("svg"))) == 2
    identities = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(identities) == len(set(identities))


def test_one_lora_alone():
    root = parsed(analysis_html(analysis("a")))
    (loras,) = map(table, root.iter("table"))
    assert loras[1:] == [["a", "4 of 5", "2.5", "1", "2", "3"]]
    assert len(list(root.iter("svg"))) == 2


@pytest.mark.parametrize("name", [EVIL, "</title><script>alert(1)</script>", '" onload="x', "bell\x07", "lone\udc80"])
def test_names_are_escaped(name):
    html = analysis_html(analysis(name, "b"))
    html.encode()
    root = parsed(html)
    assert not {"script", "img"} & {element.tag for element in root.iter()}
    assert not [key for element in root.iter() for key in element.attrib if key.startswith("on")]
    if name.isprintable():
        assert table(next(root.iter("table")))[1][0] == f"{name} and b"
