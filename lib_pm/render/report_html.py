"""The report of a merge or a resize as HTML."""

from __future__ import annotations

import html
from collections import Counter

from lib_pm.core.errors import counted
from lib_pm.merging.report import Report
from lib_pm.render.messages import seconds_text, table_html
from lib_pm.render.text import no_alpha, ranks_text


def report_html(report: Report) -> str:
    """Return what a merge or a resize did: in words, a table of LoRAs, and one of layers that opens on a click."""
    lines = [f"<p><b>{html.escape(report.what)}</b></p>"]
    if report.file:
        lines.append(f'<p class="pm-file">Written: {html.escape(report.file)} ({_megabytes(report.size)})</p>')
    elif report.size:
        lines.append(f"<p>Nothing has been written yet. The file would be about {_megabytes(report.size)}.</p>")
    rows = [(lora.name, f"{lora.used} of {lora.layers}", len(lora.off_by_block) or "") for lora in report.loras]
    lines.append(table_html(("LoRA", "layers used", "off by block weights"), rows))
    lines.append(f"<p>Result: {counted(len(report.layers), 'layer')}, rank {ranks_text(report)}.</p>")
    if report.kept_energy is not None:
        least = min((layer.kept_energy, layer.name) for layer in report.layers if layer.kept_energy is not None)
        lines.append(
            f"<p>Kept energy: {report.kept_energy:.2%} overall, lowest {least[0]:.2%} in {html.escape(least[1])}.</p>"
        )
    for reason, count in Counter(report.left_out.values()).items():
        lines.append(f"<p>Left out: {counted(count, 'layer')}, {html.escape(reason)}.</p>")
    without = ((lora.name, no_alpha(lora.without_alpha, lora.layers)) for lora in report.loras)
    notes = [f"{name}: {note}" for name, note in without if note] + report.notes
    lines += [f'<p class="pm-note">{html.escape(note)}</p>' for note in notes]
    lines.append(f"<p>{seconds_text(report.seconds)}.</p>")
    layers = [
        (
            layer.name,
            "" if layer.rank is None else layer.rank,
            "" if layer.kept_energy is None else f"{layer.kept_energy:.2%}",
        )
        for layer in report.layers
    ]
    table = table_html(("layer", "rank", "kept energy"), layers)
    return f'<div class="pm-report">{"".join(lines)}<details><summary>All layers</summary>{table}</details></div>'


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.1f} MB"
