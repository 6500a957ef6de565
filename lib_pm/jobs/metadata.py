"""The metadata of a written LoRA: what the WebUI, kohya's tools and model sites read, and the recipe."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from lib_pm import __version__
from lib_pm.core.errors import MergeInputError
from lib_pm.core.keys.families import Family
from lib_pm.jobs.json_text import MAX_LENGTH, load_json

if TYPE_CHECKING:
    from lib_pm.jobs.reader import LoraFile

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
    family: Family,
    title: str,
    recipe: Mapping[str, Any] | None,
    *,
    keep: str = "all",
    force: bool = False,
) -> dict[str, str]:
    """What is known before the first layer is merged. title: the file's name without ending. keep: one of KEEP.

    Inputs that say they are for different base models are a MergeInputError unless `force`.
    """
    metadata = _whole_metadata(files, family, title, recipe, force)
    left_out = KEEP[check_keep(keep)]
    return {key: value for key, value in metadata.items() if key not in left_out}


def check_keep(keep: str) -> str:
    if keep not in KEEP:
        raise MergeInputError(f"metadata is {keep!r}; allowed: {', '.join(KEEP)}.")
    return keep


def _whole_metadata(
    files: Sequence[LoraFile], family: Family, title: str, recipe: Mapping[str, Any] | None, force: bool
) -> dict[str, str]:
    metadata = _base_model(files, family, force)
    metadata |= {"ss_output_name": title, "ss_network_module": "networks.lora"}
    tags = merged_tags(files)
    if tags:
        metadata[TAGS_KEY] = json.dumps(tags)
    metadata |= {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": title,
        "modelspec.date": datetime.now(timezone.utc).replace(microsecond=0).isoformat(),
        "modelspec.merged_from": ", ".join(_titles(files)),
    }
    architecture = _same(files, "modelspec.architecture", family.architecture)
    if architecture:
        metadata["modelspec.architecture"] = architecture
        metadata["modelspec.implementation"] = _ORIGINAL_IMPLEMENTATION if family.id == "sdxl" else "diffusers"
    resolution = _same(files, "modelspec.resolution", family.resolution)
    if resolution:
        metadata["modelspec.resolution"] = resolution
    if recipe is not None:
        metadata[RECIPE_KEY] = json.dumps({"version": __version__, **recipe})
    return metadata


def rank_metadata(ranks: Iterable[int], conv_ranks: Iterable[int], alphas: Iterable[int]) -> dict[str, str]:
    """ss_network_dim and _alpha of linear layers, conv_dim among the ss_network_args; "Dynamic" where they differ."""
    alpha = _one_or_dynamic(alphas)
    metadata = {
        "ss_network_dim": _one_or_dynamic(ranks),
        "ss_network_alpha": alpha if alpha == "Dynamic" else f"{alpha}.0",
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
    """The metadata with everything that is not known yet at its longest, to reserve room for."""
    hashes = hash_metadata("0" * 64, "0" * 8)
    return {
        **metadata,
        **rank_metadata([1, 2], [1, 2], [10**9]),
        "ss_network_dim": "0" * 9,
        "ss_network_alpha": "0" * 9,
        **hashes,
    }


def merged_tags(files: Iterable[LoraFile]) -> dict[str, dict[str, int]]:
    """The inputs' ss_tag_frequency added up: data set -> tag -> how often. What is no count of tags is left out."""
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
    """Why a file's tags are not read, "" if they are."""
    length = len(metadata.get(TAGS_KEY, ""))
    return f"as {TAGS_KEY} has {length} characters, more than {MAX_LENGTH}" if length > MAX_LENGTH else ""


def _base_model(files: Sequence[LoraFile], family: Family, force: bool) -> dict[str, str]:
    """ss_base_model_version and ss_v2. Without them the WebUI takes a file for SD1 and hides it from other models."""
    metadata = {}
    for key in ("ss_base_model_version", "ss_v2"):
        said = {file.path.name: file.metadata[key] for file in files if file.metadata.get(key)}
        if len(set(said.values())) > 1 and not force:
            each = ", ".join(f"{name} says {value}" for name, value in said.items())
            raise MergeInputError(
                f"The LoRAs disagree on their base model ({key}): {each}. Force the merge if you are sure."
            )
        if said:
            metadata[key] = sorted(said.values())[0]
    if family.base_version:
        metadata.setdefault("ss_base_model_version", family.base_version)
        metadata.setdefault("ss_v2", str(family.id == "sd2"))
    return metadata


def _same(files: Sequence[LoraFile], key: str, otherwise: str) -> str:
    """What all inputs that say it agree on."""
    said = {file.metadata[key] for file in files if file.metadata.get(key)}
    return said.pop() if len(said) == 1 else otherwise


def _titles(files: Iterable[LoraFile]) -> list[str]:
    return [file.metadata.get("modelspec.title") or file.name for file in files]


def _one_or_dynamic(ranks: Iterable[int]) -> str:
    distinct = set(ranks)
    if not distinct:
        return ""
    return str(distinct.pop()) if len(distinct) == 1 else "Dynamic"
