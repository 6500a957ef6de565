from __future__ import annotations


class State:
    """What the page polls while a job runs, and the buttons Interrupt and Skip."""

    def __init__(self) -> None:
        self.skipped = self.interrupted = self.stopping_generation = False
        self.job = ""
        self.job_no, self.job_count = 0, 0
        self.sampling_step = self.sampling_steps = 0
        self.textinfo: str | None = None
        self.need_restart = False

    def begin(self, job: str = "(unknown)") -> None:
        self.__init__()  # type: ignore[misc]
        self.job, self.job_count = job, -1

    def end(self) -> None:
        self.job, self.job_count = "", 0

    def nextjob(self) -> None:
        self.job_no += 1

    def interrupt(self) -> None:
        self.interrupted = True

    def skip(self) -> None:
        self.skipped = True
