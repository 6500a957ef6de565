"""What people read of a merge, as HTML in which names and metadata are text."""

from __future__ import annotations

import pytest

from lib_pm.files.contents import Inspection
from lib_pm.merging.report import LayerReport, LoraReport, Report
from lib_pm.render.inspection_html import inspection_html
from lib_pm.render.messages import note_html, problem_html, seconds_text, table_html
from lib_pm.render.report_html import report_html
from tests.markup import EVIL, Parsed, is_text


def evil_report() -> Report:
    return Report(
        EVIL,
        [LoraReport(EVIL, 2, 1, ["a"])],
        [LayerReport(EVIL, 4, 1, 0.5), LayerReport("b", 2, 1, None)],
        {"c": EVIL},
        [EVIL],
        0.75,
        1.0,
        file=EVIL,
        size=2**20,
    )


def evil_inspection() -> Inspection:
    layer = {"shape": EVIL, "rank": 1, "alpha": 1.0, "block": EVIL, "kind": EVIL, "network": EVIL}
    recipe = {"mode": EVIL, "loras": [{"name": EVIL}]}
    return Inspection(EVIL, 1, EVIL, EVIL, {EVIL: 1}, {EVIL: layer}, {EVIL: 2}, {EVIL: EVIL}, recipe)


@pytest.mark.parametrize(
    "html",
    [
        problem_html(EVIL),
        note_html(EVIL),
        report_html(evil_report()),
        table_html([EVIL], [[EVIL]]),
        inspection_html(evil_inspection()),
    ],
)
def test_a_name_is_text_and_no_tag(html: str) -> None:
    assert is_text(html)


def test_a_report_says_what_was_done() -> None:
    report = Report(
        "TIES of 2 LoRAs",
        [LoraReport("style", 3, 2, ["x"]), LoraReport("char", 3, 3)],
        [LayerReport("one", 4, 2, 0.9), LayerReport("two", 2, 2, 0.8), LayerReport("three", 4, 1, None)],
        {"four": "every weight is 0", "five": "every weight is 0"},
        ["on the CPU"],
        0.85,
        200.4,
        file="sub/both",
        size=3 * 2**19,
    )
    text = Parsed(report_html(report)).text
    for said in (
        "TIES of 2 LoRAs",
        "Written: sub/both (1.5 MB)",
        "style2 of 31",
        "char3 of 3",
        "Result: 3 layers, rank 2 to 4.",
        "Kept energy: 85.00% overall, lowest 80.00% in two.",
        "Left out: 2 layers, every weight is 0.",
        "on the CPU",
        "3 min 20 s.",
        "one490.00%",
    ):
        assert said in text
    report.file = ""
    assert "Nothing has been written yet. The file would be about 1.5 MB." in Parsed(report_html(report)).text


def test_a_report_without_layers() -> None:
    assert "Result: 0 layers, rank none." in Parsed(report_html(Report("Nothing", []))).text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (9.94, "9.9 s"), (10, "10 s"), (12.4, "12 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s")],
)
def test_seconds(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text
