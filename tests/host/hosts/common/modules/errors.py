"""Exceptions that the host swallows: printed, and remembered so that a test can ask."""

from __future__ import annotations

import sys
import traceback

exception_records: list[dict[str, str]] = []


def record_exception() -> None:
    error = sys.exc_info()[1]
    if error is not None:
        exception_records.append({"exception": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()})


def report(message: str, *, exc_info: bool = False) -> None:
    record_exception()
    print(f"*** {message}", file=sys.stderr)
    if exc_info:
        print(traceback.format_exc(), file=sys.stderr)


def display(e: Exception, task: str, *, full_traceback: bool = False) -> None:
    record_exception()
    print(f"{task}: {type(e).__name__}: {e}", file=sys.stderr)


def display_once(e: Exception, task: str) -> None:
    display(e, task)
