"""The score's arithmetic, what is compared, and how it is written down."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from demo.quality import results as results_module
from demo.quality.document import markdown, plot, write_table
from demo.quality.measure import Score, interval, score, together
from demo.quality.results import Results, measure_all
from demo.quality.settings import BASELINES, Loras, Setting, lora_sets, settings
from demo.tiny.checks import Seen
from demo.tiny.scenes import STYLES, Scene
from lib_pm.core.registry import MODES

LORAS = Loras("star", ("stripes", "outline"))


def seen(shape: str = "star", colour: str = "red", background: str = "blue", *styles: str) -> Seen:
    return Seen(shape, 1.0, colour, background, {style: float(style in styles) for style in STYLES})


def test_all_is_what_holds_together() -> None:
    pictures = [
        seen("star", "red", "blue", "stripes", "outline", "twotone"),
        seen("star", "red", "blue", "stripes"),  # a style is missing
        seen("circle", "red", "blue", "stripes", "outline"),
        seen("star", "red", "green", "stripes", "outline"),
    ]
    found = score(pictures, [Scene("star", "red", "blue")] * 4, LORAS)
    assert found == Score(4, content=0.75, style=0.75, caption=0.75, all=0.25)


def test_scores_are_put_together_by_their_pictures() -> None:
    assert together([Score(10, 1, 1, 1, 1), Score(30, 0, 0, 0.5, 0)]) == Score(40, 0.25, 0.25, 0.625, 0.25)


@pytest.mark.parametrize(("right", "count"), [(0, 32), (16, 32), (31, 32), (288, 288)])
def test_interval_is_where_a_share_could_have_been(right: int, count: int) -> None:
    """Wilson's bounds are the shares p from which `right` is 1.96 deviations away."""
    low, high = interval(right / count, count)
    assert 0 <= low <= right / count <= high <= 1
    for bound in {low, high} - {0.0, 1.0}:
        away = abs(right / count - bound) / math.sqrt(bound * (1 - bound) / count)
        assert away == pytest.approx(1.959964, rel=1e-4)


def test_every_mode_is_compared_at_full_and_limited_rank() -> None:
    for count, sets in ((2, 9), (3, 9), (4, 3)):
        assert len(lora_sets(count)) == sets
        compared = settings(count)
        assert compared[: len(BASELINES)] == list(BASELINES)
        assert {setting.mode for setting in compared[len(BASELINES) :]} == set(MODES)
        for id, mode in MODES.items():
            ranks = {setting.rank for setting in compared if setting.mode == id}
            assert ranks == ({"full", "4"} if "svd_rank" in mode.options else {""})


@pytest.fixture
def fake_results() -> Results:
    pairs = [(loras, setting) for loras in lora_sets(2) for setting in settings(2)]
    return {pair: Score(32, 1.0, 0.5, 1.0, 0.25) for pair in pairs}


def test_the_page_has_a_row_for_every_setting(fake_results: Results) -> None:
    add = Setting("add")
    for loras in lora_sets(2):
        fake_results[loras, add] = replace(fake_results[loras, add], all=0.5)
    page = markdown(fake_results, [2], 32, "note")
    rows = [line for line in page.splitlines() if line.endswith(" |")]
    assert "| `add` |  |  | 100 (99-100) | 50 (44-56) | 100 (99-100) | 50 (44-56) |" in rows
    assert "| `ties_svd` | 0.2 | full | 100 (99-100) | 50 (44-56) | 100 (99-100) | 25 (20-30) |" in rows
    assert sum("(" in row for row in rows) == len(settings(2))


def test_the_table_has_a_line_for_every_set_and_setting(fake_results: Results) -> None:
    file = io.StringIO()
    write_table(fake_results, file)
    lines = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert len(lines) == len(fake_results)
    found = next(line for line in lines if (line["loras"], line["mode"]) == ("star+outline", "add"))
    assert [found[name] for name in ("pictures", "all", "style")] == ["32", "0.25", "0.5"]
    low, high = interval(0.25, 32)
    assert (float(found["all_low"]), float(found["all_high"])) == pytest.approx((low, high), rel=1e-3)


def test_the_plot_is_an_svg_with_a_bar_for_every_setting(fake_results: Results) -> None:
    root = ElementTree.fromstring(plot(fake_results, 2))
    bars = root.findall("{http://www.w3.org/2000/svg}rect")[1:]  # the first is the ground
    assert len(bars) == len(settings(2)) - 2  # without the two that are of one LoRA
    assert {bar.get("width") for bar in bars} == {"105.0"}


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Setting] = []

    def measure(pipeline: object, loras: Loras, setting: Setting, seeds: int) -> Score:
        if len(measured) == 5:
            raise KeyboardInterrupt
        measured.append(setting)
        return Score(seeds, 1, 1, 1, 1)

    monkeypatch.setattr(results_module, "measure", measure)
    monkeypatch.setattr(results_module, "_version", lambda seeds: f"v{seeds}")
    with pytest.raises(KeyboardInterrupt):
        measure_all(None, [4], 8, tmp_path / "kept.json")
    before = [*measured]
    monkeypatch.setattr(results_module, "measure", lambda *given: measured.append(given[2]) or Score(8, 0, 0, 0, 0))
    found = measure_all(None, [4], 8, tmp_path / "kept.json")
    assert measured[:5] == before
    assert len(measured) == len(found) == 3 * len(settings(4))
    assert sum(score.all for score in found.values()) == 5
