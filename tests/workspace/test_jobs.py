"""What the tab and the REST interface ask for: merged and resized in the queue, refused at once, told without paths."""

from __future__ import annotations

import json
import threading
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timezone, tzinfo
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from lib_pm.core.errors import MergeInputError
from lib_pm.core.registry import MODES
from lib_pm.files import metadata
from lib_pm.merging.merge import merge_to_file
from lib_pm.merging.progress import Cancelled
from lib_pm.merging.report import Report
from lib_pm.merging.resize import NewRank
from lib_pm.workspace.draft import Draft
from lib_pm.workspace.job_queue import Job
from lib_pm.workspace.jobs import Target, read_draft, submit_merge, submit_resize
from lib_pm.workspace.workspace import Workspace
from tests.chosen import chosen
from tests.messages import saying, says
from tests.workspaces import SHAPES, RecordingWorkspace, done, failed, files, make_workspace

DTYPES = "float32, float16, bfloat16, float64"
DRAFT = Draft("<lora:style:0.8>\n<lora:char:0.6:0.5>", chosen("ties_svd:density=0.5:rank=3"))


@pytest.fixture
def workspace(tmp_path: Path) -> RecordingWorkspace:
    return make_workspace(tmp_path)


def merged(workspace: Workspace, draft: Draft = DRAFT, target: Target = Target(), device: str = "cpu") -> Report:  # noqa: B008
    (report,) = done(submit_merge(workspace, draft, target, device))
    return report


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(str(path), "pt") as file:
        return dict(file.metadata())


class TestMerge:
    def test_the_file_is_the_command_lines_to_the_byte(
        self, workspace: RecordingWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Clock(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return datetime(2026, 1, 2, tzinfo=timezone.utc)

        monkeypatch.setattr(metadata, "datetime", Clock)
        report = merged(workspace, DRAFT, Target("both", "made/here", "float32"))
        expected = merge_to_file(
            replace(read_draft(workspace, DRAFT), save_dtype="float32"), tmp_path / "both.safetensors", device="cpu"
        )
        written = workspace.folder / "made" / "here" / "both.safetensors"
        assert written.read_bytes() == (tmp_path / "both.safetensors").read_bytes()
        assert (report.file, report.size) == ("made/here/both", written.stat().st_size)
        assert (report.loras, report.layers, report.kept_energy) == (
            expected.loras,
            expected.layers,
            expected.kept_energy,
        )
        assert workspace.announced == ["made/here/both.safetensors"]
        assert workspace.turns == ["cpu"]
        assert workspace.find("both") == written

    def test_a_name_is_made_up_and_no_file_taken(self, workspace: RecordingWorkspace) -> None:
        names = [merged(workspace).file for _ in range(3)]
        assert names == ["style_char_ties_svd", "style_char_ties_svd_2", "style_char_ties_svd_3"]
        assert merged(workspace, DRAFT, Target(overwrite=True)).file == "style_char_ties_svd"

    def test_two_in_the_queue_without_a_name_take_one_each(self, workspace: RecordingWorkspace) -> None:
        jobs = [submit_merge(workspace, DRAFT, Target(), "cpu") for _ in range(2)]
        assert [done(job)[0].file for job in jobs] == ["style_char_ties_svd", "style_char_ties_svd_2"]

    def test_a_name_that_is_taken_is_only_overwritten_when_told(self, workspace: RecordingWorkspace) -> None:
        before = (workspace.folder / "style.safetensors").read_bytes()
        with pytest.raises(MergeInputError, match=saying("already … another name … overwriting")) as error:
            submit_merge(workspace, DRAFT, Target("style"), "cpu")
        assert says(workspace.public(str(error.value)), "style.safetensors … already")
        assert (workspace.folder / "style.safetensors").read_bytes() == before
        assert merged(workspace, DRAFT, Target("style.safetensors", overwrite=True)).file == "style"
        assert (workspace.folder / "style.safetensors").read_bytes() != before

    @pytest.mark.parametrize(
        ("keep", "missing"),
        [
            ("all", set()),
            ("no tags", {"ss_tag_frequency"}),
            ("minimal", {"ss_tag_frequency", "modelspec.merged_from", metadata.RECIPE_KEY}),
        ],
    )
    def test_how_much_metadata(self, workspace: RecordingWorkspace, keep: str, missing: set[str]) -> None:
        merged(workspace, DRAFT, Target("whole"))
        merged(workspace, DRAFT, Target("out", keep=keep))
        whole, written = (metadata_of(workspace.folder / f"{name}.safetensors") for name in ("whole", "out"))
        assert set(whole) - set(written) == missing
        assert {"ss_base_model_version", "sshs_model_hash", "ss_network_dim", "modelspec.title"} <= set(written)

    def test_other_base_models_are_merged_when_forced(self, workspace: RecordingWorkspace) -> None:
        draft = Draft("<lora:style:1>\n<lora:other:1>")
        job = submit_merge(workspace, draft, Target("out"), "cpu")
        assert says(failed(job), "different models … style.safetensors … other.safetensors")
        assert "out.safetensors" not in files(workspace)
        assert workspace.announced == []
        assert merged(workspace, draft, Target("out", force=True)).file == "out"

    def test_an_option_that_does_nothing_is_noted(self, workspace: RecordingWorkspace) -> None:
        (note,) = merged(workspace, Draft("<lora:style:1>", chosen("add:rank=4"))).notes
        assert says(note, "rank … nothing … add")

    def test_lines_that_are_off_are_not_merged(self, workspace: RecordingWorkspace) -> None:
        report = merged(workspace, Draft("<lora:style:1>\n# <lora:no_such_lora:1>", chosen("add")))
        assert [lora.name for lora in report.loras] == ["style"]

    def test_cancelling_leaves_nothing_behind(
        self, workspace: RecordingWorkspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, running, go_on = files(workspace), threading.Event(), threading.Event()
        told = Job._progress

        def wait(job: Job, *at: Any) -> None:
            running.set()
            assert go_on.wait(30)
            told(job, *at)

        monkeypatch.setattr(Job, "_progress", wait)
        job = submit_merge(workspace, DRAFT, Target("out"), "cpu")
        assert running.wait(30)
        job.cancel()
        go_on.set()
        assert job.wait(30)
        assert job.state == "cancelled"
        assert files(workspace) == before
        assert workspace.announced == []

    def test_the_layers_are_counted(self, workspace: RecordingWorkspace) -> None:
        job = submit_merge(workspace, DRAFT, Target(), "cpu")
        done(job)
        assert (job.done, job.total) == (len(SHAPES), len(SHAPES))

    def test_a_file_that_is_gone_when_its_turn_comes(self, workspace: RecordingWorkspace) -> None:
        go_on = threading.Event()
        workspace.queue.submit("something long", lambda progress: go_on.wait(30), nullcontext())
        job = submit_merge(workspace, DRAFT, Target("out"), "cpu")
        (workspace.folder / "sub" / "char.safetensors").unlink()
        go_on.set()
        assert "char.safetensors" in failed(job)
        assert str(workspace.folder) not in workspace.public(job.error)


class TestRefusals:
    """At once, not in the queue, and without a file or folder made."""

    @pytest.mark.parametrize(
        ("draft", "target", "device", "facts"),
        [
            (
                Draft("<lora:styl:1>"),
                Target(),
                "cpu",
                "LoRA 'styl' … folder … style",
            ),
            (Draft(""), Target(), "cpu", "LoRAs to merge"),
            (Draft("<lora:style:1:lbw=NOPE>"), Target(), "cpu", "style … block weight preset 'NOPE' … NONE, ALL, INS"),
            (Draft("<lora:style:1><pm:tie>"), Target(), "cpu", f"mode 'tie' … {', '.join(MODES)} … ties?"),
            (Draft("<lora:style:1>", apply="unet"), Target(), "cpu", "apply … 'unet' … model + clip, model, clip"),
            (Draft("<lora:style:1>", dtype="int8"), Target(), "cpu", f"dtype … 'int8' … {DTYPES}"),
            (DRAFT, Target("../out"), "cpu", "'../out' … /"),
            (DRAFT, Target("/tmp/out"), "cpu", "'/tmp/out' … /"),
            (DRAFT, Target("out", ".."), "cpu", "folder '..' … dot"),
            (DRAFT, Target("out", "new/../.."), "cpu", "folder '..' … dot"),
            (DRAFT, Target("out", "/tmp"), "cpu", "absolute … LoRA folder"),
            (DRAFT, Target("out", "style.safetensors"), "cpu", "'style.safetensors' … created … a file"),
            (DRAFT, Target("out", save_dtype="int8"), "cpu", f"save_dtype … 'int8' … {DTYPES}"),
            (DRAFT, Target("out", "new", keep="some"), "cpu", "metadata … 'some' … all, no tags, minimal"),
            (DRAFT, Target("out", "new"), "tpu", "device … 'tpu' … auto, cpu, cuda, mps"),
        ],
    )
    def test_a_merge(
        self, workspace: RecordingWorkspace, draft: Draft, target: Target, device: str, facts: str
    ) -> None:
        before, folders = files(workspace), workspace.folders()
        with pytest.raises(MergeInputError) as error:
            submit_merge(workspace, draft, target, device)
        said = workspace.public(str(error.value))
        assert says(said, facts), said
        assert str(workspace.folder.parent) not in said.replace("/tmp/out", "")
        assert (files(workspace), workspace.folders(), workspace.queue.jobs) == (before, folders, [])

    def test_a_folder_that_may_not_be_written_to(
        self, workspace: RecordingWorkspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """(Permissions would not stop a test that runs as root.)"""

        def refuse(folder: Path) -> None:
            raise OSError(30, "Read-only file system", str(folder))

        monkeypatch.setattr("lib_pm.files.leftovers.new_temporary", refuse)
        job = submit_merge(workspace, DRAFT, Target("out"), "cpu")
        said = workspace.public(failed(job))
        assert said.startswith("out.safetensors ")
        assert says(said, "folder … read-only … Nothing … left")

    def test_a_folder_that_may_not_be_made(
        self, workspace: RecordingWorkspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(path: Path, *args: object, **kwargs: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "mkdir", refuse)
        said = workspace.public(failed(submit_merge(workspace, DRAFT, Target("out", "new/sub"), "cpu")))
        assert str(workspace.folder) not in said
        assert says(said, "folder 'new/sub' … created … not permitted")


class TestNewFolder:
    """It is made when the job writes, not when it is asked for, and not for nothing."""

    @staticmethod
    def behind(workspace: RecordingWorkspace, target: Target) -> tuple[Job, threading.Event]:
        """A merge that waits until the event."""
        go_on = threading.Event()
        workspace.queue.submit("something long", lambda progress: go_on.wait(30), nullcontext())
        return submit_merge(workspace, DRAFT, target, "cpu"), go_on

    def test_it_is_made_for_the_file(self, workspace: RecordingWorkspace) -> None:
        before = workspace.folders()
        job, go_on = self.behind(workspace, Target("out", "sub/new/deep"))
        assert workspace.folders() == before
        go_on.set()
        done(job)
        assert sorted({*workspace.folders()} - {*before}) == ["sub/new", "sub/new/deep"]

    def test_a_job_that_was_cancelled_before_makes_none(self, workspace: RecordingWorkspace) -> None:
        before = workspace.folders()
        job, go_on = self.behind(workspace, Target("out", "new"))
        job.cancel()
        go_on.set()
        done(submit_merge(workspace, DRAFT, Target("behind"), "cpu"))
        assert workspace.folders() == before

    @pytest.mark.parametrize("how", ["cancelled", "failed"])
    def test_a_job_that_does_not_get_to_the_end_leaves_none(
        self, workspace: RecordingWorkspace, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        before = workspace.folders()

        def stop(job: Job, *args: object) -> None:
            raise Cancelled if how == "cancelled" else MergeInputError("no")

        monkeypatch.setattr(Job, "_progress", stop)
        for ask in (
            lambda: submit_merge(workspace, DRAFT, Target("out", "sub/new/deep"), "cpu"),
            lambda: submit_resize(workspace, ["style"], NewRank(2), Target("out", "sub/new/deep"), "cpu"),
        ):
            job = ask()
            assert job.wait(30)
            assert job.state == how
            assert workspace.folders() == before

    def test_one_that_has_something_else_in_it_stays(
        self, workspace: RecordingWorkspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(job: Job, *args: object) -> None:
            (workspace.folder / "sub" / "new" / "theirs.txt").touch()
            raise Cancelled

        monkeypatch.setattr(Job, "_progress", stop)
        job = submit_merge(workspace, DRAFT, Target("out", "sub/new/deep"), "cpu")
        assert job.wait(30)
        assert [folder for folder in workspace.folders() if "new" in folder] == ["sub/new"]

    def test_what_is_in_its_way_is_said_at_once(self, workspace: RecordingWorkspace) -> None:
        with pytest.raises(MergeInputError, match=saying("'style.safetensors/a' … style.safetensors … a file")):
            submit_merge(workspace, DRAFT, Target("out", "style.safetensors/a"), "cpu")


def test_no_report_holds_a_path(workspace: RecordingWorkspace) -> None:
    reports = [
        merged(workspace, DRAFT, Target("a", "made")),
        *done(submit_resize(workspace, ["style"], NewRank(2), Target("b"), "cpu")),
        *done(submit_resize(workspace, ["style"], NewRank(2), Target(), "cpu", preview=True)),
    ]
    for report in reports:
        assert str(workspace.folder.parent) not in json.dumps(report.to_json())
    assert str(workspace.folder.parent) not in " ".join(job.what for job in workspace.queue.jobs)
