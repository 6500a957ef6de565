"""Headers that lie: each is refused by name, before memory is taken for what it claims."""

from __future__ import annotations

import errno
import json
import os
import struct
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from lib_pm.core.errors import MergeInputError
from lib_pm.files.contents import inspect_file
from lib_pm.files.header import MAX_LENGTH, MAX_LINES, MAX_NAME, MAX_TENSORS
from lib_pm.files.reader import open_lora
from lib_pm.render.text import inspection_text
from tests.loras import make_lora, write
from tests.messages import saying, says

NAME = "lora_unet_mid_block_attentions_0_proj_in"
UP, DOWN = f'"{NAME}.lora_up.weight"', f'"{NAME}.lora_down.weight"'
MB = 2**20


def entry(shape: Iterable[int], start: int, end: int, dtype: str = "F32") -> str:
    return json.dumps({"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]})


GOOD = f"{UP}:{entry((2, 1), 0, 8)},{DOWN}:{entry((1, 2), 8, 16)}"


def file_of(tmp_path: Path, header: str | bytes, data: int = 16, length: int | None = None) -> Path:
    header = header.encode() if isinstance(header, str) else header
    path = tmp_path / "style.safetensors"
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + bytes(data))
    return path


def test_the_good_one_is_read(tmp_path: Path) -> None:
    with open_lora(file_of(tmp_path, f'  {{"__metadata__":{{"a":"b"}},{GOOD}}}   ')) as file:
        assert file.read(NAME).rank == 1
        assert file.metadata == {"a": "b"}
    with open_lora(file_of(tmp_path, f'{{"__metadata__":null,{GOOD}}}')) as file:
        assert file.metadata == {}


@pytest.mark.parametrize(
    ("header", "facts"),
    [
        (f"{{{GOOD},{UP}:{entry((2, 1), 0, 8)}}}", f"{NAME}.lora_up.weight … twice"),
        (f'{{"__metadata__":{{"a":"1","a":"2"}},{GOOD}}}', "metadata a … twice"),
        (f"{{{UP}:{entry((2, 1), 0, 8)},{DOWN}:{entry((1, 2), 4, 12)}}}", f"{NAME}.lora_down.weight … begin"),
        (f"{{{UP}:{entry((2, 1), 0, 8)},{DOWN}:{entry((1, 1), 12, 16)}}}", f"{NAME}.lora_down.weight … begin"),
        (f"{{{UP}:{entry((2, 1), 0, 8)},{DOWN}:{entry((1, 1), 12, 8)}}}", f"{NAME}.lora_down.weight"),
        (f"{{{UP}:{entry((2, 1), 0, 8)},{DOWN}:{entry((1, 1), 8, 12)}}}", "12 of 16"),
        (
            f"{{{UP}:{entry((2, 1), 0, 8)},{DOWN}:{entry((1, 2**60), 8, 16)}}}",
            f"{NAME}.lora_down … 8 bytes … shape",
        ),
        (f"{{{UP}:{entry((2, 1), 0, 8)},{DOWN}:{entry((1, -2), 8, 16)}}}", "cannot be read"),
        (f'{{{UP}:{entry((2, 1), 0, 8)},{DOWN}:{{"dtype":"F32","shape":[1,2]}}}}', "cannot be read"),
        (f"{{{UP}:{entry((2, 1), 0, 8)},{DOWN}:{entry((1, 2), 8, 16).replace('2', 'true')}}}", "cannot be read"),
        (f"{{{UP}:{entry((2, 1), 0, 8)},{DOWN}:[]}}", "cannot be read"),
        (f"{{{UP}:{entry((2, 1), 0, 8)},{DOWN}:{entry([1] * 5000, 8, 12)}}}", "cannot be read"),
        (f'{{"__metadata__":{{"a":1}},{GOOD}}}', "metadata a … text"),
        (f'{{"__metadata__":[],{GOOD}}}', "{ … character"),
        (f'{{"__metadata__":{{"a":"\\ud800"}},{GOOD}}}', "string … header … read"),
        (f"{{{GOOD}", ", … character"),
        (f"{{{GOOD}}}x", "extra text … header"),
        (f"{{{GOOD},}}", "name of a tensor … missing"),
        ("[" * 100_000, "{ … character"),
        ('{"a":' * 100_000, "cannot be read"),
        (f'{{"{"x" * (MAX_NAME + 1)}":{entry((4,), 0, 16)}}}', f"{MAX_NAME + 1} characters … {MAX_NAME}"),
        (b'{"\xff":1}', "not UTF-8"),
        ("", "{ … character"),
        ("null", "{ … character"),
    ],
)
def test_a_header_that_is_none(tmp_path: Path, header: str | bytes, facts: str) -> None:
    with pytest.raises(MergeInputError) as caught:
        open_lora(file_of(tmp_path, header))
    assert says(caught.value, f"style.safetensors … .safetensors … damaged … cut off … {facts}"), caught.value
    assert str(caught.value).startswith("style.safetensors")
    assert len(str(caught.value)) < 3 * MAX_NAME


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 10**9, 1])
def test_a_length_that_is_a_lie(tmp_path: Path, length: int) -> None:
    with pytest.raises(MergeInputError, match=saying("style.safetensors … .safetensors")):
        open_lora(file_of(tmp_path, f"{{{GOOD}}}", length=length))


def test_a_header_longer_than_the_format_allows(tmp_path: Path) -> None:
    path = file_of(tmp_path, "", 0, MAX_LENGTH + 1)
    os.truncate(path, 2 * MAX_LENGTH)
    with pytest.raises(MergeInputError, match=saying(f"style.safetensors … {MAX_LENGTH + 1} bytes … {MAX_LENGTH}")):
        open_lora(path)


@pytest.mark.parametrize("dtype", ["BOOL", "U16", "C64", "F8_E8M0", "X" * 500, "I32"])
def test_a_dtype_that_no_factor_has(tmp_path: Path, dtype: str) -> None:
    path = file_of(tmp_path, f"{{{UP}:{entry((2, 1), 0, 8, dtype)},{DOWN}:{entry((1, 2), 8, 16)}}}")
    with pytest.raises(MergeInputError, match=saying(f"{NAME}.lora_up.weight … dtype {dtype} … floating point")):
        open_lora(path)


LINES = [f'"{i}":"{"x" * 100}"' for i in range(MAX_LINES)]
EMPTY = ",".join(f'"{i}":""' for i in range(300_000))


@pytest.mark.parametrize(
    "header",
    [
        f'{{"__metadata__":{{"a":"{"x" * 30 * MB}"}}',
        f'{{"__metadata__":{{"a":"{"é" * 15 * MB}"}}',
        f'{{"__metadata__":{{{",".join(LINES)}}}',
    ],
    ids=["long", "letters", "lines"],
)
def test_memory_of_long_metadata(tmp_path: Path, header: str) -> None:
    peak, size = peak_of_opening(file_of(tmp_path, f"{header},{GOOD}}}"))
    assert peak < 4 * size + 32 * MB


@pytest.mark.parametrize(
    "header",
    [
        f'{{"__metadata__":{{{EMPTY}}}',
        f"{{{UP}:{entry((2, 1), 0, 8)[:-1]}" + ',"x":[' + "[]," * 5 * MB,
        "{" + ",".join(f'"{i}.lora_up.weight":{entry((), 0, 0)}' for i in range(MAX_TENSORS + 1)),
        '{"__metadata__":{"a":' + "[" * 10 * MB,
        '{"__metadata__":' + '{"a":' * 5 * MB,
        f'{{"{"x" * 30 * MB}":',
    ],
    ids=["empty lines", "shape", "tensors", "lists", "objects", "name"],
)
def test_memory_of_what_is_refused(tmp_path: Path, header: str) -> None:
    path = file_of(tmp_path, f"{header},{GOOD}}}")
    tracemalloc.start()
    try:
        with pytest.raises(MergeInputError):
            open_lora(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * path.stat().st_size + 32 * MB
    finally:
        tracemalloc.stop()


def peak_of_opening(path: Path) -> tuple[int, int]:
    """The most bytes that Python held while the file was open, and the file's size."""
    tracemalloc.start()
    try:
        with open_lora(path):
            return tracemalloc.get_traced_memory()[1], path.stat().st_size
    finally:
        tracemalloc.stop()


def test_more_tensors_than_any_lora_has(tmp_path: Path) -> None:
    many = ",".join(f'"{i}.alpha":{entry((), 0, 0, "X")}' for i in range(MAX_TENSORS + 1))
    with pytest.raises(MergeInputError, match=saying(f"style.safetensors … {MAX_TENSORS} tensors")):
        open_lora(file_of(tmp_path, f"{{{many}}}", 0))


def test_metadata_counts_in_what_a_cache_holds(tmp_path: Path) -> None:
    tensors, long = make_lora({NAME: (24, 16)}, 4), "x" * 30 * MB
    with open_lora(write(tmp_path / "long.safetensors", tensors, {"note": long})) as file:
        assert len(long) < file.nbytes < 1.1 * len(long)
    with open_lora(write(tmp_path / "short.safetensors", tensors)) as file:
        assert file.nbytes < 10_000


def test_tags_that_are_too_long_to_be_read_are_said_to_be(tmp_path: Path) -> None:
    tags = json.dumps({"img": {f"tag {i}": 1 for i in range(400_000)}})
    path = write(tmp_path / "style.safetensors", make_lora({NAME: (24, 16)}, 4), {"ss_tag_frequency": tags})
    assert f"  tags: not read: ss_tag_frequency has {len(tags)} characters" in inspection_text(inspect_file(path))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(MergeInputError, match=saying("pipe.safetensors … not a file")):
        open_lora(tmp_path / "pipe.safetensors")


def test_names_that_are_no_path() -> None:
    with pytest.raises(MergeInputError, match="null byte"):
        open_lora(Path("a\0.safetensors"))


def test_too_many_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "style.safetensors", make_lora({NAME: (24, 16)}, 4))

    def full(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("lib_pm.files.tensors.FileIO", full)
    with pytest.raises(MergeInputError, match=saying("style.safetensors … open files … fewer LoRAs")):
        open_lora(path)


def test_the_alpha_of_any_shape_with_one_number(tmp_path: Path) -> None:
    path = file_of(tmp_path, f'{{{GOOD},"{NAME}.alpha":{entry([1] * 200, 16, 20)}}}', 20)
    with open_lora(path) as file:
        assert file.alpha(NAME) == 0


def mid_of(tmp_path: Path, rank: int, inner: int, out: int, kernel: tuple[int, ...]) -> Path:
    """A CP layer of those sizes, its numbers all zero and, where the system can, not on the disk."""
    shapes = {
        "lora_down": (rank, inner, 1, 1),
        "lora_mid": (rank, rank, *kernel),
        "lora_up": (out, rank, 1, 1),
    }
    entries, end = [], 0
    for part, shape in shapes.items():
        start, end = end, end + 2 * int(torch.Size(shape).numel())
        entries.append(f'"{NAME}.{part}.weight":{entry(shape, start, end, "F16")}')
    path = file_of(tmp_path, f"{{{','.join(entries)}}}", 0)
    os.truncate(path, path.stat().st_size + end)
    return path


@pytest.mark.parametrize(
    ("rank", "inner", "out", "kernel"),
    [
        (4, 320, 320, (3, 3)),
        (32, 1280, 1280, (3, 3)),
        (32, 4, 320, (3, 3)),
        (256, 2560, 1280, (3, 3)),
        (8, 3, 1280, (14, 14)),
    ],
)
def test_cp_layers_of_real_models_are_read(
    tmp_path: Path, rank: int, inner: int, out: int, kernel: tuple[int, ...]
) -> None:
    with open_lora(mid_of(tmp_path, rank, inner, out, kernel)) as file:
        assert file.read(NAME).down.shape == (rank, inner * kernel[0] * kernel[1])


@pytest.mark.parametrize(
    ("rank", "inner", "kernel"), [(8, 45_000, (128, 64)), (1, 10_000, (1000, 1000)), (2, 2560, (2**20, 1))]
)
def test_a_mid_factor_out_of_all_proportion(tmp_path: Path, rank: int, inner: int, kernel: tuple[int, ...]) -> None:
    """A file of a few megabytes whose layer would take gigabytes; nothing is allocated for it."""
    with pytest.raises(MergeInputError) as caught:
        open_lora(mid_of(tmp_path, rank, inner, 320, kernel))
    facts = f"style.safetensors … {NAME} … {rank}×{rank}×{kernel[0]}×{kernel[1]} … mid factor … allowed"
    assert says(caught.value, facts), caught.value


@pytest.mark.parametrize("mid", [(), (4,), (4, 4), (4, 4, 3), (4, 4, 3, 3, 3), (4, 4, 0, 3), (4, 4, 3, 0)])
def test_a_mid_factor_of_another_shape(tmp_path: Path, mid: tuple[int, ...]) -> None:
    tensors = make_lora({NAME: (24, 16, 1, 1)}, 4) | {f"{NAME}.lora_mid.weight": torch.zeros(mid)}
    with pytest.raises(MergeInputError, match=saying(f"style.safetensors … factors … {NAME} … fit")):
        open_lora(write(tmp_path / "style.safetensors", tensors))
