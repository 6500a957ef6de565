"""The written file: readable by safetensors, hashed as kohya does, whole or not there at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.files.writer import StreamWriter, header_size
from lib_pm.merging.merge import merge_to_file
from lib_pm.merging.progress import Cancelled
from lib_pm.merging.recipe import LoraUse, Recipe, make_recipe
from tests.layouts import Shapes
from tests.loras import deltas, make_lora, total_error, write
from tests.messages import saying, says

NAMES = [f"lora_unet_down_blocks_{level}_attentions_{index}_proj_in" for level in range(3) for index in range(2)]
METADATA = {"ss_output_name": "größe", "modelspec.title": 'a "b" \\ c'}
TENSORS = {"b": torch.arange(15.0).reshape(3, 5).half(), "a": torch.tensor(7.0), "c": torch.ones(2, 2).bfloat16()}


def recipe(folder: Path, shapes: Shapes | None = None, rank: int = 2, **settings: Any) -> Recipe:
    tensors = make_lora(shapes or dict.fromkeys(NAMES, (24, 16)), rank)
    return make_recipe([LoraUse(write(folder / "in.safetensors", tensors))], "concat", **settings)


def stream(target: Path, tensors: dict[str, Tensor], metadata: dict[str, str], **how: Any) -> None:
    with StreamWriter(target, header_size({n: t.shape for n, t in tensors.items()}, metadata), **how) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor)
        writer.finish(metadata)


def test_safetensors_opens_what_is_written(tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    stream(target, TENSORS, METADATA)
    loaded = load_file(target)
    assert loaded.keys() == TENSORS.keys()
    assert all(loaded[name].dtype == TENSORS[name].dtype for name in loaded)
    assert all(torch.equal(loaded[name], TENSORS[name]) for name in loaded)
    with safe_open(str(target), "pt") as file:
        assert file.metadata() == METADATA
    content = target.read_bytes()
    size = int.from_bytes(content[:8], "little")
    assert size % 8 == 0
    assert len(content) == 8 + size + sum(tensor.nbytes for tensor in TENSORS.values())
    assert json.loads(content[8 : 8 + size])["a"] == {"dtype": "F32", "shape": [], "data_offsets": [30, 34]}


def test_a_header_that_outgrew_its_room_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="were reserved"), StreamWriter(tmp_path / "o.safetensors", 16) as writer:
        writer.finish(METADATA)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rank", [4, 9, 99, 1200], ids="rank {}".format)
def test_the_room_that_is_reserved_is_enough(tmp_path: Path, rank: int) -> None:
    """Ranks, offsets and hashes get longer while the file is written."""
    target = tmp_path / "out.safetensors"
    merge_to_file(recipe(tmp_path, {NAMES[0]: (24, 16), f"{NAMES[1]}_conv": (24, 16, 3, 3)}, rank), target)
    assert len(load_file(target)) == 6


@pytest.mark.parametrize(
    ("width", "legacy_of_nothing"), [(24, True), (100_000, False)], ids=["below 1 MB", "above 2 MB"]
)
def test_hashes_are_kohyas(tmp_path: Path, width: int, legacy_of_nothing: bool) -> None:
    """`precalculate_safetensors_hashes` of kohya-ss/sd-scripts: of the file as it is with training metadata alone."""
    target = tmp_path / "größe.safetensors"  # its name is in the header, in as many bytes as the format gives it
    merge_to_file(recipe(tmp_path, dict.fromkeys(NAMES, (width, 16))), target)
    with safe_open(str(target), "pt") as file:
        metadata = file.metadata()
    assert (target.stat().st_size > 2**21) == (width > 24)
    training = {key: value for key, value in metadata.items() if key.startswith("ss_") and not key.startswith("sshs_")}
    alone = save(load_file(target), training)
    data = alone[8 + int.from_bytes(alone[:8], "little") :]
    assert metadata["sshs_model_hash"] == hashlib.sha256(data).hexdigest()
    assert metadata["modelspec.hash_sha256"] == f"0x{metadata['sshs_model_hash']}"
    # the header differs in its spelling, not in its length: the window starts at the same tensor
    window = alone[0x100000 : 0x100000 + 0x10000]
    assert metadata["sshs_legacy_hash"] == hashlib.sha256(window).hexdigest()[:8]
    assert (window == b"") == legacy_of_nothing


@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "over an old one"])
@pytest.mark.parametrize("stop", [Cancelled, KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("workers", [1, 2])
def test_stopped_halfway(tmp_path: Path, workers: int, stop: type[BaseException], overwrite: bool) -> None:
    merge, target = recipe(tmp_path), tmp_path / "out.safetensors"
    if overwrite:
        target.write_text("old")
    seen = []

    def progress(done: int, total: int, name: str, unit: str = "layers") -> None:
        seen.extend(path.name for path in tmp_path.iterdir() if path.suffix == ".tmp")
        if (unit, done) == ("layers", 4):
            raise stop

    with pytest.raises(stop):
        merge_to_file(merge, target, progress=progress, workers=workers, overwrite=overwrite)
    assert seen  # there was a file to clean up
    assert sorted(path.name for path in tmp_path.iterdir()) == (
        ["in.safetensors", "out.safetensors"] if overwrite else ["in.safetensors"]
    )
    assert not overwrite or target.read_text() == "old"


@pytest.mark.parametrize(
    ("target", "facts"),
    [
        ("out.ckpt", "{} … .safetensors"),
        ("no/such/out.safetensors", "folder {folder}"),
        ("folder.safetensors", "{} … folder"),
        ("old.safetensors", "{} … already"),
    ],
)
def test_targets_that_are_refused_before_the_work(tmp_path: Path, target: str, facts: str) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "old.safetensors").write_text("old")
    path = tmp_path / target
    with pytest.raises(MergeInputError) as caught:
        merge_to_file(recipe(tmp_path), path, progress=lambda *_: pytest.fail("began to work"))
    assert says(caught.value, facts.format(path, folder=path.parent)), caught.value
    assert (tmp_path / "old.safetensors").read_text() == "old"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    with pytest.raises(MergeInputError, match=saying(f"{target} … already")):
        merge_to_file(recipe(tmp_path), target, progress=lambda *_: target.write_text("theirs") and None)
    assert target.read_text() == "theirs"
    assert not list(tmp_path.glob(".*"))


def test_overwrite_onto_an_input(tmp_path: Path) -> None:
    merge = recipe(tmp_path)
    before = load_file(merge.loras[0].path)
    merge_to_file(merge, merge.loras[0].path, overwrite=True)
    assert total_error(deltas(merge.loras[0].path), deltas(before)) < 1e-3


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    resource = pytest.importorskip("resource", reason="no such limit on Windows")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize(
    ("width", "size"), [(24, 100), (40_000, 100), (40_000, 200_000)], ids=["buffered", "first write", "later write"]
)
def test_the_system_refuses_a_write(tmp_path: Path, width: int, size: int) -> None:
    """A file size limit of the process: a real failure, in a large write or when small ones are flushed at the end."""
    merge, target = recipe(tmp_path, dict.fromkeys(NAMES, (width, 16))), tmp_path / "out.safetensors"
    with file_size_limit(size), pytest.raises(MergeInputError) as caught:
        merge_to_file(merge, target)
    assert says(caught.value, f"{target} … {os.strerror(errno.EFBIG)} … Nothing … left"), caught.value
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


REASONS = {
    errno.EACCES: "folder or file … not permitted",
    errno.EROFS: "folder … read-only",
    errno.ENOSPC: "disk … full",
    errno.EIO: os.strerror(errno.EIO),
}


@pytest.mark.parametrize("code", REASONS)
@pytest.mark.parametrize("call", ["lib_pm.files.leftovers.new_temporary", "os.fsync", "os.replace"])
def test_reasons_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    """Whether the folder refuses a file, the disk is full at the end, or the old file is held open by another."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    merge, target = recipe(tmp_path), tmp_path / "out.safetensors"
    monkeypatch.setattr(call, refuse)
    with pytest.raises(MergeInputError) as caught:
        merge_to_file(merge, target, overwrite=True)
    assert says(caught.value, f"{target} … {REASONS[code]} … Nothing … left"), caught.value
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


@pytest.mark.skipif(sys.platform == "win32", reason="no file modes there")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002], ids=oct)
def test_file_mode_follows_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        merge_to_file(recipe(tmp_path), tmp_path / "out.safetensors")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.safetensors").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize(("there", "wanted"), [("Style", "style"), ("Straße", "STRASSE"), ("größe", "gro\u0308ße")])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_name_that_elsewhere_is_another_spelling_of_a_files(
    tmp_path: Path, overwrite: bool, there: str, wanted: str
) -> None:
    """On Windows and macOS the two are one file: a folder that is copied there would lose one of them."""
    (tmp_path / f"{there}.safetensors").write_text("theirs")
    with pytest.raises(MergeInputError) as caught:
        merge_to_file(recipe(tmp_path), tmp_path / f"{wanted}.safetensors", overwrite=overwrite)
    assert says(caught.value, f"{there}.safetensors"), caught.value
    assert (tmp_path / f"{there}.safetensors").read_text() == "theirs"
    merge_to_file(recipe(tmp_path), tmp_path / f"{there}.safetensors", overwrite=True)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["CON", "com¹.x", "a:b", "a\u202eb", "a."])
def test_names_that_some_system_cannot_hold(tmp_path: Path, name: str) -> None:
    with pytest.raises(MergeInputError, match=saying("output name")):
        merge_to_file(recipe(tmp_path), tmp_path / f"{name}.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]
