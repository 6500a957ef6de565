"""Who may change something over the REST interface: programs and the WebUI's own pages, no page from elsewhere.

A browser sends what any page asks it to send, to this machine's own addresses too, and only asks first (a "preflight",
which the WebUI refuses) if the request is one that a form could not make. So requests are taken in no form that a form
can have, and the browser's word on which page asks is heard. Programs send neither of these headers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import HTTPException, Request

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Origins:
    """Pages from elsewhere that are allowed: the WebUI's `--cors-allow-origins` and `--cors-allow-origins-regex`."""

    listed: str | None = None
    pattern: str | None = None

    def include(self, origin: str) -> bool:
        listed = (self.listed or "").split(",")
        return "*" in listed or origin in listed or bool(self.pattern and re.fullmatch(self.pattern, origin))


def check_sender(origins: Origins) -> Callable[[Request], None]:
    """Return the check of each request that may change something, to run before its work."""

    def check(request: Request) -> None:
        if request.method in ("POST", "DELETE"):
            _refuse_foreign(request.headers, origins)
        if request.method == "POST":
            _require_json(request.headers)

    return check


def _refuse_foreign(headers: Mapping[str, str], origins: Origins) -> None:
    """Raise a 403 if the browser says that a page of another origin asks, and that one is not among `origins`.

    Another port of this machine is another origin. Behind a proxy the browser's own comparison, Sec-Fetch-Site, is
    right; those that send none (over plain http) are judged by Host and X-Forwarded-Host, which no page can set.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if site == "same-origin" or (origin is None and site in (None, "none")):
        return
    if origin is not None and origins.include(origin):
        return
    if origin is not None and site in (None, "none") and _is_own(origin, headers):
        return
    raise HTTPException(
        403,
        f"This request came from a page of {origin or 'elsewhere'!a}; allowed: the WebUI's own pages, programs, and "
        "pages of the origins in --cors-allow-origins.",
    )


def _require_json(headers: Mapping[str, str]) -> None:
    """Raise a 415 for a body that is not declared as JSON: a page can send anything else without asking first."""
    kind = headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, f"The Content-Type is {kind!a}; allowed: application/json.")


def _is_own(origin: str, headers: Mapping[str, str]) -> bool:
    hosts = [headers.get("host", ""), *headers.get("x-forwarded-host", "").split(",")]
    try:
        asks = urlsplit(origin)
        port = _PORTS.get(asks.scheme)
        own = [urlsplit(f"//{host.strip()}") for host in hosts]
        return bool(asks.hostname) and any(
            (host.hostname, host.port or port) == (asks.hostname, asks.port or port) for host in own
        )
    except ValueError:  # a port that is no number, a broken IPv6 address
        return False
