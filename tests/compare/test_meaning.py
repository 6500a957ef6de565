"""The sentence on a pair: what it says for which relation, and at which numbers it changes."""

from __future__ import annotations

import re

import pytest

import lib_pm.core.methods  # noqa: F401 (registers the modes)
from lib_pm.compare.findings import LoraAnalysis, Relation, Spectrum
from lib_pm.compare.meaning import meaning
from lib_pm.core.registry import MODES

BLOCKS = ("BASE", "IN04", "IN05", "MID", "OUT03", "OUT04")
KINDS = {
    "no layer": "have no layers in common",
    "zero": "don't overlap",
    "unrelated": "hardly affect each other: concat or add_svd",
    "partly": "partly pull in the same direction",
    "aligned": "pull in the same direction: .*too strong.* lower the strengths, or use ties_svd, which averages",
    "opposed": "work against each other.*ties_svd",
    "same": "are the same except for their strength",
    "opposite": "are exact opposites",
}


def lora(name: str, **shares: float) -> LoraAnalysis:
    return LoraAnalysis(name, 6, 6, 1.0, {block: shares.get(block, 0.2) for block in BLOCKS}, Spectrum((1.0,)))


def said(whole: Relation, one: LoraAnalysis | None = None, **blocks: Relation) -> str:
    unrelated = Relation(1, 0.0, 0.5)
    sentence = meaning(one or lora("a"), lora("b"), whole, {block: blocks.get(block, unrelated) for block in BLOCKS})
    assert sentence.startswith("a and b ")
    assert sentence.endswith(".")
    assert re.findall(r"\. |\n", sentence) == []  # one sentence
    named = re.findall(r"\b(?:\w+_svd|concat|add)\b", sentence)
    assert set(named) <= set(MODES)
    return sentence


@pytest.mark.parametrize(
    ("layers", "cosine", "conflict", "kind"),
    [
        (0, None, None, "no layer"),
        (3, None, None, "zero"),
        (3, 0.5, None, "zero"),
        (3, 0.0, 0.5, "unrelated"),
        (3, 0.099, 0.47, "unrelated"),
        (3, -0.099, 0.53, "unrelated"),
        (3, 0.1, 0.47, "partly"),
        (3, 0.499, 0.3, "partly"),
        (3, 0.5, 0.3, "aligned"),
        (3, 0.9985, 0.02, "aligned"),
        (3, 0.999, 0.01, "same"),
        (3, 1.0, 0.0, "same"),
        (3, -0.1, 0.53, "opposed"),
        (3, -0.998, 0.99, "opposed"),
        (3, -0.999, 1.0, "opposite"),
        (3, 0.05, 0.6, "opposed"),
        (3, 0.05, 0.59, "unrelated"),
        (3, 0.6, 0.6, "aligned"),
    ],
)
def test_what_it_says(layers: int, cosine: float | None, conflict: float | None, kind: str) -> None:
    sentence = said(Relation(layers, cosine, conflict))
    assert [name for name, pattern in KINDS.items() if re.search(f"a and b {pattern}", sentence)] == [kind]


def test_the_blocks_that_oppose_are_named_the_worst_first() -> None:
    sentence = said(Relation(6, -0.2, 0.6), MID=Relation(1, -0.9, 0.9), IN04=Relation(1, -0.3, 0.6))
    assert "against each other in MID, IN04: " in sentence
    sentence = said(Relation(6, 0.0, 0.5), MID=Relation(1, 0.0, 0.7), IN04=Relation(1, 0.9, 0.1))
    assert "hardly affect each other except in MID, where they work against each other" in sentence


def test_many_blocks_are_counted_and_all_of_them_not_named() -> None:
    against = {block: Relation(1, -0.5 + index / 100, 0.8) for index, block in enumerate(BLOCKS)}
    assert "against each other: " in said(Relation(6, -0.5, 0.8), **against)
    del against["BASE"]
    assert "against each other in IN04, IN05, MID, OUT03 and 1 more: " in said(Relation(6, -0.4, 0.7), **against)


def test_a_block_in_which_one_does_nothing_much_is_not_named() -> None:
    opposed = Relation(1, -0.9, 0.9)
    assert "MID" not in said(Relation(6, 0.0, 0.5), lora("a", MID=0.009), MID=opposed)
    assert "MID" in said(Relation(6, 0.0, 0.5), lora("a", MID=0.011), MID=opposed)
    assert "MID" not in said(Relation(6, 0.0, 0.5), MID=Relation(0, None, None))
