"""What the relation of two LoRAs means for the choice of a merge mode, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping

from lib_pm.compare.findings import LoraAnalysis, Relation

# |cosine| below this: for two LoRAs of equal strength the squared norm of their sum is within a tenth of what it is
# for two that have nothing to do with each other, its norm within a twentieth. Nobody sees that in an image.
UNRELATED = 0.1
# From here on the sum of two equally strong ones is more than a fifth stronger than that (√1.5): images get too much.
ALIGNED = 0.5
# The same up to strength: what two copies in different dtypes or at different ranks still have.
SAME = 0.999
# Chance gives 0.5, whatever the LoRAs are. This is 6 entries of 10 (by weight) against each other.
CONFLICT = 0.6
# Blocks in which one of the two has less than this share of its squared norm are not worth a word.
SMALL_BLOCK = 0.01
# How many blocks a sentence names.
NAMED = 4


def meaning(one: LoraAnalysis, other: LoraAnalysis, whole: Relation, blocks: Mapping[str, Relation]) -> str:
    """Return one plain sentence. whole, blocks: how the two relate over all layers, and by block."""
    both = f"{one.name} and {other.name}"
    if not whole.layers:
        return f"{both} have no layers in common: concat or add_svd keeps both intact."
    if whole.cosine is None or whole.conflict is None:
        return f"{both} don't overlap, as one is zero wherever both have a layer: concat or add_svd keeps both intact."
    if whole.cosine >= SAME:
        return f"{both} are the same except for their strength: use just one of them, with the strengths added up."
    if whole.cosine <= -SAME:
        return f"{both} are exact opposites: what one adds, the other takes away, and no mode can keep both."
    opposing = _opposing(one, other, blocks)
    if _oppose(whole.cosine, whole.conflict):
        where = f" in {_listed(opposing)}" if 0 < len(opposing) < len(blocks) else ""
        return (
            f"{both} work against each other{where}: added up, both get weaker; ties_svd picks the stronger one for "
            "each weight."
        )
    if whole.cosine >= ALIGNED:
        return (
            f"{both} pull in the same direction: concat and add_svd add them up, so the effect may be too strong; "
            "lower the strengths, or use ties_svd, which averages them."
        )
    if whole.cosine >= UNRELATED:
        return (
            f"{both} partly pull in the same direction: concat or add_svd keeps both; if the effect is too strong, "
            "lower the strengths."
        )
    if opposing:
        return (
            f"{both} hardly affect each other except in {_listed(opposing)}, where they work against each other: "
            "concat or add_svd keeps both; ties_svd picks the stronger one for each weight."
        )
    return f"{both} hardly affect each other: concat or add_svd keeps both intact."


def _oppose(cosine: float, conflict: float) -> bool:
    return cosine <= -UNRELATED or (conflict >= CONFLICT and cosine < ALIGNED)


def _opposing(one: LoraAnalysis, other: LoraAnalysis, blocks: Mapping[str, Relation]) -> list[str]:
    """Return the blocks in which they work against each other, the worst first."""
    found = [
        (relation.cosine, block)
        for block, relation in blocks.items()
        if relation.cosine is not None and relation.conflict is not None
        if _oppose(relation.cosine, relation.conflict)
        if min(one.shares[block], other.shares[block]) >= SMALL_BLOCK
    ]
    return [block for _, block in sorted(found)]


def _listed(blocks: list[str]) -> str:
    rest = f" and {len(blocks) - NAMED} more" if len(blocks) > NAMED else ""
    return ", ".join(blocks[:NAMED]) + rest
