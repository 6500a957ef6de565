"""What a killed job left behind is removed by the next one in that folder, and nothing else is."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lib_pm.files import leftovers
from lib_pm.files.leftovers import new_temporary, sweep
from lib_pm.files.whole_file import WholeFile, write_text

ROOT = Path(__file__).parent.parent.parent
WRITES = (
    "import sys\n"
    "from pathlib import Path\n"
    "from lib_pm.files.whole_file import WholeFile\n"
    "with WholeFile(Path('big')) as whole:\n"
    "    whole.file.write(b'half')\n"
    "    whole.file.flush()\n"
    "    print('writing', flush=True)\n"
    "    sys.stdin.read()\n"
)
posix = pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there: nothing to lock")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def left(folder: Path, *, host: str = "", days: float = 0) -> Path:
    """A file as a killed process leaves it. host: of another machine. days: how long ago."""
    with new_temporary(folder) as file:
        path = Path(file.name)
    if host:
        path = path.rename(path.with_name(path.name.replace(leftovers._HERE, host)))
    os.utime(path, (time.time() - days * 86400,) * 2)
    return path


@posix
def test_a_killed_process(tmp_path: Path) -> None:
    """While it lives its file stays, whoever sweeps; afterwards the next job in the folder removes it."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout
        assert process.stdout.readline() == "writing\n"
        (file,) = tmp_path.iterdir()
        sweep(tmp_path)
        assert file.read_bytes() == b"half"
        process.kill()
    assert names(tmp_path) == [file.name]
    write_text(tmp_path / "new", "", "it")
    assert names(tmp_path) == ["new"]


@posix
def test_one_of_this_process_stays(tmp_path: Path) -> None:
    """The tab saves a recipe while a merge is being written."""
    with WholeFile(tmp_path / "a") as first, WholeFile(tmp_path / "b") as second:
        assert len(names(tmp_path)) == 2
        first.place()
        sweep(tmp_path)
        second.place()
    assert names(tmp_path) == ["a", "b"]


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.touch()
    looks_like_it = left(tmp_path)
    looks_like_it.unlink()
    for name in ("a.tmp", ".a.1234.tmp", "power-merger.tmp", f"{looks_like_it.name}.bak", f"a{looks_like_it.name}"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    looks_like_it.mkdir()
    left(tmp_path).rename(tmp_path / "renamed")
    link = left(tmp_path)
    link.unlink()
    link.symlink_to(mine)
    before = names(tmp_path)
    sweep(tmp_path)
    assert names(tmp_path) == before


@posix
@pytest.mark.parametrize(("days", "stays"), [(0, True), (0.9, True), (1.1, False)])
@pytest.mark.parametrize("why", ["another machine", "no locks"])
def test_where_locks_tell_nothing_a_day_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str, days: float, stays: bool
) -> None:
    """A folder that machines share, or one whose file system has no locks."""
    file = left(tmp_path, host="0123abcd" if why == "another machine" else "", days=days)
    if why == "no locks":

        def refuse(*_: Any) -> None:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

        monkeypatch.setattr("fcntl.flock", refuse)
    sweep(tmp_path)
    assert file.exists() == stays


@posix
def test_one_that_another_machine_writes_stays(tmp_path: Path) -> None:
    file = left(tmp_path, host="0123abcd", days=2)
    with file.open("r+b") as open_file:
        assert leftovers._lock(open_file)
        sweep(tmp_path)
        assert file.exists()


@posix
def test_swept_in_the_moment_before_it_was_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, first = leftovers._lock, []

    def late(file: Any) -> bool | None:
        if not first:
            first.append(file.name)
            os.remove(file.name)
        return lock(file)

    monkeypatch.setattr(leftovers, "_lock", late)
    with WholeFile(tmp_path / "a") as whole:
        assert whole.file.name not in first
        whole.place()
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(("days", "stays"), [(0, True), (0.01, False)])
def test_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: float, stays: bool) -> None:
    """Where the system keeps open files, only those that were closed a moment ago must be spared."""
    monkeypatch.setattr(leftovers, "WINDOWS", True)
    file = left(tmp_path, days=days)
    sweep(tmp_path)
    assert file.exists() == stays


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    sweep(tmp_path / "none")
