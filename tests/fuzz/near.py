"""Texts as people write them, more or less spoilt: most of what a reader refuses is near to what it reads."""

from __future__ import annotations

from random import Random

from tests.fuzz.junk import NUMBERS, TEXTS

_GOOD: dict[str, tuple[str, ...]] = {
    "prompt": (
        "a cat, <lora:style:0.8> <lora:char:0.6:0.4:lbw=MIDD> <pm:ties_svd:density=0.5:rank=32:seed=7> on a mat",
        "<lora:a:te=0.5:unet=1:lbw=IN04=0.5,mlp=0> <lyco:b:1:pm=off> <pm:concat>",
        "# <lora:a:1>\n<lora:b:-0.5>\n<lora:c:1:MIDD>",
        "<lora:x:1:1,0,0,1,1,1,1,1,1,1,1,1> <pm:add_svd:svd_rank=full:lambda=-2>",
    ),
    "lora": ("style:0.8", "char:0.6:0.4:lbw=MIDD", "a:te=0.5:unet=1:lbw=IN04=0.5,mlp=0", "b:1:pm=off", "c:1:MIDD"),
    "file": (
        "folder/style.safetensors:0.8:0.5:lbw=MIDD",
        r"C:\loras\style.safetensors:1",
    ),
    "pm": ("dare_ties:density=0.3:seed=1", "concat", "add_svd:rank=full:lambda=-1"),
    "option": ("0.5", "32", "full", "", "density", "seed"),
    "lbw": (
        "1,0,0.5,1,1,1,1,1,1,1,1,1,1,1,1,1,1",
        "IN04=0.5,OUT03-OUT06=0,mlp=0",
        "MIDD",
    ),
    "presets": ("NAME:1,1,0,0.5\nB:IN04=1 # comment\n#C:1,1",),
    "rule": ("sv_fro=0.95", "sv_ratio=20"),
    "name": ("style", "my merge (2)", "größe"),
    "axis": (
        "0-1 [5]",
        "1, 2, 3",
        "add, ties",
        "clip, model",
        "0.2, 0.5-0.7 (+0.1), full",
        '"1,0,0", MIDD, ""',
    ),
}
_PARTS = (
    "<",
    ">",
    ":",
    "=",
    ",",
    "-",
    "[",
    ")",
    '"',
    "#",
    "\n",
    "\r",
    " ",
    "<lora:",
    "<pm:",
    "<PM:concat>",
    "<pm>",
    "lbw=",
    "te=",
    "pm= off",
    "pm=off",
    "w=",
    "dyn=",
    "density=0.5",
    "rank=",
    "seed=",
    "full",
    "IN00-",
    "1e200",
    "1e308",
    "nan",
    "inf",
    "-0",
    "0x10",
    "1_000",
    "１",
    "½",
    "\ud800",
    "\U0001f600",
    "\u2028",
    *(text for text in (*NUMBERS, *TEXTS) if len(text) < 400),
)


def near(random: Random) -> str:
    """Something like what belongs somewhere."""
    good = [text for texts in _GOOD.values() for text in texts]
    parts = list(random.choice(good)) if random.random() < 0.95 else []
    for _ in range(random.choice((0, 0, 1, 1, 2, 3, 10))):
        at = random.randrange(len(parts) + 1)
        share = random.random()
        if share < 0.5:
            parts[at:at] = [random.choice(_PARTS)]
        elif share < 0.7:
            del parts[at : at + random.choice((1, 1, 2, 8))]
        elif share < 0.8:
            parts[at : at + 1] = [chr(random.choice((random.randrange(128), random.randrange(0x11000))))]
        elif share < 0.9:
            parts[at:at] = parts[at : at + random.choice((1, 5, 30))] * random.choice((1, 1, 3, 50))
        else:
            parts += random.choice(good)
    if random.random() < 0.01:
        parts = [random.choice((*NUMBERS, *TEXTS))]
    if random.random() < 0.005:  # what takes longer than its length shows only here
        parts[:0] = [random.choice(_PARTS) + random.choice(("", random.choice(_PARTS)))] * 3000
    return "".join(parts)[:20_000]
