"""The plots: well-formed, with the right numbers in the right places, legible on light and dark pages."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import pytest

from lib_pm.compare.findings import Analysis, LoraAnalysis, Pair, Relation, Spectrum
from lib_pm.render.charts import blocks_svg, spectrum_svg
from lib_pm.render.svg import COLOURS, shortened
from tests.layouts import BLOCK_LISTS

Element = ElementTree.Element
NAMES = ["plain", "a<b>&\"'", "bell\x07", "lone\ud800", "x" * 200, "日本", "six", "seven", "eighth", "ninth"]


def found(count: int = 2, blocks: int = 17) -> Analysis:
    """An analysis of so many LoRAs with values that tell where they are from."""
    words = tuple(BLOCK_LISTS[max(17, blocks)].split()[:blocks])
    loras = tuple(
        LoraAnalysis(
            NAMES[i],
            9,
            9,
            1.0 + i,
            {block: (index + i) % 5 / 20 for index, block in enumerate(words)},
            Spectrum(tuple(rank / (4 + i) for rank in range(1, 5 + i))),
        )
        for i in range(count)
    )
    pairs = tuple(
        Pair(
            (NAMES[i], NAMES[j]),
            Relation(9, -0.25, 0.6),
            {
                block: Relation(index, (index % 9 - 4) / 4, 0.5) if index else Relation(0, None, None)
                for index, block in enumerate(words)
            },
            "…",
        )
        for i, j in itertools.combinations(range(count), 2)
    )
    return Analysis("SD", 9, words, loras, pairs, 3.0, Spectrum((0.5, 0.8, 0.9, 0.94, 0.96, 0.99, 0.999, 1.0)))


def parsed(svg: str) -> Element:
    return ElementTree.fromstring(svg.replace(' xmlns="http://www.w3.org/2000/svg"', "", 1))


def words(root: Element) -> list[str]:
    return [text.text or "" for text in root.iter("text")]


def titled(root: Element, start: str) -> dict[str, Element]:
    """The shapes whose own title begins so, by the rest of it."""
    shapes = {title: shape for shape in root.iter() if (title := shape.findtext("title"))}
    return {title.removeprefix(start): shape for title, shape in shapes.items() if title.startswith(start)}


@pytest.mark.parametrize("blocks", [1, 17, 61])
@pytest.mark.parametrize("count", [1, 2, 3, 8, 10])
@pytest.mark.parametrize("plot", [blocks_svg, spectrum_svg])
def test_it_is_a_whole_picture_with_a_name(plot, count, blocks):
    svg = plot(found(count, blocks))
    root = parsed(svg)
    svg.encode()  # a file's name may hold what cannot be
    assert root.get("role") == "img"
    named = root.get("aria-labelledby", "").split()
    assert [child.get("id") for child in (root.find("title"), root.find("desc"))] == named
    assert all(child is not None and child.text for child in (root.find("title"), root.find("desc")))
    assert ("first 8 of 10" in " ".join(words(root))) == (count == 10)
    for forbidden in ("<script", "<style", "<b>", "onload", "href"):
        assert forbidden not in svg
    assert "currentColor" in (root.get("fill") or "")
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    assert root.get("viewBox") == f"0 0 {root.get('width')} {root.get('height')}"
    for text in root.iter("text"):  # nothing is written outside, nor over each other in the same line
        size = 0.5 * float(text.get("font-size", 12)) * len(text.text or "")
        x, y = float(text.get("x", -1)), float(text.get("y", -1))
        if "transform" not in text.attrib:
            left = x - {"start": 0, "middle": size / 2, "end": size}[text.get("text-anchor", "start")]
            assert left >= -2
            assert left + size <= width + 2, text.text
        assert 0 < y <= height


def test_no_background_and_no_rectangle_under_everything():
    assert not [*parsed(spectrum_svg(found())).iter("rect")]
    cells = [*parsed(blocks_svg(found())).iter("rect")]
    assert cells
    assert max(float(cell.get("width", 0)) for cell in cells) < 50
    assert {cell.get("fill") for cell in cells} <= set(COLOURS)


def luminance(colour: str) -> float:
    """Of sRGB, as WCAG 2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("page", ["#ffffff", "#0b0f19", "#1f2937"])
@pytest.mark.parametrize("colour", COLOURS)
def test_colours_are_seen_on_light_and_dark_pages(colour, page):
    light, dark = sorted((luminance(colour), luminance(page)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3  # WCAG 2.1, graphical objects


def test_a_cell_for_each_pair_and_block():
    analysis = found(3)
    root = parsed(blocks_svg(analysis))
    for pair in analysis.pairs:
        title = re.sub("[^ -~]", "�", pair.title)
        cells = titled(root, f"{title}, ")
        assert len(cells) == 18
        assert "BASE: no layers in common" in cells
        for block, relation in pair.blocks.items():
            if relation.cosine is not None:
                cell = cells[f"{block}: cosine {relation.cosine:.2f}"]
                assert float(cell.get("fill-opacity", -1)) == abs(relation.cosine)
                assert (cell.get("fill") == COLOURS[1]) == (relation.cosine < 0)
        assert "all layers: cosine -0.25" in cells
    assert {"−1 opposite", "0 unrelated", "1 the same", "block of the model", "–"} <= set(words(root))


@pytest.mark.parametrize("blocks", [17, 61])
def test_bars_are_as_high_as_the_shares(blocks):
    analysis = found(2, blocks)
    root = parsed(blocks_svg(analysis))
    ends = [text for text in root.iter("text") if text.get("text-anchor") == "end"]
    scale = {text.text: float(text.get("y", 0)) for text in ends}  # of the last LoRA; all are alike
    for name, lora, colour in zip(("plain", "a<b>&\"'"), analysis.loras, COLOURS, strict=False):
        bars = titled(root, f"{name}, ")
        heights = {
            block: float(bars[f"{block}: {share:.1%}"].get("height", -1)) for block, share in lora.shares.items()
        }
        whole = scale["0%"] - scale["20%"]
        assert whole > 20
        assert heights == {block: pytest.approx(whole * share / 0.2, abs=0.02) for block, share in lora.shares.items()}
        assert {bars[f"{block}: {share:.1%}"].get("fill") for block, share in lora.shares.items()} == {colour}


def test_one_lora_has_no_row_of_cosines():
    assert not any("osine" in word for word in words(parsed(blocks_svg(found(1)))))


def test_curves_go_where_the_numbers_are():
    analysis = found(2)
    root = parsed(spectrum_svg(analysis))
    texts = {text.text: (float(text.get("x", 0)), float(text.get("y", 0))) for text in root.iter("text")}
    curves = titled(root, "")
    for name, spectrum in (("plain", analysis.loras[0].spectrum), ("sum of all 2", analysis.spectrum)):
        group = curves[name]
        line = group.find("polyline")
        assert line is not None
        points = [tuple(map(float, point.split(","))) for point in line.get("points", "").split()]
        assert len(points) == len(spectrum.kept)
        for rank in (1, 2, 4):  # over the numbers of the axis
            assert points[rank - 1][0] == pytest.approx(texts[f"{rank}"][0], abs=0.1)
        below, above = texts["0"][1], texts["100"][1]
        for (_, y), kept in zip(points, spectrum.kept, strict=True):
            assert y == pytest.approx(below - 4 - (below - above) * kept, abs=0.1)
        marks = [(float(circle.get("cx", 0)), float(circle.get("cy", 0))) for circle in group.iter("circle")]
        assert marks == [pytest.approx(points[rank - 1], abs=0.1) for rank in spectrum.ranks.values()]
    right = max(float(line.get("x2", 0)) for line in root.iter("line"))
    assert points[-1] == (pytest.approx(right, abs=0.1), pytest.approx(above - 4, abs=0.1))
    assert "sum of all 2: 90% at rank 3, 95% at rank 5, 99% at rank 6" in texts
    assert {"rank of each layer", "energy kept, %", "90%", "95%", "99%"} <= set(texts)


def test_nothing_to_keep_is_told():
    empty = Analysis("SD", 0, (), (LoraAnalysis("none", 3, 0, 0.0, {}, Spectrum(())),), (), 0.0, Spectrum(()))
    assert "none: nothing" in words(parsed(spectrum_svg(empty)))
    parsed(blocks_svg(empty))


def test_names_are_shortened_in_the_middle():
    assert shortened("short", 100) == "short"
    short = shortened("style-of-a-long-name-v2", 80)
    assert len(short) <= 80 / (12 * 0.5)
    assert re.fullmatch(r"style.*….*v2", short)
