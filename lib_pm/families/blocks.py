"""Block weights (lbw): how much of a LoRA each block of the model gets.

Three ways to write them: a list of numbers, named blocks (`IN04=0.5,OUT03-OUT06=0`), or the name of a preset, which
stands for one of the two. The lists are those of sd-webui-lora-block-weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lib_pm.core.errors import MergeInputError, did_you_mean, quoted
from lib_pm.core.params import parse_factor
from lib_pm.families.families import KINDS, SD1, SDXL, Family
from lib_pm.families.transformers import TRANSFORMERS


def _numbered(letters: str, numbers: Iterable[int]) -> tuple[str, ...]:
    return tuple(f"{letters}{number:02}" for number in numbers)


BLOCK_LISTS: dict[int, tuple[str, ...]] = {
    12: ("BASE", *_numbered("IN", (4, 5, 7, 8)), "MID", *_numbered("OUT", range(6))),
    17: ("BASE", *_numbered("IN", (1, 2, 4, 5, 7, 8)), "MID", *_numbered("OUT", range(3, 12))),
    20: ("BASE", *_numbered("IN", range(9)), "MID", *_numbered("OUT", range(9))),
    26: ("BASE", *_numbered("IN", range(12)), "MID", *_numbered("OUT", range(12))),
    61: ("CLIP", "T5", "IN", *_numbered("D", range(19)), *_numbered("S", range(38)), "OUT"),
}
_WHAT = {12: "SDXL LoRA", 17: "SD1 LoRA", 20: "SDXL LoCon", 26: "SD1 LoCon", 61: "Flux"}
_ALIASES = {"M00": "MID", "MID00": "MID"}


@dataclass(frozen=True)
class BlockWeights:
    """blocks: weight by block. unnamed: the weight of a block that is not in it (0 for a list, 1 for named blocks).

    kinds: factors for the layers of a kind (attn, mlp, te, other), on top. A layer that is in no block gets 1.
    """

    blocks: Mapping[str, float] = field(default_factory=dict)
    unnamed: float = 1.0
    kinds: Mapping[str, float] = field(default_factory=dict)

    def of(self, block: str, kind: str) -> float:
        weight = self.blocks.get(block, self.unnamed) if block else 1.0
        return weight * self.kinds.get(kind, 1.0)


def read_presets(text: str) -> dict[str, str]:
    """Return presets by name from lines `NAME:1,1,0,…`; other lines and `#` comments are passed over."""
    presets = {}
    for line in text.splitlines():
        name, colon, weights = line.partition(":")
        if colon and not line.lstrip().startswith("#") and ("," in weights or "=" in weights):
            presets[name.strip()] = weights.strip()
    return presets


def expand_preset(text: str, presets: Mapping[str, str], lora: str) -> str:
    """Return the list or named blocks that `text` is, or that the preset of this name stands for.

    lora: whose, for errors.
    """
    text = text.strip()
    if "," in text or "=" in text:
        return text
    by_lower_name = {name.lower(): weights for name, weights in presets.items()}
    weights = presets.get(text) or by_lower_name.get(text.lower())
    if weights is None:
        raise MergeInputError(
            f"{lora}: there is no block weight preset {quoted(text)}.{did_you_mean(text, presets)} "
            f"Allowed: a preset ({', '.join(presets)}), "
            f"a list of {_lengths(BLOCK_LISTS)} numbers, or named blocks such as IN04=0.5,OUT03-OUT06=0."
        )
    return weights


def check_block_weights(text: str, presets: Mapping[str, str], lora: str) -> None:
    """MergeInputError for what no model family takes; which one the LoRA is for is in its file. text: "" for none."""
    refused = None
    for family in (SD1, SDXL, *TRANSFORMERS) if text else ():
        try:
            parse_block_weights(expand_preset(text, presets, lora), family, lora)
            return
        except MergeInputError as error:
            refused = refused or error
    if refused:
        raise refused


def parse_block_weights(text: str, family: Family, lora: str) -> BlockWeights:
    """Return block weights from a list or named blocks (presets are expanded before). lora: its name, for errors."""
    if not block_order(family):
        raise MergeInputError(
            f"{lora}: block weights need a model with known blocks, and this LoRA is for {family.title}."
        )
    if "=" in text:
        return _parse_named(text, family, lora)
    words = [word.strip() for word in text.split(",")]
    if len(words) not in family.block_lists:
        allowed = _lengths(family.block_lists) or f"named blocks such as {family.blocks[2]}=0.5"
        raise MergeInputError(f"{lora}: {len(words)} block weights; allowed for {family.title}: {allowed}.")
    numbers = [_number(word, name, lora) for word, name in zip(words, BLOCK_LISTS[len(words)], strict=True)]
    return BlockWeights(dict(zip(BLOCK_LISTS[len(words)], numbers, strict=True)), unnamed=0.0)


def block_order(family: Family) -> tuple[str, ...]:
    """Return all blocks of a family in their order; none where they are not known."""
    return family.blocks or BLOCK_LISTS.get(max(family.block_lists, default=0), ())


def _parse_named(text: str, family: Family, lora: str) -> BlockWeights:
    order = block_order(family)
    blocks: dict[str, float] = {}
    kinds: dict[str, float] = {}
    for word in filter(None, (word.strip() for word in text.split(","))):
        name, equals, number = (part.strip() for part in word.partition("="))
        if not equals:
            raise MergeInputError(
                f"{lora}: {quoted(word)} in the block weights should read NAME=number, such as IN04=0.5."
            )
        weight = _number(number, name, lora)
        if name.lower() in KINDS:
            kinds[name.lower()] = weight
            continue
        first, dash, last = name.upper().partition("-")
        start = _index(first, order, lora)
        end = _index(last, order, lora) if dash else start
        for block in order[min(start, end) : max(start, end) + 1]:
            blocks[block] = weight
    return BlockWeights(blocks, unnamed=1.0, kinds=kinds)


def _index(name: str, order: tuple[str, ...], lora: str) -> int:
    block = _ALIASES.get(name.strip(), name.strip())
    if block not in order:
        raise MergeInputError(
            f"{lora}: there is no block {quoted(block)}; allowed: {', '.join(order)}, "
            f"ranges such as {order[3]}-{order[5]}, and {', '.join(KINDS)}.{did_you_mean(block, order)}"
        )
    return order.index(block)


def _number(word: str, block: str, lora: str) -> float:
    return parse_factor(word, f"{lora}: the block weight of {block}")


def _lengths(lengths: Iterable[int]) -> str:
    return ", ".join(f"{length} ({_WHAT[length]})" for length in lengths)
