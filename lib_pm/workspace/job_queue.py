"""Jobs that run in the background, one after another, and can be watched and cancelled."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal

from lib_pm.core.errors import MergeInputError
from lib_pm.core.visible import visible
from lib_pm.merging.progress import Cancelled, Progress, Unit

State = Literal["waiting", "running", "done", "failed", "cancelled"]
Turn = AbstractContextManager[Any]

KEPT = 50  # jobs that can still be asked for after they ended
MOST_WAITING = 100
_log = logging.getLogger(__name__)


class Job:
    """A piece of work and its progress. result: what it returned, once done. error: for the user, once failed."""

    def __init__(self, what: str) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.what = what
        self.state: State = "waiting"
        self.done = self.total = 0
        self.unit: Unit = "files"  # that it reads, then layers
        self.result: Any = None
        self.error = ""
        self._first_layer = 0.0  # when its work began
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._ended = threading.Event()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    @property
    def seconds_left(self) -> float | None:
        """Return an estimate from the layers so far; None in the first second, when they say little."""
        seconds = time.monotonic() - self._first_layer
        if self.state != "running" or self.unit != "layers" or not self.done or seconds < 1:
            return None
        return seconds / self.done * (self.total - self.done)

    def cancel(self) -> None:
        """Stop it: at once if it waits, within a file or layer if it runs; one that has ended stays as it is."""
        with self._lock:
            self._cancelled.set()
            if self.state == "waiting":
                self._end("cancelled")

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end, but no longer than that. Return whether it has ended."""
        return self._ended.wait(seconds)

    def run(self, work: Callable[[Progress], Any], turn: Turn) -> None:
        """Do the work when its turn comes, and keep the result or the error."""
        try:
            with turn:
                with self._lock:
                    if self.ended:
                        return
                    self._first_layer, self.state = time.monotonic(), "running"
                self.result = work(self._progress)
            self._end("done")
        except Cancelled:
            self._end("cancelled")
        except MergeInputError as error:
            self.error = str(error)
            self._end("failed")
        except BaseException as error:  # noqa: BLE001 (nobody is above this: the log gets it, the user its message)
            _log.exception("%s failed", visible(self.what))
            self.error = f"{type(error).__name__}: {error}"
            self._end("failed")

    def _progress(self, done: int, total: int, name: str, unit: Unit = "layers", /) -> None:
        if self._cancelled.is_set():
            raise Cancelled
        if unit == "files":  # each layer's time is told by those after the last file
            self._first_layer = time.monotonic()
        self.done, self.total, self.unit = done, total, unit

    def _end(self, state: State) -> None:
        self.state = state
        self._ended.set()


class QueueFull(MergeInputError):
    """Too many jobs are waiting; try again later."""


class Queue:
    """Runs jobs one after another, in a thread that is there while there are any."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._waiting: deque[tuple[Job, Callable[[], None]]] = deque()
        self._works = False
        self._lock = threading.Lock()

    def submit(self, what: str, work: Callable[[Progress], Any], turn: Turn) -> Job:
        """Queue a job and return it. what: for the user. turn: a lock of the WebUI's, say, that the work is done under.

        QueueFull if MOST_WAITING wait already, or if the system has no thread for it.
        """
        job = Job(what)
        with self._lock:
            self._forget_ended()
            if len(self._waiting) >= MOST_WAITING:
                raise QueueFull(
                    f"{len(self._waiting)} jobs are already waiting; allowed: {MOST_WAITING}. Wait for some to end, or "
                    "cancel them."
                )
            self._waiting.append((job, partial(job.run, work, turn)))
            if not self._works:
                self._start()
            self._jobs.append(job)
        return job

    @property
    def jobs(self) -> list[Job]:
        """Return all jobs that have not ended and the last of those that have, oldest first."""
        with self._lock:
            self._forget_ended()
            return list(self._jobs)

    @property
    def current(self) -> Job | None:
        """Return the job that runs, or the next one, None if there is none."""
        return next((job for job in self.jobs if not job.ended), None)

    def find(self, id: str) -> Job:
        job = next((job for job in self.jobs if job.id == id), None)
        if job is None:
            raise MergeInputError(f"There is no job {id!r}; only the last {KEPT} finished jobs are kept.")
        return job

    def _start(self) -> None:
        try:
            threading.Thread(target=self._work, name="Power Merger", daemon=True).start()
        except RuntimeError as error:  # nothing else waits: there would be a thread
            self._waiting.clear()
            raise QueueFull(f"The system cannot start a thread for the job ({error}); try again later.") from error
        self._works = True

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._works = False
                    return
                _, run = self._waiting.popleft()
            run()

    def _forget_ended(self) -> None:
        """Drop jobs that were cancelled while waiting, and all but the last of the ended ones."""
        self._waiting = deque(waiting for waiting in self._waiting if not waiting[0].ended)
        ended = [job for job in self._jobs if job.ended]
        forgotten = set(ended[:-KEPT])
        self._jobs = [job for job in self._jobs if job not in forgotten]
