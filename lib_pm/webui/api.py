"""The REST interface: what the tab does, for programs. LoRAs are given by name; paths neither come in nor go out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from secrets import compare_digest
from typing import Any, Literal, TypeVar

from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import BaseModel, Field

from lib_pm.compare.findings import Analysis
from lib_pm.core.choices import APPLY, DTYPES, NAMES
from lib_pm.core.errors import MergeInputError
from lib_pm.core.registry import find_mode
from lib_pm.core.visible import whole
from lib_pm.files.contents import inspect_file
from lib_pm.files.metadata import KEEP
from lib_pm.merging.progress import Unit
from lib_pm.merging.recipe import DEFAULT_MODE, PRECISIONS
from lib_pm.merging.report import Report
from lib_pm.merging.resize import NewRank
from lib_pm.render.modes import modes_json
from lib_pm.webui.guard import Answer, GuardedRoute
from lib_pm.webui.origin import Origins, check_sender
from lib_pm.workspace.draft import Draft
from lib_pm.workspace.job_queue import Job, QueueFull
from lib_pm.workspace.jobs import Target, submit_analyse, submit_merge, submit_resize
from lib_pm.workspace.workspace import Workspace

T = TypeVar("T")
PREFIX = "/power-merger/v1"
NO_OTHERS = Origins()
_TEXT = "A `<lora:NAME:CLIP:MODEL:lbw=…>` for each LoRA, as in a prompt; a `<pm:…>` tag among them overrides `mode`."
_NAME = "File name without its ending; if empty, made from the LoRAs' names."
_FOLDER = "Folder inside the LoRA folder."


class LoraAnswer(BaseModel):
    name: str = Field(description="The name to write in a tag.")
    folder: str
    title: str


class DraftRequest(BaseModel):
    text: str = Field(description=_TEXT)
    mode: str = DEFAULT_MODE
    options: dict[str, Any] = Field(default={}, description="Options of the mode; see `modes`.")
    apply: str = Field(default=APPLY[0], description=", ".join(APPLY))
    dtype: str = Field(default="float32", description=f"Dtype of the computation: {', '.join(DTYPES)}")
    precision: str = Field(default="normal", description=", ".join(PRECISIONS))
    device: str = "auto"

    def draft(self) -> Draft:
        mode = find_mode(self.mode)
        return Draft(self.text, mode.choice(self.options), self.apply, self.dtype, self.precision)


class MergeRequest(DraftRequest):
    name: str = Field(default="", description=_NAME)
    folder: str = Field(default="", description=_FOLDER)
    save_dtype: str = "float16"
    metadata: str = Field(default="all", description=", ".join(KEEP))
    overwrite: bool = False
    force: bool = Field(default=False, description="Merge LoRAs of different base models anyway.")
    names: str = Field(default="", description=f"Whose names the layers get: {', '.join(NAMES)}; empty: their own.")

    def target(self) -> Target:
        return Target(self.name, self.folder, self.save_dtype, self.metadata, self.overwrite, self.force, self.names)


class ResizeRequest(BaseModel):
    loras: list[str]
    rank: int = Field(default=0, description="0 leaves it to the rule.")
    conv_rank: int = Field(default=0, description="For convolutions larger than 1×1; 0: same as the rank.")
    rule: str = Field(
        default="", description="`sv_ratio=20`, `sv_fro=0.95`, `sv_cumulative=0.9`; if empty, the rank is fixed."
    )
    preview: bool = Field(default=False, description="Write nothing; only report what would be kept.")
    name: str = Field(default="", description=f"{_NAME} With several LoRAs, it is appended to their own names.")
    folder: str = Field(default="", description=_FOLDER)
    save_dtype: str = "float16"
    metadata: str = Field(default="all", description=", ".join(KEEP))
    overwrite: bool = False
    device: str = "auto"

    def new_rank(self) -> NewRank:
        return NewRank.of_form(self.rank, self.conv_rank, self.rule)


class JobAnswer(BaseModel):
    id: str
    what: str
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    done: int
    total: int
    unit: Unit = Field(description="Unit of `done` and `total`; files are read first.")
    seconds_left: float | None = None
    error: str = ""
    result: list[dict[str, Any]] | None = Field(
        default=None, description="Once done: a report for each file, or the analysis."
    )


class RecipeAnswer(BaseModel):
    text: str
    pm: str
    apply: str
    dtype: str
    precision: str


def add_routes(app: FastAPI, workspace: Workspace, logins: str | None, origins: Origins = NO_OTHERS) -> None:
    """Add the interface to the WebUI's own. logins: its `--api-auth`, `name:password,…`. origins: pages allowed."""
    locked = [Depends(_check_login(logins))] if logins else []
    router = APIRouter(
        prefix=PREFIX,
        tags=["Power Merger"],
        dependencies=[*locked, Depends(check_sender(origins))],
        default_response_class=Answer,
        route_class=GuardedRoute,
    )

    @router.get("/loras", response_model=list[LoraAnswer])
    def loras() -> list[dict[str, Any]]:
        return _checked(workspace, lambda: [asdict(lora) for lora in workspace.loras()])

    @router.get("/loras/{name:path}")
    def lora(name: str) -> dict[str, Any]:
        """Show what is in a LoRA file."""
        return _checked(workspace, lambda: inspect_file(workspace.find(name)).to_json())

    @router.get("/modes")
    def modes() -> Any:
        """List all modes with their options."""
        return modes_json()

    @router.get("/recipe")
    def recipes() -> list[str]:
        """List the names of the saved recipes."""
        return workspace.recipes.names()

    @router.get("/recipe/{name}", response_model=RecipeAnswer)
    def recipe(name: str) -> dict[str, Any]:
        return _checked(workspace, lambda: workspace.recipes.load(name).to_json())

    @router.post("/merge", response_model=JobAnswer)
    def merge(request: MergeRequest) -> JobAnswer:
        """Merge into a file; returns a job to poll."""
        return _checked(
            workspace,
            lambda: _answer(workspace, submit_merge(workspace, request.draft(), request.target(), request.device)),
        )

    @router.post("/analyse", response_model=JobAnswer)
    def analyse(request: DraftRequest) -> JobAnswer:
        """Compare LoRAs: similarity, sign conflicts, norms, spectra; returns a job to poll."""
        return _checked(
            workspace, lambda: _answer(workspace, submit_analyse(workspace, request.draft(), request.device))
        )

    @router.post("/resize", response_model=JobAnswer)
    def resize(request: ResizeRequest) -> JobAnswer:
        """Resize LoRAs; returns a job to poll."""
        target = Target(request.name, request.folder, request.save_dtype, request.metadata, request.overwrite)

        def submit() -> Job:
            return submit_resize(
                workspace, request.loras, request.new_rank(), target, request.device, preview=request.preview
            )

        return _checked(workspace, lambda: _answer(workspace, submit()))

    @router.get("/jobs", response_model=list[JobAnswer])
    def jobs() -> list[JobAnswer]:
        return [_answer(workspace, job) for job in workspace.queue.jobs]

    @router.get("/jobs/{id}", response_model=JobAnswer)
    def job(id: str) -> JobAnswer:
        return _checked(workspace, lambda: _answer(workspace, workspace.queue.find(id)), status=404)

    @router.delete("/jobs/{id}", response_model=JobAnswer)
    def cancel(id: str) -> JobAnswer:
        """Cancel a job; it stops within a file or layer."""

        def stop() -> JobAnswer:
            found = workspace.queue.find(id)
            found.cancel()
            return _answer(workspace, found)

        return _checked(workspace, stop, status=404)

    app.include_router(router)


def _answer(workspace: Workspace, job: Job) -> JobAnswer:
    return JobAnswer(
        id=job.id,
        what=job.what,
        state=job.state,
        done=job.done,
        total=job.total,
        unit=job.unit,
        seconds_left=job.seconds_left,
        error=workspace.public(job.error),
        result=_result(job.result) if job.state == "done" else None,
    )


def _result(result: list[Report] | Analysis) -> list[dict[str, Any]]:
    return [part.to_json() for part in ([result] if isinstance(result, Analysis) else result)]


def _checked(workspace: Workspace, work: Callable[[], T], status: int = 400) -> T:
    """Return what `work` returns. A MergeInputError becomes an answer with its message."""
    try:
        return work()
    except MergeInputError as error:
        status = 429 if isinstance(error, QueueFull) else status
        raise HTTPException(status, whole(workspace.public(str(error)))) from error


def _check_login(logins: str) -> Any:
    known = dict(login.split(":", 1) for login in logins.split(","))

    def check(given: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:  # noqa: B008 (how fastapi declares it)
        password = known.get(given.username, "")
        if not password or not compare_digest(given.password.encode(), password.encode()):
            raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})

    return check
