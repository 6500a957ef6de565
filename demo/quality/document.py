"""The scores as a page with tables, and as a plot."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from html import escape
from typing import TextIO

from demo.quality.measure import Score, interval, together
from demo.quality.results import Results, of_setting
from demo.quality.settings import BASELINES, FULL_RANK, LIMITED_RANK, Setting, lora_sets, settings

_ROW, _LEFT, _BAR = 18, 250, 420  # pixels: a row's height, room for its name, the length of a whole bar
_COLOURS = {"base": "#9aa0a6", "exact": "#1a73e8", "factors": "#f29900", "delta": "#188038"}


def markdown(results: Results, counts: Sequence[int], seeds: int, note: str) -> str:
    parts = [
        "# What merges keep",
        _INTRODUCTION.format(seeds=seeds, full=FULL_RANK, limited=LIMITED_RANK),
        note,
        "![Share of pictures in which everything is right, two LoRAs](quality.svg)",
        "Two LoRAs, all of it right: grey the stack, blue exact, orange on factors, green on full deltas.",
    ]
    for count in counts:
        parts.append(f"## {count} LoRAs\n\n{_table(results, count)}")
    if 2 in counts:
        parts.append(f"## Each pair\n\nShare of pictures in which everything is right.\n\n{_pairs(results)}")
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """\
Written by `python run.py bench quality`. The pictures are of the small model in `demo/tiny`, all LoRAs at
strength 1, {seeds} pictures for each set of LoRAs: "a *colour* *content* on a *colour* background", the same captions
and seeds in every row. Plain image checks (`demo/tiny/checks.py`) say in which share of the pictures, in
percent, the content's shape is there, all styles are, and shape and background have the caption's colours; *all* is
where all of it holds. Behind each is its 95 % interval (Wilson, of independent pictures). *rank* is `svd_rank`: full
({full}) cuts nothing off, {limited} is that of most of the LoRAs. [quality.csv](quality.csv) has each set by itself.

One small model with drawn pictures: it shows what a method does to LoRAs that meet, not how it will look on yours."""
_PARTS = ("content", "style", "caption", "all")


def _table(results: Results, count: int) -> str:
    lines = [f"| | density | rank | {' | '.join(_PARTS)} |", "|---|---|---|---|---|---|---|"]
    for setting in settings(count):
        score = together(of_setting(results, count, setting))
        shares = [_with_interval(getattr(score, part), score.pictures) for part in _PARTS]
        cells = [_name(setting), setting.density, setting.rank, *shares]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _pairs(results: Results) -> str:
    pairs = lora_sets(2)
    shown = [one for one in settings(2) if one.density in ("", "0.5") and one.rank in ("", "full")]
    lines = [f"| | {' | '.join(' + '.join(loras.names) for loras in pairs)} |", f"|---|{'---|' * len(pairs)}"]
    for setting in shown:
        shares = [_percent(results[loras, setting].all) for loras in pairs]
        lines.append(f"| {_name(setting)} | {' | '.join(shares)} |")
    return "\n".join(lines)


def _name(setting: Setting) -> str:
    return setting.mode if setting in BASELINES else f"`{setting.mode}`"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


def _with_interval(share: float, pictures: int) -> str:
    low, high = map(_percent, interval(share, pictures))
    return f"{_percent(share)} ({low}-{high})"


def write_table(results: Results, file: TextIO) -> None:
    """All scores as CSV: a line for each set of LoRAs and setting, shares 0..1 with the ends of their intervals."""
    writer = csv.writer(file, lineterminator="\n")
    bounds = [f"{part}{end}" for part in _PARTS for end in ("", "_low", "_high")]
    writer.writerow(["loras", "mode", "density", "rank", "pictures", *bounds])
    for (loras, setting), score in results.items():
        shares = [getattr(score, part) for part in _PARTS]
        found = [number for share in shares for number in (share, *interval(share, score.pictures))]
        row = ["+".join(loras.names), setting.mode, setting.density, setting.rank, score.pictures]
        writer.writerow([*row, *(f"{number:.4g}" for number in found)])


def plot(results: Results, count: int) -> str:
    """Return an SVG: for every setting the share of pictures in which all is right, with its interval."""
    shown = [one for one in settings(count) if one.mode not in ("content alone", "style alone")]
    height = (len(shown) + 2) * _ROW
    width = _LEFT + _BAR + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for percent in range(0, 101, 20):
        x = _LEFT + _BAR * percent / 100
        parts.append(f'<line x1="{x}" x2="{x}" y1="4" y2="{height - _ROW}" stroke="#e0e0e0"/>')
        parts.append(f'<text x="{x}" y="{height - 4}" text-anchor="middle">{percent} %</text>')
    for index, setting in enumerate(shown):
        parts += _bar(setting, together(of_setting(results, count, setting)), 8 + index * _ROW)
    return "\n".join([*parts, "</svg>", ""])


def _bar(setting: Setting, score: Score, y: int) -> list[str]:
    options = {"density": setting.density, "rank": setting.rank}
    label = escape(" ".join([setting.mode, *(f"{name} {value}" for name, value in options.items() if value)]))
    low, high = (_LEFT + _BAR * edge for edge in interval(score.all, score.pictures))
    middle = y + _ROW / 2 - 2
    return [
        f'<text x="{_LEFT - 6}" y="{y + 11}" text-anchor="end">{label}</text>',
        f'<rect x="{_LEFT}" y="{y}" width="{_BAR * score.all:.1f}" height="{_ROW - 5}" fill="{_colour(setting)}"/>',
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="black"/>',
    ]


def _colour(setting: Setting) -> str:
    from lib_pm.core.registry import MODES

    return _COLOURS["base" if setting in BASELINES else MODES[setting.mode].space]
