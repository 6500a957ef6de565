"""Damaged and hostile LoRA files, and what is done with each."""

from __future__ import annotations

import json
import math
import struct
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from random import Random

from lib_pm.compare.analyse import analyse
from lib_pm.core.choices import APPLY
from lib_pm.core.errors import MergeInputError
from lib_pm.core.layers import Dense
from lib_pm.core.registry import MODES
from lib_pm.files.contents import inspect_file
from lib_pm.files.reader import open_lora
from lib_pm.merging.merge import merge, merge_to_file
from lib_pm.merging.recipe import DTYPES, LoraUse, make_recipe
from lib_pm.merging.resize import NewRank, parse_dynamic, preview_resize
from lib_pm.render.text import inspection_text
from lib_pm.workspace.draft import from_recipe
from tests.fuzz.junk import changed_bytes, changed_json, check_message, junk_json
from tests.fuzz.samples import SIZES, Sample, put, random_name, samples

_SAMPLES = samples()
_VALUES = {
    "F64": [struct.pack("<d", value) for value in (math.nan, math.inf, 1e308, -1e300, 1e-320, 0.0, -0.0)],
    "F32": [struct.pack("<f", value) for value in (math.nan, -math.inf, 3e38, -3e38, 1e-44, 0.0, 1e20)],
    "F16": [struct.pack("<e", value) for value in (math.nan, math.inf, 65504, -65504, 6e-8, 0.0)],
    "BF16": [b"\xc0\x7f", b"\x80\x7f", b"\x7f\x7f", b"\x7f\xff", b"\x01\x00", b"\0\0"],
    "F8_E4M3": [b"\x7f", b"\x7e", b"\xfe", b"\0"],
    "F8_E5M2": [b"\x7e", b"\x7c", b"\x7b", b"\0"],
    "I64": [struct.pack("<q", value) for value in (-(2**63), 2**63 - 1, 0)],
}


@dataclass(frozen=True)
class Case:
    """A file's bytes, and the settings beside it, if there are any."""

    file: bytes
    config: bytes | None = None


def case(number: int) -> Case:
    """The case of that number, always the same."""
    random = Random(number)
    sample = deepcopy(random.choice(_SAMPLES))
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        random.choice(_MUTATIONS)(random, sample)
    config = sample.config
    if config and random.random() < 0.7:
        config = random.choice((changed_json, lambda random, _: junk_json(random)))(random, config)
    file = sample.file()
    kind = random.randrange(16)
    if kind == 0:
        file = sample.file(changed_json(random, sample.header()))
    elif kind == 1:
        file = changed_bytes(random, file)
    elif kind == 2:
        file = sample.file(changed_bytes(random, sample.header().encode()))
    elif kind == 3:
        lies = (0, 1, 7, 2**63, 2**64 - 1, 10**8 + 1, len(file) - 8, len(file), len(sample.header()) - 1)
        file = sample.file(length=random.choice(lies))
    settings = config.encode("utf-8", "surrogatepass") if config else None
    if settings and random.random() < 0.1:
        settings = changed_bytes(random, settings)
    return Case(file, settings)


def _entry(random: Random, sample: Sample) -> None:
    """One part of a header's entry is another."""
    entry = sample.entries[random.choice(list(sample.entries))]
    match random.randrange(4):
        case 0:
            entry["dtype"] = random.choice((*SIZES, "BOOL", "C64", "F4", "", "x" * 2000, 3, None))
        case 1:
            size = random.choice((0, 1, 2, 2**31, 2**63, 10**30, -1, 1.5, "4", None, True, [], 768))
            shape = entry["shape"]
            if not isinstance(shape, list):
                return
            shape[random.randrange(len(shape)) if shape else 0 :][:1] = [size]
            entry["shape"] = random.choice(([*shape[:-1], size], [*shape, size], [size] * 70, [], size))
        case 2:
            numbers = (0, 1, -4, 10**30, 2**63, 1.0, None, "0", len(sample.data), entry["data_offsets"][0])
            entry["data_offsets"] = [random.choice(numbers) for _ in range(random.choice((2, 2, 2, 1, 3)))]
        case 3:
            entry[random.choice(("x", "dtype", "shape"))] = json.loads(random.choice(("{}", "[[]]", '"F32"', "null")))


def _shape(random: Random, sample: Sample) -> None:
    """A shape that fits its bytes and nothing else."""
    entry = sample.entries[random.choice(list(sample.entries))]
    shape = entry["shape"]
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        return
    numel = math.prod(shape)
    whole = [[numel], [1, numel], [numel, 1], [numel, 1, 1, 1], [1] * 40 + [numel], shape[::-1], [*shape, 1, 1]]
    entry["shape"] = random.choice(whole)


def _tensor(random: Random, sample: Sample) -> None:
    """A tensor is gone, has another name, or there is one more."""
    name = random.choice(list(sample.entries))
    if random.random() < 0.3 and len(sample.entries) > 1:
        del sample.entries[name]
    elif random.random() < 0.5:
        sample.entries[random_name(random)] = sample.entries.pop(name)
    else:
        dtype = random.choice(list(SIZES))
        shape = [random.choice((0, 1, 1, 2, 4, 12)) for _ in range(random.randrange(6))]
        put(sample, random_name(random), dtype, shape, bytes(math.prod(shape) * SIZES[dtype]))


def _values(random: Random, sample: Sample) -> None:
    """Some numbers of a tensor are those at which arithmetic breaks."""
    entry = sample.entries[random.choice(list(sample.entries))]
    dtype, offsets = entry["dtype"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _VALUES:
        return
    if len(offsets) != 2 or not all(type(number) is int for number in offsets):
        return
    start, end = offsets
    value = random.choice(_VALUES[dtype])
    count = (end - start) // len(value)
    if not 0 < count <= len(sample.data):
        return
    for place in range(count) if random.random() < 0.5 else [random.randrange(count)]:
        sample.data[start + place * len(value) : start + (place + 1) * len(value)] = value


def _metadata(random: Random, sample: Sample) -> None:
    """One line of metadata holds junk, or JSON of which a part is junk."""
    keys = [*sample.metadata, "lora_adapter_metadata", "ss_tag_frequency", "power_merger_recipe", "ss_v2", "x\0\x1b"]
    key = random.choice(keys)
    text = sample.metadata.get(key, "")
    sample.metadata[key] = (
        changed_json(random, text) if text.startswith("{") and random.random() < 0.7 else (junk_json(random))
    )


def _layer(random: Random, sample: Sample) -> None:
    """One more layer, whole, of an odd shape: ranks above what it allows, one number, other sizes than elsewhere."""
    out, inner, rank = (random.choice((1, 2, 3, 12, 40)) for _ in range(3))
    kernel = random.choice(([], [], [1, 1], [3, 3], [1, 5], [7, 1]))
    dtype = random.choice(("F32", "F16", "BF16", "F64", "F8_E4M3"))
    name = random_name(random).rpartition(".lora")[0] or "lora_unet_x"
    cp = kernel and random.random() < 0.5
    ones = [1] * len(kernel)
    shapes = {"lora_up": [out, rank, *ones], "lora_down": [rank, inner, *(ones if cp else kernel)]}
    if cp:
        shapes["lora_mid"] = [rank, rank, *kernel]
    for part, shape in shapes.items():
        data = random.randbytes(math.prod(shape) * SIZES[dtype]) if random.random() < 0.3 else None
        put(sample, f"{name}.{part}.weight", dtype, shape, data or bytes(math.prod(shape) * SIZES[dtype]))


# The gentle ones more often: a file that is opened goes through all that is done with it.
_MUTATIONS = (_entry, _shape, _tensor, *[_values, _metadata, _layer] * 4)


def write_case(folder: Path, case: Case) -> Path:
    """Into the folder, which may hold one from before."""
    config = folder / "adapter_config.json"
    if case.config is None:
        config.unlink(missing_ok=True)
    else:
        config.write_bytes(case.config)
    path = folder / ("style.safetensors" if case.config is None else "adapter_model.safetensors")
    path.write_bytes(case.file)
    return path


def write_partner(folder: Path) -> Path:
    """A good LoRA, to merge with."""
    path = folder / "good.safetensors"
    path.write_bytes(_SAMPLES[0].file())
    return path


def drive(path: Path, partner: Path, random: Random) -> str:
    """Do with the file what users do. Return what came of it: "read", or "refused" and by which step first.

    Anything but a result or a MergeInputError comes through.
    """
    refused: list[str] = []
    mode = random.choice(list(MODES.values()))
    values = [_value(random) for _ in range(4)]
    save_dtype, apply = random.choice(list(DTYPES)), random.choice(APPLY)
    options = {"rank": 2} if "svd_rank" in mode.options else {}

    def recipe_of(*uses: LoraUse) -> object:
        return make_recipe(uses, mode.id, options, save_dtype=save_dtype, apply=apply)

    bad, good = LoraUse(path, *values[:2]), LoraUse(partner, *values[2:])
    steps = {
        "open": lambda: _read(path),
        "inspect": lambda: _inspect(path),
        "merge alone": lambda: merge(recipe_of(bad), device="cpu", workers=1),
        "merge": lambda: merge(recipe_of(bad, good), device="cpu", workers=1),
        "save": lambda: _save(recipe_of(bad), path.with_name("out.safetensors")),
        "analyse": lambda: analyse(make_recipe([bad, good], "concat"), device="cpu", workers=1),
        "resize": lambda: preview_resize(path, NewRank(2), save_dtype=save_dtype, device="cpu"),
        "resize by a rule": lambda: preview_resize(
            path, NewRank(9, dynamic=parse_dynamic("sv_fro=0.9")), save_dtype=save_dtype, device="cpu"
        ),
    }
    for name, step in steps.items():
        if name != "open" and random.random() < 0.5:
            continue
        try:
            step()
        except MergeInputError as error:
            refused.append(name)
            check_message(str(error))
            if name == "open":
                return "refused: open"
    return f"refused: {refused[0]}" if refused else "read"


def _value(random: Random) -> float:
    return random.choice((1.0, 0.5, -1.0, 0.0, 1e-30, 1e6))


def _read(path: Path) -> None:
    with open_lora(path) as file:
        assert len(file.content) == 64
        assert file.nbytes > 0
        for name in (*file.layers, *file.vectors):
            layer = file.read(name)
            if isinstance(layer, Dense):
                assert layer.matrix.shape == (layer.shape.out, layer.shape.columns)
                continue
            assert layer.up.shape == (layer.shape.out, layer.rank)
            assert layer.down.shape == (layer.rank, layer.shape.columns)
            assert math.isfinite(layer.scale)


def _inspect(path: Path) -> None:
    found = inspect_file(path)
    inspection_text(found).encode("utf-8")
    json.dumps(found.to_json())
    if found.recipe:
        try:
            from_recipe(found.recipe)
        except MergeInputError:
            return


def _save(recipe: object, target: Path) -> None:
    merge_to_file(recipe, target, device="cpu", workers=1, overwrite=True)
    _read(target)
