"""Progress on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lib_pm.jobs.progress import Progress, silent


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Progress]:
    """A bar on stderr if that is a terminal. It is gone at the end, so that an error has its line to itself."""
    if quiet or not sys.stderr.isatty():
        yield silent
        return
    try:
        from tqdm import tqdm
    except ImportError:  # it comes with every WebUI, but is not required
        yield _plain
        return
    with tqdm(unit="layer", leave=False) as bar:

        def show(done: int, total: int, layer: str) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def _plain(done: int, total: int, layer: str) -> None:
    sys.stderr.write(f"{done}/{total} layers" + ("\n" if done == total else "\r"))
    sys.stderr.flush()
