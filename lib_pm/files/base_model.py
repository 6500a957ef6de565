"""Whether LoRAs are for one base model: by their layers, and by what their files say where these leave it open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lib_pm.core.errors import MergeInputError, quoted
from lib_pm.families.detect import FAMILIES, SAYS, SD2_OR_NOT, named, spellings, stated
from lib_pm.families.families import Family, either, plain_word
from lib_pm.families.names import parse_name, prefix_of
from lib_pm.files.reader import LoraFile

# What gets around a refusal, for the user to read.
FORCE = (
    "Merge LoRAs for the same model, or force the merge: --force on the command line, the tab's checkbox "
    '"Merge LoRAs of different base models", "force": true over the API.'
)
IN_A_PROMPT = "Merge LoRAs for the same model; pm=off in a LoRA's tag stacks it instead of merging it."


@dataclass(frozen=True)
class BaseModel:
    """What LoRAs are for. mixed: for several models, which had to be forced. notes: what the user should know."""

    family: Family
    mixed: bool = False
    notes: tuple[str, ...] = ()


def common_model(files: Sequence[LoraFile], *, force: bool = False, way_out: str = FORCE) -> BaseModel:
    """Return the one base model of all files.

    A MergeInputError if they are for different ones or say so, or if nothing tells and they share no layer; with
    `force` that is a note. way_out: how these messages end. Names that are not translated have to be of one scheme.
    """
    known = [file.families for file in files if file.families]
    common = [family for family in FAMILIES.values() if known and all(family in families for families in known)]
    family = either(common)
    against = _different(files, common)
    if not against:
        if family.canonical is None:
            _check_names(files, family)
        against = _apart(files, common)
    if against and not force:
        raise MergeInputError(f"{against} {way_out}")
    certain = len(common) == 1 and len(known) == len(files)
    mixed = bool(against) and not certain
    if mixed:
        family = either(list(dict.fromkeys(sum(known, ()))), mixed=True)
    notes = [f"forced: {against}"] if against else []
    notes += [note for file in files if (note := _taken_for(file, family) or _own_word(file))]
    notes += [] if certain else _shared(files, family)
    return BaseModel(family, mixed, tuple(notes))


def _different(files: Sequence[LoraFile], common: Sequence[Family]) -> str:
    """Return how the files are for different models, "" if they are not.

    common: what all those may be for that are known.
    """
    if any(file.families for file in files) and not common:
        return f"These LoRAs are for different models: {_each(files)}."
    agreed = frozenset.intersection(*(stated(file.metadata) for file in files))
    for key in SAYS if len(common) != 1 else ():  # words that nobody knows count only where the layers do not tell
        words = [file.metadata[key] for file in files if file.metadata.get(key)]
        if words and not frozenset.intersection(*(named(word) or frozenset([plain_word(word)]) for word in words)):
            agreed = frozenset()
    if agreed:
        return ""
    each = [
        f"{file.path.name} says {quoted(value)} ({key})"
        for file in files
        for key in (*SAYS, SD2_OR_NOT)
        if (value := file.metadata.get(key))
    ]
    return f"The LoRAs disagree on their base model: {', '.join(each)}."


def _apart(files: Sequence[LoraFile], common: Sequence[Family]) -> str:
    """Return which file is tied to the rest neither by its family nor by a layer, "" for none."""
    sure = [len(common) == 1 and bool(file.families) for file in files]
    if all(sure):
        return ""
    names = [{either(common).name(name) for name in file.layers} for file in files]
    first = [index for index, known in enumerate(sure) if known] or [0]
    tied = set().union(*(names[index] for index in first))
    rest = [index for index in range(len(files)) if index not in first]
    while near := [index for index in rest if names[index] & tied]:
        tied = tied.union(*(names[index] for index in near))
        rest = [index for index in rest if index not in near]
    if not rest:
        return ""
    alone = files[rest[0]].path.name
    return f"{alone} shares no layer with the others, and nothing shows whether it is for their model: {_each(files)}."


def _each(files: Sequence[LoraFile]) -> str:
    return ", ".join(
        f"{file.path.name} {'is' if len(file.families) < 2 else 'may be'} for {file.family.title}" for file in files
    )


def _taken_for(file: LoraFile, family: Family) -> str:
    """Return a note if the other files decided what this one is for."""
    if not len(file.families) > len(family.ids) == 1:
        return ""
    return f"{file.path.name} may be for {file.family.title}; it is treated as {family.title}, like the others"


def _own_word(file: LoraFile) -> str:
    """Return a note if the file says what its layers are not."""
    for key in SAYS:
        said = file.metadata.get(key, "")
        if file.families and (meant := named(said)) and not meant & file.family.ids:
            return f"{file.path.name} says {quoted(said)} ({key}), but its layers are those of {file.family.title}"
    return ""


def _shared(files: Sequence[LoraFile], family: Family) -> list[str]:
    """Return a note on how many layers are shared, if not all are."""
    counts = Counter(name for file in files for name in {family.name(name) for name in file.layers})
    if all(count == len(files) for count in counts.values()):
        return []
    return [f"{sum(count > 1 for count in counts.values())} of {len(counts)} layers are in more than one of the LoRAs"]


def _check_names(files: Sequence[LoraFile], family: Family) -> None:
    """Raise a MergeInputError if the files name their layers differently: one layer would be in the result twice."""
    for file in files:
        if not _named_alike(files[0], file, family):
            raise MergeInputError(
                f"{files[0].path.name} and {file.path.name} name their layers differently ({_first(files[0])}, "
                f"{_first(file)}), and names for {family.title} cannot be converted yet. "
                "Use LoRAs with the same naming scheme."
            )


def _named_alike(one: LoraFile, other: LoraFile, family: Family) -> bool:
    """Return whether the files name their layers in one way.

    Text encoders have prefixes of their own, which only have to be of the same kind.
    """
    denoisers = [_prefixes(file) for file in (one, other)]
    if not all(denoisers):
        return ("." in _first(one)) == ("." in _first(other))
    layouts = [spellings(family, {name: layer.shape for name, layer in file.layers.items()}) for file in (one, other)]
    return bool(denoisers[0] & denoisers[1]) and (not all(layouts) or bool(layouts[0] & layouts[1]))


def _prefixes(file: LoraFile) -> set[str]:
    """Return how its denoiser's layers begin, or whether words are joined by dots."""
    names = [name for name in file.layers if not parse_name(name)[0].startswith("te")]
    return {prefix_of(name) or ("dotted" if "." in name else "flat") for name in names}


def _first(file: LoraFile) -> str:
    return next(iter(file.layers))
