"""Two plots of an analysis as SVG text: where LoRAs act and agree, block by block, and which rank they need."""

from __future__ import annotations

import math

from lib_pm.compare.findings import KEPT, Analysis, LoraAnalysis, Pair, Relation
from lib_pm.render.svg import COLOURS, element, label, line, picture, shortened, text
from lib_pm.render.text import number, spectrum_text

MOST = len(COLOURS)  # LoRAs in one plot
SAME, OPPOSITE = COLOURS[0], COLOURS[1]  # of cosines: blue and orange are told apart by everybody

_LEFT, _RIGHT = 190, 24
_ROW, _BARS = 24, 56  # heights of a row of cosines, of a row of bars
_SMALL = 10  # font


def blocks_svg(analysis: Analysis) -> str:
    """Return a plot by block: each pair's cosine as coloured cells, each LoRA's share of its squared norm as bars.

    It shows the first 8 LoRAs.
    """
    loras = analysis.loras[:MOST]
    pairs = _pairs(analysis)
    column = min(44.0, max(18.0, 560 / max(1, len(analysis.blocks))))
    width = _LEFT + column * max(1, len(analysis.blocks)) + (column + 16 if pairs else 0) + _RIGHT
    width = max(width, 640.0)
    parts: list[str] = []
    y = 20.0
    if pairs:
        parts.append(label(0, y, "Cosine of each pair: do they pull in the same direction?", font_weight="bold"))
        y = _names(parts, analysis.blocks, column, y + 10)
        parts.append(label(_LEFT + len(analysis.blocks) * column + 16 + column / 2, y - 6, "all", anchor="middle"))
        for pair in pairs:
            _row(parts, pair, analysis.blocks, column, y)
            y += _ROW
        y = _cosine_legend(parts, y + 14) + 34
    parts.append(label(0, y, "Share of each LoRA's squared norm: where does it act?", font_weight="bold"))
    y += 16
    most = max([share for lora in loras for share in lora.shares.values()], default=0.0) or 1.0
    for lora, colour in zip(loras, COLOURS, strict=False):
        _bars(parts, lora, colour, analysis.blocks, column, y, most)
        y += _BARS
    y = _names(parts, analysis.blocks, column, y - 4)
    parts.append(label(_LEFT + column * len(analysis.blocks) / 2, y + 8, "block of the model", anchor="middle"))
    y += 8 + _note(parts, analysis, y + 28)
    described = [f"{pair.title}: cosine {number(pair.whole.cosine)}." for pair in pairs]
    described += [f"{lora.name} acts most in {_most(lora)}." for lora in loras if lora.norm]
    title = (
        "Cosine of pairs and share of the squared norm, by block" if pairs else "Share of the squared norm, by block"
    )
    return picture("pm-blocks", width, y + 10, title, " ".join(described), *parts)


def _row(parts: list[str], pair: Pair, blocks: tuple[str, ...], column: float, y: float) -> None:
    half = (_LEFT - 30) / 2
    short = " · ".join(shortened(name, half) for name in pair.names)
    parts.append(label(_LEFT - 8, y + 16, short, anchor="end"))
    for index, block in enumerate(blocks):
        _cell(parts, f"{pair.title}, {block}", pair.blocks[block], _LEFT + index * column, y, column)
    _cell(parts, f"{pair.title}, all layers", pair.whole, _LEFT + len(blocks) * column + 16, y, column)


def _cell(parts: list[str], what: str, relation: Relation, x: float, y: float, column: float) -> None:
    cosine = relation.cosine
    words = "no layers in common" if not relation.layers else f"cosine {number(cosine)}"
    parts.append(
        element(
            "rect",
            element("title", text(f"{what}: {words}")),
            x=x + 1,
            y=y + 1,
            width=column - 2,
            height=_ROW - 2,
            fill=OPPOSITE if cosine is not None and cosine < 0 else SAME,
            fill_opacity=abs(cosine or 0.0),
            stroke="currentColor",
            stroke_opacity=0.25,
        )
    )
    if column >= 30 or cosine is None:
        parts.append(label(x + column / 2, y + 16, number(cosine), anchor="middle", size=_SMALL, pointer_events="none"))


def _cosine_legend(parts: list[str], y: float) -> float:
    """Draw swatches from opposite to the same. Return the y below them."""
    x = float(_LEFT)
    for value, words in (
        (-1.0, "−1 opposite"),
        (-0.5, "−0.5"),
        (0.0, "0 unrelated"),
        (0.5, "0.5"),
        (1.0, "1 the same"),
    ):
        parts.append(
            element(
                "rect",
                x=x,
                y=y,
                width=14,
                height=14,
                fill=OPPOSITE if value < 0 else SAME,
                fill_opacity=abs(value),
                stroke="currentColor",
                stroke_opacity=0.25,
            )
        )
        parts.append(label(x + 19, y + 11, words, size=_SMALL))
        x += 30 + 6.2 * len(words)
    return y + 14


def _bars(
    parts: list[str], lora: LoraAnalysis, colour: str, blocks: tuple[str, ...], column: float, y: float, most: float
) -> None:
    """Draw one LoRA's bars; `most` is the share that fills the height."""
    top, bottom = y + 14, y + _BARS - 8
    end = _LEFT + column * len(blocks)
    parts.append(element("rect", x=0, y=top + 4, width=12, height=12, fill=colour))
    parts.append(element("g", element("title", text(lora.name)), label(18, top + 14, shortened(lora.name, 125))))
    parts += [line(_LEFT, bottom, end, bottom), line(_LEFT, top, end, top, stroke_dasharray="2 3")]
    parts += [
        label(_LEFT - 5, height + 3, words, anchor="end", size=_SMALL)
        for height, words in ((top, f"{most:.0%}"), (bottom, "0%"))
    ]
    for index, block in enumerate(blocks):
        share = lora.shares[block]
        x, height = _LEFT + index * column, (bottom - top) * share / most
        bar = element("title", text(f"{lora.name}, {block}: {share:.1%}"))
        parts.append(element("rect", bar, x=x + 3, y=bottom - height, width=column - 6, height=height, fill=colour))
        if column >= 30 and share >= 0.005:
            parts.append(label(x + column / 2, bottom - height - 3, f"{share:.0%}", anchor="middle", size=_SMALL))


def _names(parts: list[str], blocks: tuple[str, ...], column: float, y: float) -> float:
    """Draw the names of the blocks, turned upright where they don't fit. Return the y below them."""
    longest = max(map(len, blocks), default=0)
    if longest * _SMALL * 0.62 <= column - 2:
        for index, block in enumerate(blocks):
            parts.append(label(_LEFT + (index + 0.5) * column, y + 14, block, anchor="middle", size=_SMALL))
        return y + 20
    below = y + longest * _SMALL * 0.68 + 8
    for index, block in enumerate(blocks):
        x = _LEFT + (index + 0.5) * column + 3.5
        turned = f"rotate(-90 {x:g} {below - 4:g})"
        parts.append(label(x, below - 4, block, size=_SMALL, transform=turned))
    return below


def spectrum_svg(analysis: Analysis) -> str:
    """Return a plot of the energy kept by rank, for each LoRA and for their sum, marked at 90, 95 and 99 %.

    It shows the first 8 LoRAs, and the sum of all.
    """
    curves = [(lora.name, lora.spectrum, colour) for lora, colour in zip(analysis.loras, COLOURS, strict=False)]
    if len(analysis.loras) > 1:
        curves.append((f"sum of all {len(analysis.loras)}", analysis.spectrum, "currentColor"))
    left, top, width, height = 64.0, 40.0, 620.0, 300.0
    right, bottom = left + width, top + height
    most = max([len(spectrum.kept) for _, spectrum, _ in curves] + [2])

    def place(rank: float, kept: float) -> tuple[float, float]:
        return left + width * math.log2(rank) / math.log2(most), bottom - height * kept

    parts = [label(0, 16, "Energy kept at each rank: which rank is enough?", font_weight="bold")]
    for percent in range(0, 101, 20):
        y = place(1, percent / 100)[1]
        parts += [line(left - 4, y, left, y), label(left - 8, y + 4, f"{percent}", anchor="end", size=_SMALL)]
    for percent in KEPT:
        y = place(1, percent / 100)[1]
        parts.append(line(left, y, right, y, stroke_dasharray="4 3"))
        parts.append(label(right + 5, y + 4, f"{percent}%", size=_SMALL))
    for rank in _ticks(most):
        x = place(rank, 0)[0]
        parts += [line(x, bottom, x, bottom + 4), label(x, bottom + 17, f"{rank}", anchor="middle", size=_SMALL)]
    parts += [line(left, top, left, bottom), line(left, bottom, right, bottom)]
    parts.append(label(left + width / 2, bottom + 36, "rank of each layer", anchor="middle"))
    middle = top + height / 2
    parts.append(label(16, middle, "energy kept, %", anchor="middle", transform=f"rotate(-90 16 {middle:g})"))
    for index, (name, spectrum, colour) in enumerate(curves):
        points = [place(rank, kept) for rank, kept in enumerate(spectrum.kept, 1)]
        marks = [points[rank - 1] for rank in spectrum.ranks.values()]
        dash = "" if colour == "currentColor" else _DASHES[index % len(_DASHES)]
        parts.append(_curve(name, points, marks, colour, dash))
        y = bottom + 62 + 20 * index
        parts.append(
            line(
                left,
                y - 4,
                left + 28,
                y - 4,
                stroke=colour,
                stroke_width=2.5,
                stroke_opacity=1,
                stroke_dasharray=dash or "none",
            )
        )
        parts.append(label(left + 36, y, f"{shortened(name, 260)}: {spectrum_text(spectrum)}"))
    y = bottom + 62 + 20 * len(curves)
    y += _note(parts, analysis, y)
    described = " ".join(f"{name}: {spectrum_text(spectrum)}." for name, spectrum, _ in curves)
    return picture("pm-spectrum", right + 56, y, "Energy kept by rank", described, *parts)


_DASHES = ("", "7 3", "2 3", "9 3 2 3")


def _curve(
    name: str, points: list[tuple[float, float]], marks: list[tuple[float, float]], colour: str, dash: str
) -> str:
    path = element(
        "polyline",
        points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points),
        fill="none",
        stroke=colour,
        stroke_width=2,
        stroke_dasharray=dash or "none",
    )
    circles = [element("circle", cx=x, cy=y, r=4, fill=colour) for x, y in marks]
    return element("g", element("title", text(name)), path, *circles)


def _ticks(most: int) -> list[int]:
    """Return 1, 2, 4, … and the last rank, without those that would touch it."""
    powers = [1 << exponent for exponent in range(most.bit_length()) if (1 << exponent) * 1.25 < most]
    return [*powers, most]


def _pairs(analysis: Analysis) -> list[Pair]:
    names = {lora.name for lora in analysis.loras[:MOST]}
    return [pair for pair in analysis.pairs if names.issuperset(pair.names)]


def _most(lora: LoraAnalysis) -> str:
    block = max(lora.shares, key=lambda block: lora.shares[block])
    return f"{block} ({lora.shares[block]:.0%})"


def _note(parts: list[str], analysis: Analysis, y: float) -> float:
    """Draw a note if LoRAs are left out. Return its height."""
    if len(analysis.loras) <= MOST:
        return 0.0
    parts.append(label(0, y, f"Showing the first {MOST} of {len(analysis.loras)} LoRAs."))
    return 24.0
