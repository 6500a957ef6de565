"""The metadata of a written LoRA: what the WebUI, kohya's tools and model sites read, and the recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from lib_pm.core.errors import MergeInputError
from lib_pm.families.detect import SAYS, SD2_OR_NOT, named
from lib_pm.files.json_text import MAX_LENGTH, load_json
from lib_pm.version import __version__

if TYPE_CHECKING:
    from lib_pm.files.base_model import BaseModel
    from lib_pm.files.reader import LoraFile

RECIPE_KEY = "power_merger_recipe"
TAGS_KEY = "ss_tag_frequency"
# How much is written about the inputs: a choice's name, and the keys that it leaves out. The rest is what loaders need.
KEEP: dict[str, tuple[str, ...]] = {
    "all": (),
    "no tags": (TAGS_KEY,),
    "minimal": (TAGS_KEY, "modelspec.merged_from", RECIPE_KEY),
}
_MOST_TAGS = 10**12  # no data set has as many captions
_ORIGINAL_IMPLEMENTATION = "https://github.com/Stability-AI/generative-models"


def merged_metadata(
    files: Sequence[LoraFile],
    model: BaseModel,
    title: str,
    recipe: Mapping[str, Any] | None,
    *,
    keep: str = "all",
) -> dict[str, str]:
    """Return what is known before the first layer is merged. title: the file's name without ending.

    keep: one of KEEP.
    """
    metadata = _whole_metadata(files, model, title, recipe)
    left_out = KEEP[check_keep(keep)]
    return {key: value for key, value in metadata.items() if key not in left_out}


def check_keep(keep: str) -> str:
    if keep not in KEEP:
        raise MergeInputError(f"metadata is {keep!r}; allowed: {', '.join(KEEP)}.")
    return keep


def _whole_metadata(
    files: Sequence[LoraFile], model: BaseModel, title: str, recipe: Mapping[str, Any] | None
) -> dict[str, str]:
    metadata = _base_model(files, model)
    metadata |= {"ss_output_name": title, "ss_network_module": _network_module(files, model)}
    tags = merged_tags(files)
    if tags:
        metadata[TAGS_KEY] = json.dumps(tags)
    metadata |= {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": title,
        "modelspec.date": datetime.now(timezone.utc).replace(microsecond=0).isoformat(),
        "modelspec.merged_from": ", ".join(_titles(files)),
    }
    resolution = _same(files, "modelspec.resolution") or model.family.resolution
    if resolution:
        metadata["modelspec.resolution"] = resolution
    if recipe is not None:
        metadata[RECIPE_KEY] = json.dumps({"version": __version__, **recipe})
    return metadata


def rank_metadata(ranks: Iterable[int], conv_ranks: Iterable[int], alphas: Iterable[float]) -> dict[str, str]:
    """Return ss_network_dim and _alpha of linear layers, conv_dim among the ss_network_args; "Dynamic" where they
    differ. Nothing where no layer has a rank.
    """
    ranks, conv_ranks = list(ranks), list(conv_ranks)
    if not ranks:
        return {}
    alpha = _one_or_dynamic(alphas)
    metadata = {
        "ss_network_dim": _one_or_dynamic(ranks),
        "ss_network_alpha": alpha if alpha == "Dynamic" else str(float(alpha)),
    }
    conv_dim = _one_or_dynamic(conv_ranks)
    if conv_dim:
        metadata["ss_network_args"] = json.dumps({"conv_dim": conv_dim, "conv_alpha": alpha})
    return metadata


def hash_metadata(data_hash: str, legacy_hash: str) -> dict[str, str]:
    return {
        "sshs_model_hash": data_hash,
        "sshs_legacy_hash": legacy_hash,
        "modelspec.hash_sha256": f"0x{data_hash}",
    }


def longest_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata with everything that is not known yet at its longest, to reserve room for."""
    hashes = hash_metadata("0" * 64, "0" * 8)
    return {
        **metadata,
        **rank_metadata([1, 2], [1, 2], [10**9]),
        "ss_network_dim": "0" * 9,
        "ss_network_alpha": "0" * 9,
        **hashes,
    }


def merged_tags(files: Iterable[LoraFile]) -> dict[str, dict[str, int]]:
    """Return the inputs' ss_tag_frequency added up: data set -> tag -> how often.

    What is no count of tags is left out.
    """
    merged: dict[str, dict[str, int]] = {}
    for file in files:
        frequencies = load_json(file.metadata.get(TAGS_KEY, ""))
        if not isinstance(frequencies, dict):
            continue
        for data_set, tags in frequencies.items():
            counts = merged.setdefault(data_set, {})
            for tag, count in tags.items() if isinstance(tags, dict) else ():
                if type(count) is int and 0 < count <= _MOST_TAGS:
                    counts[tag] = counts.get(tag, 0) + count
    return merged


def too_long(metadata: Mapping[str, str]) -> str:
    """Return why a file's tags are not read, "" if they are."""
    length = len(metadata.get(TAGS_KEY, ""))
    return f"{TAGS_KEY} has {length} characters, more than {MAX_LENGTH}" if length > MAX_LENGTH else ""


def _base_model(files: Sequence[LoraFile], model: BaseModel) -> dict[str, str]:
    """Return what the WebUI and others go by: without ss_base_model_version an SDXL LoRA is hidden from SDXL models.

    The inputs' own words where they agree and the layers do not speak against them; nothing where nothing is known.
    """
    if model.mixed:
        return {}
    family = model.family
    metadata = {}
    for key, otherwise in zip(SAYS, (family.architecture, family.base_version), strict=True):
        said = _same(files, key)
        meant = named(said)
        fits = not (meant and family.ids) or bool(meant & family.ids)
        if value := said if said and fits else otherwise:
            metadata[key] = value
    if "modelspec.architecture" in metadata:
        metadata["modelspec.implementation"] = (
            _ORIGINAL_IMPLEMENTATION if family.id == "sdxl" else _same(files, "modelspec.implementation") or "diffusers"
        )
    sd2_or_not = str(family.id == "sd2") if family.base_version else _same(files, SD2_OR_NOT)
    return metadata | ({SD2_OR_NOT: sd2_or_not} if sd2_or_not else {})


def _network_module(files: Sequence[LoraFile], model: BaseModel) -> str:
    """Return the trainer's module that reads such a file: of its family's plain LoRA."""
    said = _same(files, "ss_network_module")
    plain = re.fullmatch(r"networks\.lora(_(?!fa$)\w+)?", said) and not model.mixed
    return (said if plain else model.family.network_module) or "networks.lora"


def _same(files: Sequence[LoraFile], key: str) -> str:
    """Return what all inputs that say it agree on."""
    said = {file.metadata[key] for file in files if file.metadata.get(key)}
    return said.pop() if len(said) == 1 else ""


def _titles(files: Iterable[LoraFile]) -> list[str]:
    return [file.metadata.get("modelspec.title") or file.name for file in files]


def _one_or_dynamic(ranks: Iterable[float]) -> str:
    distinct = set(ranks)
    if not distinct:
        return ""
    return str(distinct.pop()) if len(distinct) == 1 else "Dynamic"
