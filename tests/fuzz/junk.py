"""Values that nobody meant: what metadata, settings and texts may hold."""

from __future__ import annotations

import json
from random import Random

NUMBERS = (
    "0",
    "-1",
    "1e999",
    "-1e308",
    "1e-400",
    "1" + "0" * 310,
    "9" * 4400,
    "NaN",
    "Infinity",
    "-Infinity",
    "0.1",
    "2147483648",
    "9223372036854775808",
    "true",
    "null",
)
TEXTS = (
    "",
    " ",
    "none",
    "True",
    "sd_v1",
    "sdxl_base_v1-0",
    "flux1",
    "\0",
    "\x1b[31m",
    "\u202e",
    "é😀",
    "١٢",
    "a" * 5000,
    "1" * 4400,
    "<lora:x:1>",
    "../../x",
    "(a|a)*Z",
    "\\ud800",
)


def junk_json(random: Random, depth: int = 3) -> str:
    """The text of some JSON value, which now and then is none."""
    kind = random.randrange(10)
    if kind < 3:
        return random.choice(NUMBERS)
    if kind < 6:
        text = json.dumps(random.choice(TEXTS))
        return text.replace("\\\\ud800", "\\ud800")
    if kind == 6:
        return random.choice(("[" * 3000, '{"a":' * 3000, "{", '"', "[1,]", "\ufeff1", "{'a': 1}"))
    if not depth:
        return "{}"
    items = [junk_json(random, depth - 1) for _ in range(random.randrange(4))]
    if kind == 7:
        return f"[{','.join(items)}]"
    names = ("name", "model", "clip", "lbw", "content", "loras", "mode", "lora_alpha", "a", "", "unet.lora_alpha")
    return f"{{{','.join(f'{json.dumps(random.choice(names))}:{item}' for item in items)}}}"


def changed_json(random: Random, text: str) -> str:
    """The text of a JSON object with one of its values, at any depth, replaced by junk."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # changed before
        return junk_json(random)
    if not isinstance(value, dict):
        return junk_json(random)
    mark = "\1 here \1"
    holder = value
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            break
        key = random.choice(keys)
        if isinstance(holder[key], (dict, list)) and holder[key] and random.random() < 0.7:
            holder = holder[key]
            continue
        if isinstance(holder, dict) and random.random() < 0.2:
            del holder[key]
        else:
            holder[key] = mark
        break
    return json.dumps(value).replace(json.dumps(mark), junk_json(random))


def changed_bytes(random: Random, data: bytes) -> bytes:
    """With some bytes flipped, put in, taken out, doubled, or cut off."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 5, 20))):
        at = random.randrange(len(changed) + 1)
        match random.randrange(6):
            case 0 | 1 if at < len(changed):
                changed[at] ^= 1 << random.randrange(8)
            case 2 if at < len(changed):
                changed[at] = random.choice((0, 255, 34, 44, 58, 92, 123, 125, 48, 57))
            case 3:
                changed[at:at] = random.randbytes(random.choice((1, 1, 8)))
            case 4:
                del changed[at : at + random.choice((1, 1, 8, 100))]
            case 5:
                part = changed[at : at + random.choice((1, 8, 40))]
                changed[at:at] = part
    return bytes(changed if random.random() < 0.95 else changed[: random.randrange(len(changed) + 1)])


def check_message(text: str, given: str = "") -> None:
    """It can be shown anywhere, and read. given: what it is about, which may be in it as a whole."""
    text.encode("utf-8")
    if len(text) > 20_000 + 2 * len(given):
        raise AssertionError(f"a message of {len(text)} characters: {text[:200]}")
