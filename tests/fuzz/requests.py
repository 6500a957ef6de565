"""Requests to the REST interface that nobody means, the same ones each time for a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

VALID: dict[str, dict[str, Any]] = {
    "merge": {
        "text": "<lora:style:0.8>\n<lora:sub/char:0.6>",
        "mode": "ties_svd",
        "options": {"density": 0.5, "rank": 2},
        "apply": "model",
        "dtype": "float32",
        "precision": "exact",
        "device": "cpu",
        "name": "made",
        "folder": "a/b",
        "save_dtype": "float16",
        "metadata": "all",
        "overwrite": True,
        "force": False,
    },
    "resize": {
        "loras": ["style"],
        "rank": 2,
        "conv_rank": 1,
        "rule": "sv_fro=0.9",
        "preview": False,
        "name": "small",
        "folder": "",
        "save_dtype": "float16",
        "metadata": "all",
        "overwrite": True,
        "device": "cpu",
    },
    "analyse": {"text": "<lora:style:1><lora:sub/char:1>", "device": "cpu"},
}
TEXTS = [
    *(
        "",
        " ",
        "\n",
        "\0",
        "a\0b",
        "\ud800",
        "style\udfff",
        "\u202estyle",
        "\ufeff",
        "style",
        "char",
        "sub/char",
        "./style",
    ),
    *(
        "../style",
        "..",
        "/",
        "C:\\a",
        "\\\\host\\a",
        "a/" * 20,
        "a" * 5000,
        "漢" * 100,
        "é" * 300,
        "con",
        "aux.x",
        "a.",
        ".a",
    ),
    *(
        "nan",
        "inf",
        "-inf",
        "1e400",
        "1" * 400,
        "9" * 5000,
        "full",
        "cpu",
        "cpu:0",
        "cpu:9",
        "cpu:x",
        "cuda:99",
        "mps",
        "meta",
    ),
    *(
        "float16",
        "float64",
        "int8",
        "sv_ratio=2",
        "sv_fro=nan",
        "sv_ratio=1e400",
        "sv_cumulative=0.5",
        "sv_fro=",
        "=",
        "all",
    ),
    *(
        "minimal",
        "no tags",
        "model",
        "clip",
        "model + clip",
        "concat",
        "add",
        "dare_ties_svd",
        "ties_svd:density=0.5",
        "true",
    ),
    *(
        "<lora:style:1>",
        "# <lora:style:1>",
        "<lora:style:nan>",
        "<lora:style:1e308>",
        "<lora:style:1:lbw=ALL>",
        "<pm:concat>",
    ),
    *(
        "<lora:style:1:lbw=IN04=1e400>",
        "<lora:style:1>" * 300,
        "<lora:" * 3000,
        "<lora:style:1><pm:add><pm:add>",
        "{}",
        "[]",
    ),
    *(
        "<lora:style:1><pm:ties_svd:density=nan>",
        "<lora:style:1><pm:add_svd:rank=1e99>",
        "<lora:\ud800:1>",
        "<lora:style:1:te=>",
    ),
]
NUMBERS: list[Any] = [
    *(0, 1, 2, -1, 7, 10**18, 2**63, 2**64, 10**30, 10**400, -(10**400)),
    *(0.0, -0.0, 0.5, 1.5, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")),
]
OPTIONS = [
    "density",
    "rank",
    "svd_rank",
    "conv_rank",
    "svd_conv_rank",
    "lambda",
    "seed",
    "majority",
    "",
    "\ud800",
    "a" * 999,
]
RAW = [
    *(b"", b" ", b"{", b"null", b"[]", b"1", b'"text"', b"\xff\xfe{}", b'{"text": "\xff"}', b"\xef\xbb\xbf{}"),
    *(
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"rank": ' + b"9" * 5000 + b"}",
        b"\0",
        b"NaN",
        b"{}{}",
        '{"text": ""}'.encode("utf-16"),
    ),
    b'{"text": "\\ud800"}',
]


def value(pick: random.Random, depth: int = 0) -> Any:
    """Any JSON, and what Python takes for JSON."""
    kinds: list[Callable[[], Any]] = [
        lambda: pick.choice(TEXTS),
        lambda: pick.choice(TEXTS),
        lambda: pick.choice(NUMBERS),
        lambda: pick.choice([None, True, False]),
    ]
    if depth < 3:
        kinds += [
            lambda: [value(pick, depth + 1) for _ in range(pick.randrange(4))],
            lambda: {pick.choice([*OPTIONS, *TEXTS]): value(pick, depth + 1) for _ in range(pick.randrange(4))},
        ]
    return pick.choice(kinds)()


def options(pick: random.Random) -> dict[str, Any]:
    return {pick.choice(OPTIONS): value(pick, 2) for _ in range(pick.randrange(4))}


def body(pick: random.Random, path: str) -> bytes:
    """A valid body with a few of its parts replaced, left out or added; now and then one that is none."""
    if pick.random() < 0.05:
        return pick.choice(RAW)
    made: Any = dict(VALID[path])
    for _ in range(pick.randrange(1, 4)):
        name = pick.choice([*made, "options"]) if made else "text"
        what = pick.random()
        if what < 0.15:
            made.pop(name, None)
        elif what < 0.2:
            made[pick.choice(TEXTS)] = value(pick)
        elif name == "options":
            made[name] = options(pick)
        elif name == "loras" and what < 0.7:
            made[name] = [pick.choice(TEXTS) for _ in range(pick.randrange(4))]
        elif what < 0.6:
            made[name] = pick.choice(TEXTS)
        else:
            made[name] = value(pick)
    if pick.random() < 0.02:
        made = value(pick)
    return json.dumps(made).encode()


def requests(seed: int, count: int) -> Iterator[tuple[str, str, bytes | None]]:
    """Method, path below the interface's, body."""
    pick = random.Random(seed)
    for _ in range(count):
        if pick.random() < 0.8:
            path = pick.choice(list(VALID))
            yield "POST", path, body(pick, path)
        else:
            name = quote(pick.choice(TEXTS)[:2000], safe=pick.choice(["", "/"]), errors="surrogatepass")
            kind = pick.choice(["loras", "recipe", "jobs"])
            yield ("DELETE" if kind == "jobs" and pick.random() < 0.5 else "GET"), f"{kind}/{name}", None
