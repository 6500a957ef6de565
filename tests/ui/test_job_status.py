"""What the tab says of a job and in its lists, as HTML in which names are text."""

from __future__ import annotations

import pytest

from lib_pm.ui.job_status import progress_html
from lib_pm.ui.lora_lists import data_html, marker
from lib_pm.workspace.job_queue import Job
from lib_pm.workspace.workspace import ListedLora
from tests.markup import EVIL, Parsed, is_text


def evil_job() -> Job:
    job = Job(EVIL)
    job.state, job.done, job.total = "running", 1, 2
    return job


@pytest.mark.parametrize(
    "html",
    [
        progress_html(Job(EVIL)),
        progress_html(evil_job()),
        data_html([ListedLora(EVIL, EVIL, EVIL, EVIL)], [EVIL]),
        marker("saved", EVIL),
    ],
)
def test_a_name_is_text_and_no_tag(html: str) -> None:
    assert is_text(html)


def test_progress() -> None:
    job = Job("Merging 2 LoRAs")
    assert Parsed(progress_html(job)).text == "Merging 2 LoRAs: waiting in the queue."
    job.state = "running"
    assert Parsed(progress_html(job)).text == "Merging 2 LoRAs: opening files"
    job.done, job.total = 12, 500
    parsed = Parsed(progress_html(job))
    assert parsed.text == "Merging 2 LoRAs: reading files, 12 of 500"
    assert (parsed.attributes["value"], parsed.attributes["max"]) == ("12", "500")
    job.done, job.total, job.unit = 5, 20, "layers"  # since the machine was started: no time is left
    parsed = Parsed(progress_html(job))
    assert parsed.text.startswith("Merging 2 LoRAs: 5 of 20 layers")
    assert (parsed.attributes["value"], parsed.attributes["max"]) == ("5", "20")


def test_a_marker_is_new_each_time() -> None:
    assert marker("saved", "a") != marker("saved", "a")
    assert Parsed(marker("saved", EVIL)).attributes["data-saved"] == EVIL
