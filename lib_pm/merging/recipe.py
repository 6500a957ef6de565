"""A recipe: everything that decides what a merge is, as one frozen value that can be written and read back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import lib_pm.core.methods  # noqa: F401 (registers the modes)
from lib_pm.core.choices import APPLY, DTYPES, NAMES, SHORT_DTYPES, Apply
from lib_pm.core.errors import Faults, MergeInputError, quoted
from lib_pm.core.excess import Precision
from lib_pm.core.params import FACTOR, OptionValue, parse_factor
from lib_pm.core.registry import Choice, Mode, find_mode
from lib_pm.families.blocks import check_block_weights, expand_preset
from lib_pm.families.families import KINDS, Kind
from lib_pm.prompt.parse import Request

DEFAULT_MODE = "concat"  # exactly the WebUI's own stacking

PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class LoraUse:
    """One LoRA in a recipe. model, clip: strengths. lbw: a list or named blocks, presets already expanded."""

    path: Path
    model: float = 1.0
    clip: float = 1.0
    lbw: str = ""

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass(frozen=True)
class Recipe:
    """options: every option of the mode. apply: which strengths act, the layers of the other part are left out.

    layers: the kinds of layers that are merged. dtype: of the computation. save_dtype: of the tensors that come out.
    precision: of the truncation, for modes that truncate dense deltas; those of the others are exact anyway.
    names: whose the layers get, "" for those of the LoRAs.
    contents: of a recipe that is repeated, what its LoRAs' files held; no part of what the merge is.
    """

    loras: tuple[LoraUse, ...]
    mode: Mode
    options: Mapping[str, OptionValue] = field(hash=False)
    apply: Apply = "model + clip"
    layers: tuple[Kind, ...] = KINDS
    dtype: str = "float32"
    save_dtype: str = "float16"
    precision: Precision = "normal"
    names: str = ""
    contents: tuple[str, ...] = field(default=(), compare=False)

    def to_json(self, contents: Sequence[str]) -> dict[str, Any]:
        """Return plain values, without paths. contents: the LoRAs' hashes (`LoraFile.content`), in their order."""
        loras = [
            {"name": use.name, "model": use.model, "clip": use.clip, "lbw": use.lbw, "content": content}
            for use, content in zip(self.loras, contents, strict=True)
        ]
        settings: dict[str, Any] = {
            "apply": self.apply,
            "layers": list(self.layers),
            "dtype": self.dtype,
            "save_dtype": self.save_dtype,
        }
        if self.mode.approximates:
            settings["precision"] = self.precision
        if self.names:
            settings["names"] = self.names
        return {"loras": loras, "mode": self.mode.id, "options": dict(self.options), **settings}

    def content_key(self, contents: Sequence[str]) -> str:
        """Return a key: equal for equal recipes on files of equal content, whatever their names and order."""
        value = self.to_json(contents)
        for lora in value["loras"]:
            del lora["name"]
        value["loras"].sort(key=lambda lora: json.dumps(lora, sort_keys=True))
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def make_recipe(
    loras: Iterable[LoraUse],
    mode: str,
    options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Recipe:
    """Return the recipe of a mode and options that are not checked yet: the rest of them at their defaults.

    settings: as of `recipe_of`.
    """
    return recipe_of(loras, find_mode(mode).choice(options), **settings)


def recipe_of(
    loras: Iterable[LoraUse],
    choice: Choice,
    *,
    presets: Mapping[str, str] | None = None,
    apply: str = APPLY[0],
    layers: Iterable[str] = KINDS,
    dtype: str = "float32",
    save_dtype: str = "float16",
    precision: str = "normal",
    names: str = "",
) -> Recipe:
    """Return the recipe of LoRAs with their files: settings checked, presets expanded. See `Recipe`."""
    uses = tuple(
        LoraUse(
            use.path,
            _strength(use.model, use),
            _strength(use.clip, use),
            expand_preset(use.lbw, presets or {}, use.name) if use.lbw else "",
        )
        for use in loras
    )
    if not uses:
        raise MergeInputError("There are no LoRAs to merge; add at least one.")
    chosen = {_one_of("layers", kind.strip(), KINDS) for kind in layers}
    kinds = tuple(kind for kind in KINDS if kind in chosen)
    return Recipe(
        uses,
        choice.mode,
        choice.values,
        _one_of("apply", apply, APPLY),
        kinds,
        dtype_name("dtype", dtype),
        dtype_name("save_dtype", save_dtype),
        _one_of("precision", precision if choice.mode.approximates else "normal", PRECISIONS),
        known_names(names),
    )


def recipe_from_request(
    request: Request,
    find: Callable[[str], Path],
    presets: Callable[[], Mapping[str, str]],
    *,
    faults: Faults | None = None,
    **settings: Any,
) -> Recipe:
    """Return the recipe of what a text asks for: its merged LoRAs in its mode, or in `concat` without one.

    find: gives the file of a LoRA's name. presets: gives the block weights by name; only called if a LoRA has some.
    faults: what is known to be wrong with the text. settings: as of `recipe_of`. A MergeInputError names all that is
    wrong: these faults, the LoRAs that are not found, the block weights that no model has.
    """
    faults, uses = Faults() if faults is None else faults, []  # one without a fault is false
    known = presets() if any(tag.lbw for tag in request.merged) else {}
    weights = []
    for tag in request.merged:
        weights.append((tag.lbw, tag.name))
        with faults.collect():
            uses.append(LoraUse(find(tag.name), tag.model, tag.clip, tag.lbw))
            weights[-1] = (tag.lbw, uses[-1].name)
    # What only some models have is refused by the plan, which knows the LoRAs' models.
    check = check_block_weights if faults else expand_preset
    for lbw, name in weights:
        with faults.collect():
            if lbw:
                check(lbw, known, name)
    faults.raise_all()
    return recipe_of(uses, request.choice or find_mode(DEFAULT_MODE).choice(), presets=known, **settings)


def recipe_from_json(value: Mapping[str, Any], paths: Iterable[Path]) -> Recipe:
    """Return the recipe that `to_json` wrote, with the files that its LoRAs are now, in the same order.

    Files come from everywhere: a part that is missing or of another type is a MergeInputError.
    """
    written, paths = _part(value, "loras", list), list(paths)
    if len(written) != len(paths):
        raise MergeInputError(f"The recipe has {len(written)} LoRAs, but {len(paths)} were given.")
    uses = [
        LoraUse(path, _part(lora, "model", (int, float)), _part(lora, "clip", (int, float)), _part(lora, "lbw", str))
        for path, lora in zip(paths, written, strict=True)
    ]
    contents = tuple(_part(lora, "content", str) for lora in written)
    recipe = make_recipe(
        uses,
        _part(value, "mode", str),
        _part(value, "options", dict),
        apply=_part(value, "apply", str),
        layers=[_typed("layers", kind, str) for kind in _part(value, "layers", list)],
        dtype=_part(value, "dtype", str),
        save_dtype=_part(value, "save_dtype", str),
        precision=_typed("precision", value.get("precision", "normal"), str),
        names=_typed("names", value.get("names", ""), str),
    )
    return replace(recipe, contents=contents)


def _part(value: object, name: str, kind: type | tuple[type, ...]) -> Any:
    """Return a part of a recipe as it was written, of the type that it has to be."""
    if not isinstance(value, dict) or name not in value:
        raise MergeInputError(f"This is not a Power Merger recipe: {name} is missing in {quoted(value)}.")
    return _typed(name, value[name], kind)


def _typed(name: str, part: object, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(part, kind) or isinstance(part, bool):
        raise MergeInputError(f"This is not a Power Merger recipe: {name} is {quoted(part)}.")
    return part


def _strength(value: float, use: LoraUse) -> float:
    """Return it as a float, so that 1 and 1.0 are written alike."""
    what = f"The strength of {use.name}"
    if not isinstance(value, (int, float)):  # a text in a recipe's JSON
        raise MergeInputError(f"{what} is {quoted(value)}; allowed: {FACTOR}.")
    return parse_factor(value, what)


def dtype_name(what: str, text: str) -> str:
    """Return float32 for `float32` or `fp32`."""
    name: str = _one_of(what, SHORT_DTYPES.get(text, text), DTYPES)
    return name


def known_names(names: str) -> str:
    """Return whose names these are, one of NAMES; "" for those of the LoRAs."""
    return _one_of("names", names, NAMES) if names else ""


def _one_of(what: str, value: str, allowed: tuple[Any, ...]) -> Any:
    if value not in allowed:
        raise MergeInputError(f"{what} is {quoted(value)}; allowed: {', '.join(allowed)}.")
    return value
