"""Answers of the REST interface to any request: errors are described, in JSON that can be sent."""

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

_LONGEST = 1000  # characters of a request that an answer repeats


class Answer(JSONResponse):
    """JSON that can hold anything: a file's metadata may have half a character or a number that is not finite."""

    def render(self, content: Any) -> bytes:
        return json.dumps(_finite(content), allow_nan=False, separators=(",", ":")).encode("ascii")


class GuardedRoute(APIRoute):
    """Describes a wrong request without its values: the WebUI writes that answer, and not every value fits into it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def guard(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                raise HTTPException(422, _problems(error)) from None

        return guard


def _problems(error: RequestValidationError) -> list[dict[str, Any]]:
    """Return where and what is wrong, without the values."""
    return [
        {"loc": [_short(part) for part in fault["loc"]], "msg": _short(fault["msg"]), "type": fault["type"]}
        for fault in error.errors()
    ]


def _short(part: Any) -> Any:
    return whole(part)[:_LONGEST] if isinstance(part, str) else part


def _finite(value: Any) -> Any:
    """Return the value with null for each number that is not finite."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
