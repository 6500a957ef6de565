"""Benchmarks: each figure is paired with its yardstick in the same run, and is only reported if the result is right.

`python run.py bench` runs them and, if it runs them all, writes docs/benchmarks.md.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from tests import layouts
from tests.loras import make_lora, write

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Row:
    """One line of the table. ratio: yardstick / ours if ours is meant to be `less`, else ours / yardstick."""

    what: str
    ours: float
    yardstick: str
    yardstick_value: float
    unit: str
    ratio: float
    target: str
    less: bool = True


@dataclass
class Pairs:
    """Runs ours and the yardstick in turn, through pytest-benchmark, and collects the rows."""

    benchmark: object
    rows: list[Row] = field(default_factory=list)

    def run(
        self,
        ours: Callable[[], object],
        yardstick: Callable[[], object],
        timer: Callable[[], float],
        rounds: int,
        warmup: int = 1,
    ):
        """Medians of both, and the median of the ratios ours / yardstick pair by pair.

        warmup: rounds before those that count, which have a pair too.
        """
        others: list[float] = []

        def before() -> None:
            start = timer()
            yardstick()
            others.append(timer() - start)

        self.benchmark.pedantic(ours, setup=before, rounds=rounds, warmup_rounds=warmup)  # type: ignore[attr-defined]
        mine = self.benchmark.stats.stats.data  # type: ignore[attr-defined]
        others = others[-len(mine) :]
        ratio = statistics.median(a / b for a, b in zip(mine, others, strict=True))
        return statistics.median(mine), statistics.median(others), ratio


# For ours and the yardsticks, here and in processes started from here.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

PACKAGES = ("torch", "numpy", "safetensors", "peft")
# A machine with other work to do shows in wall times, less in CPU times, least in ratios.
LOAD = f" Load when it began: {os.getloadavg()[0]:.1f}." if hasattr(os, "getloadavg") else ""
ROWS: list[Row] = []
HALF = torch.float16


@pytest.fixture
def pairs(benchmark) -> Pairs:
    return Pairs(benchmark, ROWS)


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, list[Path]]:
    """Two LoRAs of true SD1.5 shapes (264 layers, rank 16) and two of SDXL's (986 layers, rank 32), fp16."""
    folder = tmp_path_factory.mktemp("loras")
    return {
        name: [
            write(
                folder / f"{name}{seed}.safetensors", make_lora(shapes, rank, rank / 2, seed=seed, dtype=torch.float16)
            )
            for seed in (1, 2)
        ]
        for name, shapes, rank in (("sd15", layouts.sd15(), 16), ("sdxl", layouts.sdxl(), 32))
    }


def children_cpu() -> float:
    """Return the CPU seconds of all finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_process(*arguments: object) -> None:
    subprocess.run([sys.executable, *map(str, arguments)], stdout=subprocess.DEVNULL, check=True)


def wall() -> float:
    return time.perf_counter()


def usage_of_process(*arguments: object) -> tuple[float, int]:
    """Return the CPU seconds and the largest resident size in bytes of Python with these arguments.

    Started by a small process in between: a child's figure counts what its parent held when it was started.
    """
    launcher = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-S", "-c", launcher, sys.executable, *map(str, arguments)]
    start = children_cpu()
    peak = int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return children_cpu() - start, peak if sys.platform == "darwin" else peak * 1024


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for row in _table():
        terminalreporter.write_line(row)


def pytest_sessionfinish(session: pytest.Session) -> None:
    files = {item.path for item in session.items}
    if ROWS and files == set(Path(__file__).parent.glob("bench_*.py")) and not session.config.option.keyword:
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(_document(), encoding="utf-8")


def _document() -> str:
    lines = [
        "# Benchmarks",
        "",
        "Written by `python run.py bench`. Ours and the yardstick run in turn in one session; medians, and the median",
        "of the ratios pair by pair. A row is there only if the result was right. One thread.",
        "",
        f"{time.strftime('%Y-%m-%d')}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in PACKAGES)}.{LOAD}",
        "",
        *_table(),
    ]
    return "\n".join(lines) + "\n"


def _table() -> list[str]:
    head = ["| what | ours | yardstick | | ratio | target |", "|---|---|---|---|---|---|"]
    return head + [
        f"| {row.what} | {row.ours:.3g} {row.unit} | {row.yardstick} | {row.yardstick_value:.3g} {row.unit} "
        f"| {row.ratio:.3g} × {'less' if row.less else 'as much'} | {row.target} |"
        for row in ROWS
    ]
