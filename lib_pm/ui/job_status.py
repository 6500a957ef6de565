"""A job that a button of the tab starts: its progress and its result, shown in one place of the page."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lib_pm.compare.findings import Analysis
from lib_pm.core.errors import MergeInputError
from lib_pm.render.analysis_html import analysis_html
from lib_pm.render.messages import note_html, problem_html, seconds_text
from lib_pm.render.report_html import report_html
from lib_pm.workspace.job_queue import Job
from lib_pm.workspace.workspace import Workspace

INTERVAL = 0.2  # seconds between two looks at a job


@dataclass(frozen=True)
class JobStatus:
    """status: where it is shown. job: the id of this page's running job, "" for none. cancel: its button."""

    status: Any
    job: Any
    cancel: Any

    @property
    def outputs(self) -> list[Any]:
        return [self.status, self.job, self.cancel]


def draw_job_status(workspace: Workspace, elem_id: str) -> JobStatus:
    """Draw the status and a button that cancels this page's job."""
    cancel = gr.Button("Cancel", visible=False, elem_id=f"{elem_id}_cancel")
    job_status = JobStatus(gr.HTML(elem_id=f"{elem_id}_status"), gr.State(""), cancel)

    def stop(id: str) -> None:
        for job in workspace.queue.jobs:  # one that ended long ago is not among them any more
            if job.id == id:
                job.cancel()

    cancel.click(stop, inputs=[job_status.job], outputs=[], show_progress="hidden", queue=False)
    return job_status


def run_on_click(
    button: Any,
    workspace: Workspace,
    job_status: JobStatus,
    submit: Callable[..., Job],
    inputs: list[Any],
    outputs: Sequence[Any] = (),
    after: Callable[[Any], list[Any]] | None = None,
) -> Any:
    """Let a click submit a job and show its progress and its result. Return gradio's event, for what is to follow.

    submit: takes the values of the inputs; its MergeInputError is shown. after: the new states of the outputs when it
    is done, given its result.
    """

    def run(*values: Any) -> Iterator[list[Any]]:
        still = [gr.update() for _ in outputs]
        try:
            job = submit(*values)
        except MergeInputError as error:
            yield [problem_html(workspace.public(str(error))), "", gr.update(visible=False), *still]
            return
        for states in watch(workspace, job):
            yield [*states, *(after(job.result) if after and job.state == "done" else still)]

    return button.click(run, inputs=inputs, outputs=[*job_status.outputs, *outputs], show_progress="hidden")


def watch(workspace: Workspace, job: Job) -> Iterator[list[Any]]:
    """Yield the states of `JobStatus.outputs` until the job has ended."""
    while not job.wait(INTERVAL):
        yield [progress_html(job), job.id, gr.update(visible=True)]
    yield [_end(workspace, job), "", gr.update(visible=False)]


def watch_current(workspace: Workspace) -> Iterator[list[Any]]:
    """Yield the same for a page that was opened while a job runs."""
    job = workspace.queue.current
    if job:
        yield from watch(workspace, job)
    else:
        yield [gr.update(), "", gr.update(visible=False)]


def progress_html(job: Job) -> str:
    """Return the progress of a job, in words and as a bar."""
    what = html.escape(job.what)
    if job.state == "waiting":
        return f'<p class="pm-progress" role="status">{what}: waiting in the queue.</p>'
    left = job.seconds_left
    time = "" if left is None else f", {seconds_text(left)} left"
    far = f"{job.done} of {job.total} {job.unit}{time}" if job.total else "opening files"
    if job.total and job.unit == "files":
        far = f"reading files, {job.done} of {job.total}"
    return (
        f'<p class="pm-progress" role="status">{what}: {far}</p>'
        f'<progress class="pm-bar" aria-label="{what}" value="{job.done}" max="{job.total or 1}"></progress>'
    )


def _end(workspace: Workspace, job: Job) -> str:
    if job.state == "done":
        return analysis_html(job.result) if isinstance(job.result, Analysis) else "".join(map(report_html, job.result))
    if job.state == "cancelled":
        return note_html(f"{job.what}: cancelled, nothing was written.")
    return problem_html(workspace.public(job.error))
