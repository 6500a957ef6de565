"""Progress on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lib_pm.merging.progress import Progress, Unit, silent


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Progress]:
    """Show a bar on stderr if that is a terminal. It is gone at the end, so that an error has its own line."""
    if quiet or not sys.stderr.isatty():
        yield silent
        return
    try:
        from tqdm import tqdm
    except ImportError:  # it comes with every WebUI, but is not required
        yield _plain
        return
    with tqdm(leave=False) as bar:

        def show(done: int, total: int, name: str, unit: Unit = "layers") -> None:
            if (bar.unit, bar.total) != (f" {unit}", total):
                bar.unit = f" {unit}"
                bar.reset(total)
            bar.update(done - bar.n)

        yield show


def _plain(done: int, total: int, name: str, unit: Unit = "layers") -> None:
    sys.stderr.write(f"{done}/{total} {unit} " + ("\n" if (done, unit) == (total, "layers") else "\r"))
    sys.stderr.flush()
