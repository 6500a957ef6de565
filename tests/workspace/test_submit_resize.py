"""Resizing through the queue: one LoRA and many, looked at first."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from lib_pm.core.errors import MergeInputError
from lib_pm.merging.resize import NewRank, parse_dynamic, resize_to_file
from lib_pm.workspace.submit import Target, submit_resize
from tests.desks import SHAPES, SeenDesk, done, files, make_desk
from tests.loras import make_lora, write
from tests.messages import says


@pytest.fixture
def desk(tmp_path: Path) -> SeenDesk:
    return make_desk(tmp_path)


def test_one(desk: SeenDesk, tmp_path: Path) -> None:
    (report,) = done(submit_resize(desk, ["style"], NewRank(2), Target("small", "made", "float32"), "cpu"))
    resize_to_file(desk.folder / "style.safetensors", tmp_path / "small.safetensors", NewRank(2), save_dtype="float32")
    written, expected = (load_file(str(path)) for path in (desk.find("small"), tmp_path / "small.safetensors"))
    assert written.keys() == expected.keys()
    assert all(tensor.equal(expected[name]) for name, tensor in written.items())
    assert report.file == "made/small"
    assert desk.announced == ["made/small.safetensors"]


def test_many_each_into_its_own_file(desk: SeenDesk) -> None:
    job = submit_resize(desk, ["style", "sub/char"], NewRank(2), Target(), "cpu")
    assert [report.file for report in done(job)] == ["style_resized", "char_resized"]
    assert (job.done, job.total) == (2 * len(SHAPES), 2 * len(SHAPES))
    more = submit_resize(desk, ["style", "char"], NewRank(1), Target("_r1", "small"), "cpu")
    assert [report.file for report in done(more)] == ["small/style_r1", "small/char_r1"]


def test_two_of_one_name_do_not_take_each_others_file(desk: SeenDesk) -> None:
    write(desk.folder / "char.safetensors", make_lora(SHAPES, 2, seed=9))
    with pytest.raises(MergeInputError, match=r"char_resized would be written twice"):
        submit_resize(desk, ["char", "sub/char"], NewRank(1), Target(overwrite=True), "cpu")


@pytest.mark.parametrize("new", [NewRank(2), NewRank(3, None, parse_dynamic("sv_fro=0.8"))], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_looking_writes_nothing_and_tells_what_the_file_would_have(desk: SeenDesk, new: NewRank, dtype: str) -> None:
    before = files(desk)
    looked = done(submit_resize(desk, ["style", "char"], new, Target(save_dtype=dtype), "cpu", preview=True))
    assert files(desk) == before
    assert desk.announced == []
    written = done(submit_resize(desk, ["style", "char"], new, Target(save_dtype=dtype), "cpu"))
    for preview, report in zip(looked, written, strict=True):
        assert (preview.layers, preview.kept_energy) == (report.layers, report.kept_energy)
        assert preview.file == ""
        tensors = load_file(str(desk.find(report.file)))
        assert preview.size == sum(tensor.nbytes for tensor in tensors.values())
        assert 0 < report.size - preview.size < 4096 * len(SHAPES)  # the header


def test_of_a_resized_file_less_metadata_can_be_kept(desk: SeenDesk) -> None:
    done(submit_resize(desk, ["style"], NewRank(2), Target("out", keep="minimal"), "cpu"))
    with safe_open(str(desk.find("out")), "pt") as file:
        assert "ss_tag_frequency" not in file.metadata()
    with pytest.raises(MergeInputError, match="metadata is 'some'"):
        submit_resize(desk, ["style"], NewRank(2), Target("x", keep="some"), "cpu")


@pytest.mark.parametrize(
    ("names", "target", "facts"),
    [
        ([], Target(), "LoRAs to resize"),
        (["styl"], Target(), "LoRA 'styl'"),
        (["style"], Target("../x"), "contains /"),
        (["style"], Target("other"), "already exists"),
        (["style"], Target(save_dtype="int8"), "save_dtype … 'int8'"),
        (["style", "style"], Target(), "style_resized … twice"),
    ],
)
def test_what_is_refused_at_once(desk: SeenDesk, names: list[str], target: Target, facts: str) -> None:
    before = files(desk)
    with pytest.raises(MergeInputError) as error:
        submit_resize(desk, names, NewRank(2), target, "cpu")
    said = desk.public(str(error.value))
    assert says(said, facts), said
    assert (files(desk), desk.queue.jobs) == (before, [])
