"""Reports, analyses and inspections as text, for a terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lib_pm.core.errors import counted
from lib_pm.core.visible import as_lines
from lib_pm.files.metadata import RECIPE_KEY, TAGS_KEY, too_long

if TYPE_CHECKING:  # which would load torch
    from lib_pm.compare.findings import Analysis, Spectrum
    from lib_pm.files.contents import Inspection
    from lib_pm.merging.report import LayerReport, Report

TAGS_SHOWN = 10


def report_text(report: Report, *, every_layer: bool = False) -> str:
    """Return a few lines; with every_layer one more per layer."""
    lines = [report.what]
    for lora in report.loras:
        off = f", {len(lora.off_by_block)} switched off by block weights" if lora.off_by_block else ""
        without = no_alpha(lora.without_alpha, lora.layers)
        alpha = f", {without}" if without else ""
        lines.append(f"  {lora.name}: {lora.used} of {lora.layers} layers used{off}{alpha}")
    lines.append(f"  result: {counted(len(report.layers), 'layer')}, rank {ranks_text(report)}")
    for reason, count in Counter(report.left_out.values()).items():
        first = next(name for name, why in report.left_out.items() if why == reason)
        lines.append(f"  left out: {counted(count, 'layer')}, {reason} (first {first})")
    if report.kept_energy is not None:
        lowest = min((layer for layer in report.layers if layer.kept_energy is not None), key=_energy)
        lines.append(f"  kept energy: {report.kept_energy:.2%} overall, lowest {_energy(lowest):.2%} in {lowest.name}")
    lines += [f"  note: {note}" for note in report.notes]
    if every_layer:
        lines += [f"  {layer.name}: {_rank_text(layer)}{_energy_text(layer)}" for layer in report.layers]
    memory = f", peak memory {report.peak_memory / 2**20:.0f} MB" if report.peak_memory else ""
    lines.append(f"  {report.seconds:.2f} s{memory}")
    if report.file:
        lines.append(f"  written: {report.file} ({report.size / 2**20:.1f} MB)")
    return as_lines(lines)


def analysis_text(analysis: Analysis) -> str:
    """Return a paragraph for each LoRA, for the sum, and for each pair."""
    lines = [f"{counted(len(analysis.loras), 'LoRA')} for {analysis.family}, {analysis.layers} layers"]
    for lora in analysis.loras:
        lines.append(f"  {lora.name}: {lora.used} of {lora.layers} layers used, norm {lora.norm:.4g}")
        lines.append(f"    energy kept: {spectrum_text(lora.spectrum)}")
        lines += _by_block("share of the squared norm", {block: f"{x:.1%}" for block, x in lora.shares.items()})
    if len(analysis.loras) > 1:
        lines += [f"  sum: norm {analysis.norm:.4g}", f"    energy kept: {spectrum_text(analysis.spectrum)}"]
    for pair in analysis.pairs:
        lines.append(
            f"  {pair.title}: cosine {number(pair.whole.cosine)}, sign conflict {percent(pair.whole.conflict)}, "
            f"{pair.whole.layers} layers in common"
        )
        lines.append(f"    {pair.meaning}")
        blocks = pair.blocks.items()
        lines += _by_block("cosine", {block: number(found.cosine) for block, found in blocks})
        lines += _by_block("sign conflict", {block: percent(found.conflict) for block, found in blocks})
    lines += [f"  note: {note}" for note in analysis.notes]
    return as_lines([*lines, f"  {analysis.seconds:.2f} s"])


def inspection_text(inspection: Inspection) -> str:
    """Return a few lines on a file, and its metadata, long values shortened."""
    layers = inspection.layers.values()
    alphas = sorted({layer["alpha"] for layer in layers if layer["alpha"] is not None})
    ranks = sorted({layer["rank"] for layer in layers if layer["rank"] is not None})
    networks = _counts(inspection.networks) if len(inspection.networks) > 1 else next(iter(inspection.networks))
    kinds = Counter(layer["kind"] for layer in layers)
    blocks = Counter(layer["block"] or "(none)" for layer in layers)
    without = no_alpha(inspection.without_alpha, len(inspection.layers))
    alpha = f" ({without})" if without else ""
    lines = [
        f"{inspection.file} ({inspection.size / 2**20:.1f} MB)",
        f"  model: {inspection.family}",
        f"  format: {networks}, {inspection.naming} names, {_counts(inspection.dtypes)}",
        f"  layers: {len(inspection.layers)} ({_counts(kinds)})",
        f"  rank: {_span(ranks)}, alpha: {_span(alphas)}{alpha}",
        f"  blocks: {_counts(dict(sorted(blocks.items())))}",
    ]
    if inspection.left_out:
        lines.append(
            f"  in no layer: {counted(len(inspection.left_out), 'tensor')}, the first is {inspection.left_out[0]}"
        )
    if inspection.tags:
        first = dict(list(inspection.tags.items())[:TAGS_SHOWN])
        lines.append(f"  tags: {_counts(first)}{' …' if len(inspection.tags) > TAGS_SHOWN else ''}")
    elif too_long(inspection.metadata):
        lines.append(f"  tags: not read: {too_long(inspection.metadata)}")
    if inspection.recipe:
        names = ", ".join(str(lora.get("name")) for lora in inspection.recipe.get("loras", []))
        lines.append(f"  merged by Power Merger: {inspection.recipe.get('mode')} of {names}")
    shown = {key: value for key, value in inspection.metadata.items() if key not in (RECIPE_KEY, TAGS_KEY)}
    lines += [f"  {key}: {value if len(value) <= 100 else value[:99] + '…'}" for key, value in sorted(shown.items())]
    return as_lines(lines)


def spectrum_text(spectrum: Spectrum) -> str:
    """Return the ranks that keep most of the energy."""
    return ", ".join(f"{share}% at rank {rank}" for share, rank in spectrum.ranks.items()) or "nothing"


def number(value: float | None) -> str:
    """Return a cosine with two digits; – for none."""
    return "–" if value is None else f"{value:.2f}".replace("-0.00", "0.00")


def percent(value: float | None) -> str:
    """Return a share in whole percent; – for none."""
    return "–" if value is None else f"{value:.0%}"


def no_alpha(missing: int, layers: int) -> str:
    """Return what to say of a file with layers that have no alpha, "" if each has one: its strength may be another."""
    where = "" if missing == layers else f" in {missing} of {layers} layers"
    return f"no alpha stored{where}: the rank is used instead" if missing else ""


def _by_block(what: str, values: Mapping[str, str]) -> list[str]:
    words = ", ".join(f"{block}\N{NO-BREAK SPACE}{value}" for block, value in values.items())
    return textwrap.wrap(f"{what} by block: {words}", 120, initial_indent=" " * 4, subsequent_indent=" " * 6)


def _energy(layer: LayerReport) -> float:
    return 1.0 if layer.kept_energy is None else layer.kept_energy


def _energy_text(layer: LayerReport) -> str:
    return "" if layer.kept_energy is None else f", kept energy {layer.kept_energy:.2%}"


def ranks_text(report: Report) -> str:
    """Return the ranks that the result's layers have; biases and norms have none."""
    ranks = {layer.rank for layer in report.layers if layer.rank is not None}
    if len(ranks) == 1:
        return str(next(iter(ranks)))
    return f"{min(ranks)} to {max(ranks)}" if ranks else "none"


def _rank_text(layer: LayerReport) -> str:
    return "a bias or a norm" if layer.rank is None else f"rank {layer.rank}"


def _counts(counts: dict[str, int] | Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _span(values: list[Any]) -> str:
    if not values:
        return "none"
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"
