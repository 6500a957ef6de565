"""All scores, one after the other, kept in a file from which a stopped run goes on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from demo.quality.measure import Score, measure
from demo.quality.settings import Loras, Setting, lora_sets, settings
from demo.tiny.weights import LORAS, WEIGHTS
from lib_pm import __version__

Results = dict[tuple[Loras, Setting], Score]


def measure_all(pipeline: Any, counts: Iterable[int], seeds: int, kept: Path) -> Results:
    """Return the scores of every setting on every set of `counts` LoRAs.

    kept: a JSON file with the scores that there are already.
    """
    scores: dict[str, dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    version = _version(seeds)
    todo = [(loras, setting) for count in counts for loras in lora_sets(count) for setting in settings(count)]
    results: Results = {}
    for index, (loras, setting) in enumerate(todo, start=1):
        key = f"{version} {'+'.join(loras.names)} {setting.mode} {json.dumps(setting.options)}"
        if key not in scores:
            start = time.monotonic()
            scores[key] = asdict(measure(pipeline, loras, setting, seeds))
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(scores, indent=1), encoding="utf-8")
            found = f"{scores[key]['all']:.0%} of pictures right, {time.monotonic() - start:.1f} s"
            print(f"{index} of {len(todo)}: {key.split(' ', 1)[1]}: {found}", flush=True)
        results[loras, setting] = Score(**scores[key])
    return results


def of_setting(results: Results, count: int, setting: Setting) -> list[Score]:
    """Return the scores of one setting on all sets of `count` LoRAs."""
    return [score for (loras, one), score in results.items() if one == setting and len(loras.names) == count]


def _version(seeds: int) -> str:
    """Return a name for what scores depend on, this version of the project first, so that no old one is mixed in."""
    digest = hashlib.sha256(f"{__version__} {seeds}".encode())
    for path in [WEIGHTS, *sorted(LORAS.glob("*.safetensors"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
