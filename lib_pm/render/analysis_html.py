"""An analysis as HTML: sentences, tables, plots; every name escaped. No script, and no style except for wide parts."""

from __future__ import annotations

from collections.abc import Sequence

from lib_pm.compare.findings import Analysis
from lib_pm.render.charts import blocks_svg, spectrum_svg
from lib_pm.render.svg import text
from lib_pm.render.text import number, percent


def analysis_html(analysis: Analysis) -> str:
    """Return an analysis as one element of class pm-analysis, for a gr.HTML."""
    sentences = [pair.meaning for pair in analysis.pairs] + [f"Note: {note}." for note in analysis.notes]
    parts = [f"<ul>{''.join(f'<li>{text(sentence)}</li>' for sentence in sentences)}</ul>"] if sentences else []
    if analysis.pairs:
        rows = [
            [pair.title, number(pair.whole.cosine), percent(pair.whole.conflict), f"{pair.whole.layers}"]
            for pair in analysis.pairs
        ]
        parts.append(_table(["LoRAs", "cosine", "sign conflict (chance is 50%)", "layers in common"], rows))
    rows = [
        [lora.name, f"{lora.used} of {lora.layers}", f"{lora.norm:.4g}", *_ranks(lora.spectrum.ranks)]
        for lora in analysis.loras
    ]
    if len(rows) > 1:
        rows.append(["sum", f"{analysis.layers}", f"{analysis.norm:.4g}", *_ranks(analysis.spectrum.ranks)])
    parts.append(_table(["LoRA", "layers used", "norm", "rank for 90%", "for 95%", "for 99% of the energy"], rows))
    # Plots that are made narrower get too small to read; they scroll instead.
    parts += [f'<div style="overflow-x:auto">{plot(analysis)}</div>' for plot in (blocks_svg, spectrum_svg)]
    return f'<div class="pm-analysis">{"".join(parts)}</div>'


def _ranks(ranks: dict[int, int]) -> list[str]:
    return [f"{rank}" for rank in ranks.values()] or ["–"] * 3


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the first cell of each row is its heading."""
    headings = "".join(f'<th scope="col">{text(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>{"".join(f"<td>{text(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    table = f"<table><thead><tr>{headings}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div style="overflow-x:auto">{table}</div>'
