"""How an image that cannot be made as requested is stopped, with a message in the page and over the API."""

from __future__ import annotations

import logging
from typing import Any, NoReturn

from fastapi import HTTPException

from lib_pm.core.errors import MergeInputError
from lib_pm.core.visible import as_lines

_log = logging.getLogger(__name__)
_STEPS = ("setup_conds", "calculate_hr_conds", "sample", "sample_hr_pass")


class Refusal(HTTPException):
    """A user's error as it leaves the WebUI: `Power Merger: There is no mode 'tiess'…`.

    In the page it puts an error's class before the message, which is why this one has such a name. Over the API the
    status of an HTTPException is the answer's, without a traceback in the console; all others are a 500 with one.
    """

    def __init__(self, message: str) -> None:
        super().__init__(400, message)

    def __str__(self) -> str:
        return str(self.detail)


Refusal.__name__ = "Power Merger"


class _UncopiableParameters(dict[str, Any]):
    """Parameters that cannot be copied: what an X/Y/Z plot does next with its first cell, whatever became of that."""

    error: Exception

    def __copy__(self) -> NoReturn:
        raise self.error


def in_page(p: Any) -> bool:
    """Return whether the page itself asked for this image, and shows its comments even without an image.

    Scripts, as the X/Y/Z plot, and the button that upscales want an image or an error.
    """
    script = p.script_args[0] if p.script_args else 0  # which of those in the page's menu
    return not (getattr(p, "is_api", False) or script or getattr(p, "txt2img_upscale", False))


def cancel_batch(p: Any, error: MergeInputError) -> None:
    """Stop this batch before the WebUI reads its prompts: without any, it makes none.

    The page shows the message, and the console has it in one line: an error would print its traceback there.
    """
    _report(p, error)
    p.prompts.clear()
    p.do_not_save_grid = True  # of no images it cannot be made


def was_aborted(p: Any) -> bool:
    """Return whether `abort` was called for this image."""
    return isinstance(p.extra_generation_params, _UncopiableParameters)


def abort(p: Any, error: Exception) -> None:
    """Stop the generation with this error.

    The WebUI prints and swallows what a script raises, so the next step of this very image raises it instead. An X/Y/Z
    plot swallows that too, and leaves the cell black: its first cell stops the whole plot.
    """
    refusal = Refusal(str(error)) if isinstance(error, MergeInputError) else error
    _report(p, error)

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise refusal

    for step in _STEPS:
        setattr(p, step, refuse)
    parameters = _UncopiableParameters(p.extra_generation_params)
    parameters.error = refusal
    p.extra_generation_params = parameters


def _report(p: Any, error: Exception) -> None:
    text = f"Power Merger: {error}"
    _log.error("%s", as_lines(text.splitlines()), exc_info=None if isinstance(error, MergeInputError) else error)
    p.comment(text)
