"""Resizing through the queue: one LoRA and many, looked at first."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from lib_pm.core.errors import MergeInputError
from lib_pm.merging.resize import NewRank, parse_dynamic, resize_to_file
from lib_pm.workspace.jobs import Target, submit_resize
from tests.loras import make_lora, write
from tests.messages import saying, says
from tests.workspaces import SHAPES, RecordingWorkspace, done, files, make_workspace


@pytest.fixture
def workspace(tmp_path: Path) -> RecordingWorkspace:
    return make_workspace(tmp_path)


def test_one(workspace: RecordingWorkspace, tmp_path: Path) -> None:
    (report,) = done(submit_resize(workspace, ["style"], NewRank(2), Target("small", "made", "float32"), "cpu"))
    resize_to_file(
        workspace.folder / "style.safetensors", tmp_path / "small.safetensors", NewRank(2), save_dtype="float32"
    )
    written, expected = (load_file(str(path)) for path in (workspace.find("small"), tmp_path / "small.safetensors"))
    assert written.keys() == expected.keys()
    assert all(tensor.equal(expected[name]) for name, tensor in written.items())
    assert report.file == "made/small"
    assert workspace.announced == ["made/small.safetensors"]


def test_many_each_into_its_own_file(workspace: RecordingWorkspace) -> None:
    job = submit_resize(workspace, ["style", "sub/char"], NewRank(2), Target(), "cpu")
    assert [report.file for report in done(job)] == ["style_resized", "char_resized"]
    assert (job.done, job.total) == (2 * len(SHAPES), 2 * len(SHAPES))
    more = submit_resize(workspace, ["style", "char"], NewRank(1), Target("_r1", "small"), "cpu")
    assert [report.file for report in done(more)] == ["small/style_r1", "small/char_r1"]


def test_two_of_one_name_do_not_take_each_others_file(workspace: RecordingWorkspace) -> None:
    write(workspace.folder / "char.safetensors", make_lora(SHAPES, 2, seed=9))
    with pytest.raises(MergeInputError, match=saying("char_resized … twice … one at a time")):
        submit_resize(workspace, ["char", "sub/char"], NewRank(1), Target(overwrite=True), "cpu")


@pytest.mark.parametrize("new", [NewRank(2), NewRank(3, None, parse_dynamic("sv_fro=0.8"))], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_looking_writes_nothing_and_tells_what_the_file_would_have(
    workspace: RecordingWorkspace, new: NewRank, dtype: str
) -> None:
    before = files(workspace)
    looked = done(submit_resize(workspace, ["style", "char"], new, Target(save_dtype=dtype), "cpu", preview=True))
    assert files(workspace) == before
    assert workspace.announced == []
    written = done(submit_resize(workspace, ["style", "char"], new, Target(save_dtype=dtype), "cpu"))
    for preview, report in zip(looked, written, strict=True):
        assert (preview.layers, preview.kept_energy) == (report.layers, report.kept_energy)
        assert preview.file == ""
        tensors = load_file(str(workspace.find(report.file)))
        assert preview.size == sum(tensor.nbytes for tensor in tensors.values())
        assert 0 < report.size - preview.size < 4096 * len(SHAPES)  # the header


def test_of_a_resized_file_less_metadata_can_be_kept(workspace: RecordingWorkspace) -> None:
    done(submit_resize(workspace, ["style"], NewRank(2), Target("out", keep="minimal"), "cpu"))
    with safe_open(str(workspace.find("out")), "pt") as file:
        assert "ss_tag_frequency" not in file.metadata()
    with pytest.raises(MergeInputError, match=saying("metadata … 'some' … all, no tags, minimal")):
        submit_resize(workspace, ["style"], NewRank(2), Target("x", keep="some"), "cpu")


@pytest.mark.parametrize(
    ("names", "target", "facts"),
    [
        ([], Target(), "no LoRAs to resize"),
        (["styl"], Target(), "LoRA 'styl' … style"),
        (["style"], Target("../x"), "'../x' … /"),
        (["style"], Target("other"), "other.safetensors … already … overwriting"),
        (["style"], Target(save_dtype="int8"), "save_dtype … 'int8' … float32, float16, bfloat16, float64"),
        (["style", "style"], Target(), "style_resized … twice"),
    ],
)
def test_what_is_refused_at_once(workspace: RecordingWorkspace, names: list[str], target: Target, facts: str) -> None:
    before = files(workspace)
    with pytest.raises(MergeInputError) as error:
        submit_resize(workspace, names, NewRank(2), target, "cpu")
    said = workspace.public(str(error.value))
    assert says(said, facts), said
    assert (files(workspace), workspace.queue.jobs) == (before, [])
