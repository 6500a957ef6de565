"""Options of merge methods, declared once: label, range, help. UI, command line, axes and metadata read them here."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

from lib_pm.core.errors import MergeInputError, quoted

OptionValue = float | int | None

# Of strengths, block weights and lambda. They are multiplied, and squares of the product are added up: (10⁶)³ squared
# is 10³⁶, and float32 ends at 3.4·10³⁸.
LIMIT = 1e6
FACTOR = f"a number from {-LIMIT:.0f} to {LIMIT:.0f}, because float32 cannot hold products of larger ones"
_LONGEST = 2**63 - 1  # of whole numbers: what files and other programs can hold


@dataclass(frozen=True)
class Declared:
    """What a keyword of a method is, attached to its type with `Annotated`.

    slider: the range a slider shows, where other values are allowed too. empty: what nothing at all (None) stands for,
    if allowed. word: one that is allowed beside numbers; its value is None. word_help: what the word does, where the
    result is applied; it is not for files.
    """

    label: str
    help: str
    low: float
    high: float = math.inf
    step: float = 1
    slider: tuple[float, float] | None = None
    empty: str = ""
    word: str = ""
    word_help: str = ""
    short: str = ""


@dataclass(frozen=True)
class Option:
    """One option of one mode. `name` is the id the user writes; `keyword` the argument of the function."""

    name: str
    keyword: str
    type: type
    default: OptionValue
    declared: Declared

    @property
    def help(self) -> str:
        """Return what it does, and what its word does."""
        declared = self.declared
        return f"{declared.help[:-1]}; {declared.word} {declared.word_help}." if declared.word_help else declared.help

    @property
    def in_files(self) -> Option:
        """Return the option for a result that becomes a file: without a word that is for applying."""
        applied = self.declared.word_help
        return replace(self, declared=replace(self.declared, word="", word_help="")) if applied else self

    @property
    def allowed(self) -> str:
        """Return the range in words, as error messages, --help and docs/modes.md say it."""
        words = "a whole number" if self.type is int else "a number"
        low, high = self.declared.low, self.declared.high
        if high == LIMIT == -low:
            words = FACTOR
        elif math.isfinite(high):
            words += f" from {_plain(low)} to {_plain(high)}"
        elif math.isfinite(low):
            words += f", {_plain(low)} or more"
        if self.declared.word:
            words += f", or {self.declared.word}"
        return f"{words} (or empty: {self.declared.empty})" if self.declared.empty else words

    def text(self, value: OptionValue) -> str:
        """Return the value as users write it, "" for one that is not written at all; `parse` reads it back."""
        return self.declared.word if value is None else str(value).removesuffix(".0")

    def parse(self, value: object) -> OptionValue:
        """Return the value in the option's type. Text is read; the wrong kind or range is a MergeInputError."""
        if (self.declared.empty and value == "") or (self.declared.word and value == self.declared.word):
            return None
        if value is None and (self.declared.empty or self.declared.word):
            return None
        try:
            number: float | int = self.type(value)
        except (TypeError, ValueError, OverflowError):
            raise self.refusal(value) from None
        # int(2.5) is 2: a fraction where a whole number belongs is refused, not cut off
        fraction = isinstance(value, float) and number != value
        if fraction or number in (math.inf, -math.inf) or not self.declared.low <= number <= self.declared.high:
            raise self.refusal(value)
        if isinstance(number, int) and number > _LONGEST:
            raise MergeInputError(f"{self.name} is {quoted(value)}; allowed: {self.allowed}, with at most 18 digits.")
        return number

    def refusal(self, value: object) -> MergeInputError:
        return MergeInputError(f"{self.name} is {quoted(value)}; allowed: {self.allowed}.")


def parse_factor(value: object, what: str) -> float:
    """Return a strength, block weight or lambda as a float. what: begins the MergeInputError, `The strength of a`."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= LIMIT:
        raise MergeInputError(f"{what} is {quoted(value)}; allowed: {FACTOR}.")
    return number


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


Density = Annotated[float, Declared("Density", "Share of each LoRA's entries to keep.", low=0, high=1, step=0.01)]
Seed = Annotated[
    int,
    Declared("Seed", "Decides which entries are dropped; the same seed drops the same ones.", low=0, high=2**63 - 1),
]
Lambda = Annotated[
    float,
    Declared("Lambda", "Multiplies the merged result.", low=-LIMIT, high=LIMIT, slider=(-2, 2), step=0.05),
]
SvdRank = Annotated[
    int | None,
    Declared(
        "SVD rank",
        "Rank of the result, limited to what each layer allows.",
        low=1,
        slider=(1, 320),
        word="full",
        word_help="applies the merged weights without truncation",
        short="rank",
    ),
]
SvdConvRank = Annotated[
    int | None,
    Declared(
        "SVD conv rank",
        "Rank for convolutions larger than 1×1; 0 leaves them out.",
        low=0,
        slider=(0, 320),
        empty="same as svd_rank",
        short="conv_rank",
    ),
]
