"""Answers of the REST interface to whatever comes: what is wrong is said, in JSON that can be sent."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from lib_pm.core.visible import whole

_LONGEST = 1000  # characters that are said back of what came


class Answer(JSONResponse):
    """JSON that everything fits into: a file's metadata may hold half a character, or a number that is none."""

    def render(self, content: Any) -> bytes:
        return json.dumps(_sound(content), allow_nan=False, separators=(",", ":")).encode("ascii")


class GuardedRoute(APIRoute):
    """Says what is wrong with a request without its values: the WebUI writes that answer, and not all fit into it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                raise HTTPException(422, _told(error)) from None

        return guarded


def _told(error: RequestValidationError) -> list[dict[str, Any]]:
    return [
        {"loc": [_short(part) for part in fault["loc"]], "msg": _short(fault["msg"]), "type": fault["type"]}
        for fault in error.errors()
    ]


def _short(part: Any) -> Any:
    return whole(part)[:_LONGEST] if isinstance(part, str) else part


def _sound(value: Any) -> Any:
    """The value with null for a number that is not finite."""
    if isinstance(value, dict):
        return {name: _sound(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sound(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
