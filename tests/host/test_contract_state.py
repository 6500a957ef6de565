"""What lies between the images of a live merge: other recipes, files, checkpoints, neighbours, exceptions.

See test_contract.py.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.host.chosen import KINDS, by_double_only
from tests.host.double import Double, running
from tests.host.lora_files import PREFIX, put, tensors
from tests.host.merging import PLAIN, TIES, A, B, make_ab, saved
from tests.host.plotting import make_plot
from tests.host.server import HIRES, Kind, Server, ServerError, difference, same

pytest_plugins = ("tests.host.fixtures",)

STACK = f"<lora:{A}:0.8><lora:{B}:0.6>"
MERGED = f"{PLAIN}{STACK}{TIES}"
KEY = "Power Merger: "


@pytest.fixture(autouse=True)
def loras(request: pytest.FixtureRequest) -> None:
    if "server" in request.fixturenames:
        make_ab(request.getfixturevalue("server"))


def test_recipes_in_a_row_never_mix(server: Server) -> None:
    """Each image is the one that it is alone, whatever was before it, with the same text of the prompt throughout."""
    other = f"<lora:{A}:0.6><lora:{B}:0.8>"
    prompts = [
        PLAIN,
        MERGED,
        f"{PLAIN}{other}{TIES}",
        PLAIN + STACK,
        f"{PLAIN}{STACK}<pm:dare_ties_svd:seed=1>",
        f"{PLAIN}{STACK}<pm:dare_ties_svd:seed=2>",
    ]
    first = {prompt: server.txt2img(prompt).image for prompt in prompts}
    assert len({image.tobytes() for image in first.values()}) == len(prompts)
    for prompt in (*prompts[::-1], *prompts[::2], *prompts[1::2]):
        assert same(server.txt2img(prompt).image, first[prompt]), prompt


def test_prompts_are_encoded_anew_for_a_merge_and_after_it(server: Server) -> None:
    """The host keeps what the text encoder said, by prompt and tags; two LoRAs of the text encoder alone."""
    for name, seed in (("one", 3), ("two", 4)):
        put(server, f"{PREFIX}{name}", tensors(server, seed, part="lora_te_"))
    stack = f"<lora:{PREFIX}one:0.8><lora:{PREFIX}two:0.6>"
    fresh = server.txt2img(f"something else{stack}{TIES}").image  # asked before its text was ever encoded
    plain = server.txt2img("something else").image
    assert not same(fresh, plain)
    assert same(server.txt2img(f"something else{stack}{TIES}").image, fresh)
    assert same(server.txt2img("something else").image, plain)
    other = server.txt2img(f"something else{stack}<pm:concat>").image
    assert not same(other, fresh)
    assert difference(other, server.txt2img(f"something else{stack}").image) <= 1


def test_a_file_changed_on_disk_is_merged_anew(server: Server) -> None:
    before = server.txt2img(MERGED).image
    path = put(server, A, tensors(server, 7))
    later = time.time() + 5
    os.utime(path, (later, later))
    after = server.txt2img(MERGED).image
    assert not same(after, before)
    assert same(after, server.txt2img(PLAIN + saved(server, STACK + TIES)).image)


def test_a_new_file_needs_no_refresh(server: Server) -> None:
    server.txt2img(MERGED)
    put(server, f"{PREFIX}new", tensors(server, 8))
    tags = f"<lora:{PREFIX}new:0.8><lora:{B}:0.6>{TIES}"
    assert same(server.txt2img(PLAIN + tags).image, server.txt2img(PLAIN + saved(server, tags)).image)


def test_another_checkpoint_in_between(server: Server) -> None:
    if len(server.checkpoints) < 2:
        pytest.skip("the WebUI has one checkpoint only")
    first, second = server.checkpoints[:2]
    server.set_checkpoint(first)
    images = [server.txt2img(prompt).image for prompt in (PLAIN, MERGED)]
    server.set_checkpoint(second)
    others = [server.txt2img(prompt).image for prompt in (MERGED, PLAIN)]
    assert same(others[0], server.txt2img(PLAIN + saved(server, STACK + TIES)).image)
    server.set_checkpoint(first)
    assert same(server.txt2img(MERGED).image, images[1])
    assert same(server.txt2img(PLAIN).image, images[0])
    assert len({image.tobytes() for image in (*images, *others)}) == 4


def test_another_checkpoint_for_one_image(server: Server) -> None:
    if len(server.checkpoints) < 2:
        pytest.skip("the WebUI has one checkpoint only")
    first, second = server.checkpoints[:2]
    server.set_checkpoint(first)
    plain, merged = (server.txt2img(prompt).image for prompt in (PLAIN, MERGED))
    assert not same(server.txt2img(MERGED, override_settings={"sd_model_checkpoint": second}).image, merged)
    assert same(server.txt2img(PLAIN).image, plain)
    assert same(server.txt2img(MERGED).image, merged)


@by_double_only
def test_reload_ui_twice(server: Server) -> None:
    plain, merged = (server.txt2img(prompt) for prompt in (PLAIN, MERGED))
    for _ in range(2):
        server.reload_ui()
        for prompt, before in ((MERGED, merged), (PLAIN, plain), (MERGED, merged)):
            after = server.txt2img(prompt)
            assert same(after.image, before.image)
            assert after.infotexts == before.infotexts


@by_double_only
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_image_of_all_may_be_merged(kind: Kind, tmp_path: Path) -> None:
    """Forge has no model until then."""
    with running(kind, tmp_path) as double:
        make_ab(double)
        first = double.txt2img(MERGED).image
        assert same(first, double.txt2img(PLAIN + saved(double, STACK + TIES)).image)
        assert not same(first, double.txt2img(PLAIN).image)


def test_cells_of_an_xyz_plot(server: Server) -> None:
    """Each is the image that it is alone, with its own infotext: they share what `p` held before."""
    densities = ["density=0.5", "density=0.9"]
    tag = "<pm:ties_svd:density=0.5:rank=4>"
    prompt = PLAIN + STACK + tag
    alone = [server.txt2img(prompt.replace("density=0.5", value), seed=3) for value in densities]
    stacked = server.txt2img(PLAIN + STACK, seed=3)
    plot = make_plot(server, prompt, ("Prompt S/R", ", ".join(densities)), seed=3)
    assert len(plot.cells) == 2
    for cell, text, single in zip(plot.cells, plot.infotexts, alone, strict=True):
        assert same(cell, single.image)
        assert text == single.infotexts[0]
    plot = make_plot(server, prompt, ("Prompt S/R", f"{tag}, "), seed=3)
    assert same(plot.cells[1], stacked.image)
    assert plot.infotexts[1] == stacked.infotexts[0]  # the merge of the cell before is not written here


@by_double_only
def test_a_bad_cell_leaves_the_others_right(server: Server) -> None:
    assert isinstance(server, Double)
    prompt = f"{PLAIN}{STACK}<pm:ties_svd:density=0.5:rank=4>"
    good = server.txt2img(prompt, seed=3)
    plot = make_plot(server, prompt, ("Prompt S/R", "density=0.5, density=7, density=0.5"), seed=3)
    assert plot.infotexts == [good.infotexts[0], None, good.infotexts[0]]
    assert not plot.cells[1].any()
    assert same(plot.cells[0], good.image)
    assert same(plot.cells[2], good.image)
    server.module("errors").exception_records.clear()


@by_double_only
def test_without_scripts_a_tag_has_no_effect(server: Server) -> None:
    """As other extensions make images of their own, with `p.scripts` None."""
    assert isinstance(server, Double)
    processing = server.module("processing")

    def image(prompt: str) -> bytes:
        p = processing.StableDiffusionProcessingTxt2Img(
            prompt=prompt, width=64, height=64, steps=2, seed=5, cfg_scale=5
        )
        result = processing.process_images(p)
        assert KEY not in result.infotexts[0]
        return bytes(result.images[0].tobytes())

    merged = server.txt2img(MERGED).image
    assert image(MERGED) == image(PLAIN + STACK) == server.txt2img(PLAIN + STACK).image.tobytes()
    assert same(server.txt2img(MERGED).image, merged)
    assert image(PLAIN) == server.txt2img(PLAIN).image.tobytes()


@by_double_only
@pytest.mark.parametrize(("button", "rank"), [("interrupt", 3), ("skip", 2)])
def test_interrupt_and_skip_during_the_merge(
    server: Server, monkeypatch: pytest.MonkeyPatch, button: str, rank: int
) -> None:
    """No error, and no merge that was not finished: not then, and not afterwards."""
    assert isinstance(server, Double)
    plain, merged = (server.txt2img(prompt) for prompt in (PLAIN, MERGED))
    state = server.module("shared").state
    pressed: list[str] = []

    class Watched(type(state)):  # type: ignore[misc]
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "textinfo" and value and not pressed:
                pressed.append(value)
                getattr(self, button)()

    monkeypatch.setattr(state, "__class__", Watched)
    tags = f"{STACK}<pm:add_svd:rank={rank}>"  # not merged before
    stopped = server.txt2img(PLAIN + tags)
    assert pressed, "the page was never told how far the merge is"
    assert all(KEY not in text for text in stopped.infotexts)
    monkeypatch.undo()
    assert same(server.txt2img(PLAIN).image, plain.image)
    assert same(server.txt2img(MERGED).image, merged.image)
    again = server.txt2img(PLAIN + tags)
    assert same(again.image, server.txt2img(PLAIN + saved(server, tags)).image)
    assert KEY in again.infotexts[0]


@by_double_only
@pytest.mark.parametrize("step", ["setup_conds", "sample"])
@pytest.mark.parametrize("payload", [{}, HIRES], ids=["txt2img", "hires"])
def test_an_exception_of_somebody_elses_in_the_middle(
    server: Server, monkeypatch: pytest.MonkeyPatch, step: str, payload: dict[str, Any]
) -> None:
    assert isinstance(server, Double)
    prompts = PLAIN + STACK, PLAIN, MERGED
    before = {prompt: server.txt2img(prompt, **payload).images[0] for prompt in prompts}

    def fails(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("out of memory")

    for prompt, image in before.items():
        with monkeypatch.context() as context:
            context.setattr(server.module("processing").StableDiffusionProcessingTxt2Img, step, fails)
            with pytest.raises(ServerError, match="out of memory"):
                server.txt2img(MERGED, **payload)
        assert same(server.txt2img(prompt, **payload).images[0], image), prompt
