"""The queue: one job after the other, watched, cancelled, and what is said when one fails."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

from lib_pm.core.errors import MergeInputError
from lib_pm.merging.progress import Progress
from lib_pm.workspace import job_queue as queue_module
from lib_pm.workspace.job_queue import KEPT, MOST_WAITING, Job, Queue, QueueFull
from tests.messages import saying

SECONDS = 10  # how long a test waits for what should come at once


class Work:
    """Runs until it is let go, and tells a layer each time that it is told to."""

    def __init__(self) -> None:
        self.entered, self._go = threading.Event(), threading.Event()
        self._layers = threading.Semaphore(0)
        self.calls = 0

    def __call__(self, progress: Progress) -> str:
        self.calls += 1
        self.entered.set()
        done = 0
        while not self._go.is_set():
            if self._layers.acquire(timeout=0.01):
                done += 1
            progress(done, 10, f"layer {done}")
        return "merged"

    def layer(self) -> None:
        self._layers.release()

    def finish(self) -> None:
        self._go.set()


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def works() -> Iterator[Callable[[], Work]]:
    made: list[Work] = []

    def work() -> Work:
        made.append(Work())
        return made[-1]

    yield work
    for one in made:
        one.finish()


def submit(queue: Queue, work: Callable[[Progress], Any], what: str = "Merging") -> Job:
    return queue.submit(what, work, nullcontext())


def ended(job: Job) -> Job:
    assert job.wait(SECONDS)
    return job


def eventually(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_result_comes_back(queue: Queue) -> None:
    job = ended(submit(queue, lambda progress: 7))
    assert (job.state, job.result, job.error) == ("done", 7, "")
    assert queue.find(job.id) is job
    assert queue.jobs == [job]
    assert queue.current is None


def test_jobs_run_one_at_a_time_in_their_order(queue: Queue) -> None:
    running: list[int] = []
    most: list[int] = []
    order: list[int] = []

    def numbered(number: int) -> Callable[[Progress], None]:
        def work(progress: Progress) -> None:
            order.append(number)
            running.append(number)
            time.sleep(0.005)
            most.append(len(running))
            running.remove(number)

        return work

    jobs = [submit(queue, numbered(number)) for number in range(6)]
    for job in jobs:
        ended(job)
    assert order == list(range(6))
    assert set(most) == {1}


def test_how_far_a_job_is(queue: Queue, works: Callable[[], Work]) -> None:
    work = works()
    job, behind = submit(queue, work), submit(queue, works())
    work.layer()
    work.layer()
    eventually(lambda: job.done == 2)
    assert (job.state, job.total, behind.state) == ("running", 10, "waiting")
    assert queue.current is job
    assert not job.wait(0)


def test_cancelling_while_it_runs_acts_at_the_next_layer(queue: Queue, works: Callable[[], Work]) -> None:
    work = works()
    job = submit(queue, work)
    assert work.entered.wait(SECONDS)
    job.cancel()
    assert ended(job).state == "cancelled"
    assert job.result is None


def test_cancelling_while_it_waits_acts_at_once(queue: Queue, works: Callable[[], Work]) -> None:
    first, second, third = works(), works(), works()
    one, two, three = (submit(queue, work) for work in (first, second, third))
    assert first.entered.wait(SECONDS)
    two.cancel()
    assert (two.state, two.ended) == ("cancelled", True)
    assert not third.entered.wait(0.1), "the job behind it still waits for the one before it"
    assert one.state == "running"
    first.finish()
    third.finish()
    assert (ended(one).state, ended(three).state) == ("done", "done")
    assert (second.calls, two.state) == (0, "cancelled")


def test_cancelling_a_job_that_has_ended_changes_nothing(queue: Queue) -> None:
    job = ended(submit(queue, lambda progress: 7))
    job.cancel()
    assert (job.state, job.result) == ("done", 7)


def test_what_the_user_can_mend_is_the_jobs_error(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    def work(progress: Progress) -> None:
        raise MergeInputError("There is no LoRA 'a'.")

    job = ended(submit(queue, work))
    assert (job.state, job.error) == ("failed", "There is no LoRA 'a'.")
    assert not caplog.records


def test_a_bug_goes_to_the_log_and_the_next_job_runs(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    def work(progress: Progress) -> None:
        raise ZeroDivisionError("by 0")

    with caplog.at_level(logging.ERROR):
        job, behind = submit(queue, work, "Merging 2 LoRAs"), submit(queue, lambda progress: 7)
        assert (ended(job).state, job.error) == ("failed", "ZeroDivisionError: by 0")
        assert ended(behind).result == 7
    (record,) = caplog.records
    assert record.getMessage() == "Merging 2 LoRAs failed"
    assert record.exc_info
    assert record.exc_info[0] is ZeroDivisionError


def test_the_turn_is_held_while_the_work_is_done_and_no_longer(queue: Queue, works: Callable[[], Work]) -> None:
    events: list[str] = []

    @contextmanager
    def turn(name: str) -> Iterator[None]:
        events.append(f"{name} enters")
        yield
        events.append(f"{name} leaves")

    work = works()

    def told(progress: Progress) -> None:
        work(progress)
        events.append("work")

    job = queue.submit("a", told, turn("a"))
    behind = queue.submit("b", lambda progress: None, turn("b"))
    assert work.entered.wait(SECONDS)
    assert events == ["a enters"], "a job that waits holds nothing"
    work.finish()
    ended(job)
    ended(behind)
    assert events == ["a enters", "work", "a leaves", "b enters", "b leaves"]


def test_the_turn_is_left_after_a_failure(queue: Queue) -> None:
    lock = threading.Lock()

    def work(progress: Progress) -> None:
        assert lock.locked()
        raise MergeInputError("no")

    assert ended(queue.submit("a", work, lock)).error == "no"
    assert not lock.locked()


def test_a_job_that_waits_for_its_turn_can_be_cancelled(queue: Queue, works: Callable[[], Work]) -> None:
    """An image is being generated: the lock is the WebUI's."""
    lock, work = threading.Lock(), works()
    with lock:
        job = queue.submit("a", work, lock)
        assert not work.entered.wait(0.05)
        assert job.state == "waiting"
        job.cancel()
        assert job.state == "cancelled"
    behind = ended(queue.submit("b", lambda progress: 7, lock))
    assert (behind.result, work.calls, job.state) == (7, 0, "cancelled")


def test_seconds_left(queue: Queue, works: Callable[[], Work], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now

    monkeypatch.setattr(queue_module, "time", Clock)
    work = works()
    job = submit(queue, work)
    assert work.entered.wait(SECONDS)
    assert job.seconds_left is None, "no layer is done"
    work.layer()
    work.layer()
    eventually(lambda: job.done == 2)
    now = 100.5
    assert job.seconds_left is None, "half a second says little"
    now = 104.0
    assert job.seconds_left == 16.0  # 2 of 10 layers in 4 seconds
    work.finish()
    assert ended(job).seconds_left is None


def test_the_time_for_reading_the_files_is_not_the_layers(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now

    monkeypatch.setattr(queue_module, "time", Clock)
    left: list[float | None] = []

    def work(progress: Progress) -> None:
        nonlocal now
        for file in range(3):
            progress(file, 2, "file", "files")
            now += 1000
            left.append(job.seconds_left)
            assert (job.done, job.total, job.unit) == (file, 2, "files")
        progress(2, 2, "planned", "files")
        now += 4
        progress(1, 10, "layer")
        left.append(job.seconds_left)

    lock = threading.Lock()
    with lock:  # until `job` is there
        job = queue.submit("a", work, lock)
    assert ended(job).error == ""
    assert left == [None, None, None, 36.0]


def test_the_last_jobs_are_kept_and_none_that_has_not_ended_is_lost(queue: Queue, works: Callable[[], Work]) -> None:
    first = [ended(submit(queue, lambda progress: None)) for _ in range(KEPT + 3)]
    work = works()
    running = [submit(queue, work), *(submit(queue, lambda progress: None) for _ in range(KEPT + 3))]
    assert queue.jobs == [*first[-KEPT:], *running]
    with pytest.raises(MergeInputError, match=saying(f"job '{first[0].id}' … last {KEPT}")):
        queue.find(first[0].id)
    work.finish()
    for job in running:
        ended(job)


def test_those_that_have_ended_are_not_kept_until_the_next_comes(queue: Queue, works: Callable[[], Work]) -> None:
    work = works()
    jobs = [submit(queue, work), *(submit(queue, lambda progress: None) for _ in range(KEPT + 3))]
    work.finish()
    for job in jobs:
        ended(job)
    assert queue.jobs == jobs[-KEPT:]
    with pytest.raises(MergeInputError, match=jobs[0].id):
        queue.find(jobs[0].id)


def our_threads() -> int:
    return sum(thread.name.startswith("Power Merger") for thread in threading.enumerate())


def test_jobs_that_wait_hold_no_threads(queue: Queue, works: Callable[[], Work]) -> None:
    eventually(lambda: our_threads() == 0)  # of other tests
    work = works()
    jobs = [submit(queue, work) for _ in range(60)]
    assert our_threads() == 1
    work.finish()
    for job in jobs:
        ended(job)
    eventually(lambda: our_threads() == 0)
    assert ended(submit(queue, lambda progress: 7)).result == 7


def test_what_was_cancelled_while_it_waited_is_let_go(queue: Queue, works: Callable[[], Work]) -> None:
    class Large:
        def __call__(self, progress: Progress) -> None: ...

    submit(queue, works())
    large = Large()
    held = weakref.ref(large)
    submit(queue, large).cancel()
    del large
    submit(queue, works())
    gc.collect()
    assert held() is None


def test_only_so_many_may_wait(queue: Queue, works: Callable[[], Work]) -> None:
    work = works()
    running = submit(queue, work)
    assert work.entered.wait(SECONDS)
    waiting = [submit(queue, lambda progress: 7) for _ in range(MOST_WAITING)]
    for _ in range(2):
        with pytest.raises(QueueFull, match=saying(f"{MOST_WAITING} jobs … {MOST_WAITING}")):
            submit(queue, lambda progress: None)
    assert queue.jobs == [running, *waiting]
    waiting[5].cancel()
    waiting.append(submit(queue, lambda progress: 7))
    work.finish()
    assert [ended(job).state for job in waiting].count("done") == MOST_WAITING


def test_a_thread_that_cannot_start_is_an_error_and_the_next_job_runs(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(QueueFull, match="can't start new thread"):
            submit(queue, lambda progress: None)
    assert (queue.jobs, queue.current) == ([], None)
    assert ended(submit(queue, lambda progress: 7)).result == 7


def test_whatever_a_job_raises_the_next_one_runs(queue: Queue, works: Callable[[], Work]) -> None:
    def work(progress: Progress) -> None:
        raise SystemExit("enough")

    first = works()
    submit(queue, first)
    job, behind = submit(queue, work), submit(queue, lambda progress: 7)
    first.finish()
    assert (ended(job).state, job.error) == ("failed", "SystemExit: enough")
    assert ended(behind).result == 7
