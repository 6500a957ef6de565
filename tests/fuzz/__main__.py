"""Many cases in one go, each under watch: `python -m tests.fuzz --files 100000`, `--texts 100000`.

Each batch runs in a process of its own, which a watchdog ends where even Python's own threads stand still. What is
neither a result nor a MergeInputError, takes more than 2 s of processor time, or more memory than four times the file
and 64 MB is listed, with the number that makes the case again: `--files 1 --from NUMBER`.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

BATCH = 2000
SLOW = 2.0  # seconds of processor time
HANG = 60  # seconds on the clock after which a case is ended: other programs may hold the machine
MEMORY = 64 * 2**20  # beside four times the file: what torch's first use of a routine takes


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.add_argument("--files", type=int, default=0, metavar="N")
    parser.add_argument("--texts", type=int, default=0, metavar="N")
    parser.add_argument("--from", type=int, default=0, metavar="N", dest="start", help="number of the first case")
    parser.add_argument("--batch", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.batch:
        _batch(options.batch, options.start, options.files or options.texts)
        return 0
    bad = 0
    for kind, count in (("files", options.files), ("texts", options.texts)):
        if count:
            bad += _watch(kind, options.start, count)
    return min(bad, 1)


def _watch(kind: str, start: int, count: int) -> int:
    """Run the cases in batches and tell what came of them. Return how many are findings."""
    outcomes: Counter[str] = Counter()
    findings: list[str] = []
    begun = time.perf_counter()
    most: dict[str, tuple[float, int]] = {"seconds": (0, 0), "memory": (0, 0)}
    number, end = start, start + count
    while number < end:
        size = min(BATCH, end - number)
        words = [sys.executable, "-m", "tests.fuzz", "--batch", kind, f"--{kind}", str(size), "--from", str(number)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            last = number - 1
            for line in process.stdout or ():
                told = json.loads(line)
                last = told["case"]
                outcomes[told["outcome"]] += 1
                findings += told.get("findings", [])
                for what in most:
                    most[what] = max(most[what], (told[what], last))
        if process.returncode:
            findings.append(f"{kind} {last + 1}: the process ended with {process.returncode}, the watchdog's is 1")
            last += 1
        number = last + 1
        print(f"{kind} {number - start} of {count}, {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    for outcome, many in outcomes.most_common():
        print(f"{many:8} {outcome}")
    seconds, memory = most["seconds"], most["memory"]
    print(f"longest: {seconds[0]:.2f} s of processor time, case {seconds[1]}")
    print(f"most memory beside that before: {memory[0] / 2**20:.0f} MB, case {memory[1]}")
    print(f"{len(findings)} findings", *findings, sep="\n")
    return len(findings)


def _batch(kind: str, start: int, count: int) -> None:
    """The cases from `start` on, a line of JSON for each."""
    with tempfile.TemporaryDirectory(prefix="pm_fuzz_") as folder:
        _cases(kind, _files(Path(folder)) if kind == "files" else _texts(), start, count)


def _cases(kind: str, run: Callable[[int], tuple[str, int]], start: int, count: int) -> None:
    for number in range(start, start + count):
        told: dict[str, Any] = {"case": number, "outcome": "RAW", "findings": []}
        size = 0
        faulthandler.dump_traceback_later(HANG, exit=True)
        before, begun = _peak_from_here(), time.process_time()
        try:
            told["outcome"], size = run(number)
        except Exception as error:  # noqa: BLE001 (this is what is looked for)
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {str(error)[:200]}"
            told["findings"].append(f"{kind} {number}: {text} ({Path(where.filename).name}:{where.lineno})")
        faulthandler.cancel_dump_traceback_later()
        told["seconds"], told["memory"] = time.process_time() - begun, _peak() - before
        if told["seconds"] > SLOW:
            told["findings"].append(f"{kind} {number}: {told['seconds']:.1f} s of processor time")
        if told["memory"] > 4 * size + MEMORY:
            told["findings"].append(f"{kind} {number}: {told['memory'] / 2**20:.0f} MB for {size} bytes")
        print(json.dumps(told), flush=True)


def _files(folder: Path) -> Callable[[int], tuple[str, int]]:
    """What runs the case of a number and returns its outcome and the bytes of its file."""
    from tests.fuzz.files import case, drive, write_case, write_partner

    partner = write_partner(folder)

    def run(number: int) -> tuple[str, int]:
        path = write_case(folder, case(number))
        return drive(path, partner, Random(number)), path.stat().st_size

    return run


def _texts() -> Callable[[int], tuple[str, int]]:
    from tests.fuzz.texts import drive

    return lambda number: (drive(number), 0)


def _peak_from_here() -> int:
    """Forget the most memory that this process had, where the system can. Return what it has now, in bytes."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
    return _peak()


def _peak() -> int:
    from lib_pm.merging.report import peak_memory

    return peak_memory() or 0


if __name__ == "__main__":
    sys.exit(main())
