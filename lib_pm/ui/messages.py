"""What the tab says, as HTML: problems, progress, reports."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable

from lib_pm.core.errors import counted
from lib_pm.core.visible import visible, whole
from lib_pm.merging.report import Report
from lib_pm.workspace.job_queue import Job


def problem_html(text: str) -> str:
    """Return the message of a user's error."""
    return f'<p class="pm-problem" role="alert">{html.escape(visible(text))}</p>'


def note_html(text: str) -> str:
    return f'<p class="pm-note" role="status">{html.escape(visible(text))}</p>'


def progress_html(job: Job) -> str:
    """Return the progress of a job, in words and as a bar."""
    what = html.escape(job.what)
    if job.state == "waiting":
        return f'<p class="pm-progress" role="status">{what}: waiting in the queue.</p>'
    left = job.seconds_left
    time = "" if left is None else f", {seconds_text(left)} left"
    far = f"{job.done} of {job.total} {job.unit}{time}" if job.total else "opening files"
    if job.total and job.unit == "files":
        far = f"reading files, {job.done} of {job.total}"
    return (
        f'<p class="pm-progress" role="status">{what}: {far}</p>'
        f'<progress class="pm-bar" aria-label="{what}" value="{job.done}" max="{job.total or 1}"></progress>'
    )


def report_html(report: Report) -> str:
    """Return what a merge or a resize did: in words, a table of LoRAs, and one of layers that opens on a click."""
    lines = [f"<p><b>{html.escape(report.what)}</b></p>"]
    if report.file:
        lines.append(f'<p class="pm-file">Written: {html.escape(report.file)} ({_megabytes(report.size)})</p>')
    elif report.size:
        lines.append(f"<p>Nothing has been written yet. The file would be about {_megabytes(report.size)}.</p>")
    rows = [(lora.name, f"{lora.used} of {lora.layers}", len(lora.off_by_block) or "") for lora in report.loras]
    lines.append(table_html(("LoRA", "layers used", "off by block weights"), rows))
    ranks = Counter(layer.rank for layer in report.layers)
    spread = f"{min(ranks)} to {max(ranks)}" if len(ranks) > 1 else next(iter(ranks), "none")
    lines.append(f"<p>Result: {counted(len(report.layers), 'layer')}, rank {spread}.</p>")
    if report.kept_energy is not None:
        least = min((layer.kept_energy, layer.name) for layer in report.layers if layer.kept_energy is not None)
        lines.append(
            f"<p>Kept energy: {report.kept_energy:.2%} overall, lowest {least[0]:.2%} in {html.escape(least[1])}.</p>"
        )
    for reason, count in Counter(report.left_out.values()).items():
        lines.append(f"<p>Left out: {counted(count, 'layer')}, {html.escape(reason)}.</p>")
    notes = [f"{lora.name}: {without}" for lora in report.loras if (without := lora.no_alpha)] + report.notes
    lines += [f'<p class="pm-note">{html.escape(note)}</p>' for note in notes]
    lines.append(f"<p>{seconds_text(report.seconds)}.</p>")
    layers = [
        (layer.name, layer.rank, "" if layer.kept_energy is None else f"{layer.kept_energy:.2%}")
        for layer in report.layers
    ]
    table = table_html(("layer", "rank", "kept energy"), layers)
    return f'<div class="pm-report">{"".join(lines)}<details><summary>All layers</summary>{table}</details></div>'


def table_html(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    def row(cells: Iterable[object], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(whole(str(cell)))}</{tag}>' for cell in cells)}</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f'<table class="pm-table"><thead>{row(head, "th")}</thead><tbody>{body}</tbody></table>'


def seconds_text(seconds: float) -> str:
    """Return `0.4 s`, `12 s` or `3 min 20 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.1f} MB"
