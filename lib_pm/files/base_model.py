"""Whether LoRAs are for one base model: by their layers, and by what their files say where these leave it open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lib_pm.core.errors import MergeInputError, quoted
from lib_pm.core.formats.full import BIAS
from lib_pm.families.detect import FAMILIES, SAYS, SD2_OR_NOT, named, spellings, stated
from lib_pm.families.families import Family, either, plain_word
from lib_pm.families.layouts import Layout
from lib_pm.families.spelling import Place, Spelling, TableSpelling, beginnings, spelling_of
from lib_pm.files.reader import LoraFile

# What gets around a refusal, for the user to read.
FORCE = (
    "Merge LoRAs for the same model, or force the merge: --force on the command line, the tab's checkbox "
    '"Merge LoRAs of different base models", "force": true over the API.'
)
IN_A_PROMPT = "Merge LoRAs for the same model; pm=off in a LoRA's tag stacks it instead of merging it."


@dataclass(frozen=True)
class BaseModel:
    """What LoRAs are for. mixed: for several models, which had to be forced. notes: what the user should know.

    spelling: what layers are called in the result, None where it is what they are called already.
    """

    family: Family
    mixed: bool = False
    notes: tuple[str, ...] = ()
    spelling: Spelling | None = None

    def places(self, file: LoraFile, name: str) -> tuple[Place, ...]:
        """Return of which layers of the result a layer of a file is, and which rows."""
        shape, weight = file.stored(name).shape, name.removesuffix(BIAS)
        places = self.spelling.places(weight, shape) if self.spelling else (Place(self.family.name(weight), shape.out),)
        return tuple(replace(place, name=place.name + name[len(weight) :]) for place in places)

    def names(self, file: LoraFile) -> set[str]:
        """Return the layers of the result of which a file has something."""
        return {place.name for name in file.names for place in self.places(file, name)}


def common_model(files: Sequence[LoraFile], *, force: bool = False, way_out: str = FORCE, names: str = "") -> BaseModel:
    """Return the one base model of all files. names: whose the layers get, "" for their own or the family's.

    A MergeInputError if they are for different ones or say so, or if nothing tells and they share no layer; with
    `force` that is a note. way_out: how these messages end. Names that cannot be translated have to be of one scheme.
    """
    known = [file.families for file in files if file.families]
    common = [family for family in FAMILIES.values() if known and all(family in families for families in known)]
    family = either(common)
    spelling = None
    against = _different(files, common)
    if not against:
        if names:
            spelling = _chosen(files, common, names)
        elif family.canonical is None:
            spelling = _spelling(files, common)
        against = _apart(files, common, BaseModel(family, spelling=spelling))
    if against and not force:
        raise MergeInputError(f"{against} {way_out}")
    certain = len(common) == 1 and len(known) == len(files)
    mixed = bool(against) and not certain
    if mixed:
        family = either(list(dict.fromkeys(sum(known, ()))), mixed=True)
    notes = [f"forced: {against}"] if against else []
    notes += [note for file in files if (note := _taken_for(file, family) or _own_word(file))]
    model = BaseModel(family, mixed, spelling=spelling)
    notes += [] if certain else _shared(files, model)
    return replace(model, notes=tuple(notes))


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


def _apart(files: Sequence[LoraFile], common: Sequence[Family], model: BaseModel) -> str:
    """Return which file is tied to the rest neither by its family nor by a layer, "" for none."""
    sure = [len(common) == 1 and bool(file.families) for file in files]
    if all(sure):
        return ""
    names = [model.names(file) for file in files]
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


def _shared(files: Sequence[LoraFile], model: BaseModel) -> list[str]:
    """Return a note on how many layers are shared, if not all are."""
    counts = Counter(name for file in files for name in model.names(file))
    if all(count == len(files) for count in counts.values()):
        return []
    return [f"{sum(count > 1 for count in counts.values())} of {len(counts)} layers are in more than one of the LoRAs"]


def _chosen(files: Sequence[LoraFile], common: Sequence[Family], names: str) -> Spelling | None:
    """Return the spelling of these names. A MergeInputError where a layer has none."""
    possible = [spelling_of(family, names) for family in common or [either(common)]]
    if all(spelling is None for spelling in possible):
        return None
    unclear = _unclear(files, [spelling for spelling in possible if spelling])
    if unclear or None in possible:
        file, name = unclear or (files[0], _first(files[0]))
        raise MergeInputError(
            f"{file.path.name} has a layer {name}; what {names} calls it in {either(common).title} is not known."
        )
    return possible[0]


def _spelling(files: Sequence[LoraFile], common: Sequence[Family]) -> Spelling | None:
    """Return what layers are called in the result where the files call them differently; None if they do not.

    A MergeInputError where there is no telling: a layer would be in the result twice, or two as one.
    """
    if len(files) == 1 or _alike(files, common):
        return None
    layouts = [(_layouts(files, family) or family.layouts)[:1] for family in common]
    possible = [
        TableSpelling(family, layout, layouts[0][0].prefix)
        for family, main in zip(common, layouts, strict=True)
        for layout in main
        if layouts[0]
    ]
    why = f"names for {either(common).title} cannot be converted yet"
    if possible and len(possible) == len(common):
        unclear = _unclear(files, possible)
        if unclear is None:
            return possible[0]
        file, name = unclear
        why = f"{file.path.name} has a layer {name}, whose name for {either(common).title} cannot be converted"
    other = next((file for file in files if not _alike([files[0], file], common)), files[-1])
    raise MergeInputError(
        f"{files[0].path.name} and {other.path.name} name their layers differently ({_first(files[0])}, "
        f"{_first(other)}), and {why}. Use LoRAs with the same naming scheme."
    )


def _unclear(files: Sequence[LoraFile], possible: Sequence[Spelling]) -> tuple[LoraFile, str] | None:
    """Return the first layer that has no name in these spellings, or several; None if there is none."""
    for file in files:
        for name in file.names:
            weight, shape = name.removesuffix(BIAS), file.stored(name).shape
            places = {spelling.places(weight, shape) for spelling in possible}
            if len(places) != 1 or () in places:
                return file, name
    return None


def _alike(files: Sequence[LoraFile], common: Sequence[Family]) -> bool:
    """Return whether the files call their layers alike: behind one prefix, and in one of the family's layouts."""
    found = [beginnings(file.layers, either(common)) for file in files]
    for number in {number for numbers in found for number in numbers}:
        there = [numbers[number] for numbers in found if number in numbers]
        if any(begin != there[0] if common else not begin & there[0] for begin in there):
            return False
    return all(_layouts(files, family) for family in common if family.layouts)


def _layouts(files: Sequence[LoraFile], family: Family) -> tuple[Layout, ...]:
    """Return the family's layouts in which all of the files can be that are in any: one may have unknown layers."""
    found = [spellings(family, {name: layer.shape for name, layer in file.layers.items()}) for file in files]
    return tuple(
        layout for number, layout in enumerate(family.layouts) if all(number in numbers for numbers in found if numbers)
    )


def _first(file: LoraFile) -> str:
    return next(iter(file.layers))
