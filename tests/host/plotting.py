"""X/Y/Z plots of a server, as a client of its API asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.host.server import Server

Values = tuple[str, str]  # the axis's label, the text of its values
NOTHING: Values = ("Nothing", "")
TITLE = "X/Y/Z plot"
PM = "[Power Merger] "


def pm(name: str, values: str) -> Values:
    """One of this extension's axes."""
    return (f"{PM}{name}", values)


@dataclass(frozen=True)
class Plot:
    """cells: of x first, then y, then z. infotexts: theirs, None for one that could not be made and is black."""

    infotext: str
    cells: list[np.ndarray]
    infotexts: list[str | None]
    comments: str | None


def make_plot(
    server: Server,
    prompt: str,
    x: Values,
    y: Values = NOTHING,
    z: Values = NOTHING,
    *,
    image: np.ndarray | None = None,
    **payload: Any,
) -> Plot:
    """image: for img2img. Values are typed as text, the lone images asked for."""
    labels = server.axes("txt2img" if image is None else "img2img")
    args: list[Any] = []
    for label, values in (x, y, z):
        args += [labels.index(label), values, []]
    args += [False, True, False, False, False, False, False, 0, True]
    payload |= {"script_name": TITLE, "script_args": args}
    result = server.txt2img(prompt, **payload) if image is None else server.img2img(prompt, image, **payload)
    return Plot(result.infotexts[0], result.images[1:], list(result.infotexts[1:]), result.comments)
