"""The axes in the X/Y/Z plot: each cell is the image that its own prompt makes alone, and says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.host.chosen import by_double_only
from tests.host.double import Double
from tests.host.merging import PLAIN, TIES, A, B, drawn_first, make_ab
from tests.host.plotting import PM, Plot, Values, make_plot, pm
from tests.host.server import HIRES, Server, ServerError, difference, same
from tests.messages import saying, says

pytest_plugins = ("tests.host.fixtures",)

STACK = f"<lora:{A}:0.8><lora:{B}:0.6>"
PROMPT = PLAIN + STACK + TIES


@pytest.fixture(autouse=True)
def loras(request: pytest.FixtureRequest) -> None:
    if "server" in request.fixturenames:
        make_ab(request.getfixturevalue("server"))


def check(server: Server, plot: Plot, singles: list[str | tuple[str, Mapping[str, Any]]], **payload: Any) -> None:
    """singles: each cell's prompt, or it and what else is asked for, as someone would write it without a plot."""
    assert len(plot.cells) == len(singles)
    for cell, infotext, single in zip(plot.cells, plot.infotexts, singles, strict=True):
        prompt, more = (single, {}) if isinstance(single, str) else single
        alone = server.txt2img(prompt, **(payload | dict(more)))
        assert infotext == alone.infotexts[0]
        assert same(cell, alone.image), prompt


def test_strengths(server: Server) -> None:
    """The first of ComfyUI's XY nodes: one LoRA's strengths against the other's."""
    plot = make_plot(server, PROMPT, pm("LoRA 1 strength", "0-1 [3]"), pm("LoRA 2 strength", "0.25, -1"))
    written = [f"<lora:{A}:{a}><lora:{B}:{b}>" for b in ("0.25", "-1") for a in ("0", "0.5", "1")]
    assert len({cell.tobytes() for cell in plot.cells}) == 6
    check(server, plot, [PLAIN + tags + TIES for tags in written])
    for text, tags in zip(plot.infotexts, written, strict=True):
        assert text is not None
        assert text.startswith(PLAIN + tags + TIES)
    assert plot.infotext.startswith(PLAIN + written[0] + TIES)
    assert f"X Type: {PM}LoRA 1 strength, X Values: 0-1 [3]" in plot.infotext


@pytest.mark.parametrize(("part", "strengths"), [("model", "0:0.5"), ("clip", "0.5:0")])
def test_strengths_of_a_part_of_the_model(server: Server, part: str, strengths: str) -> None:
    plot = make_plot(server, PROMPT, pm("LoRA 1 strength", "0.5"), pm("LoRA 2 strength", "0.5"), pm("Apply to", part))
    check(server, plot, [f"{PLAIN}<lora:{A}:{strengths}><lora:{B}:{strengths}>{TIES}"])


def test_modes_against_densities(server: Server) -> None:
    """The second: a mode without a density is the same at all of them. There need be no tag in the prompt."""
    plot = make_plot(server, PLAIN + STACK, pm("Mode", "add, ties, dare_linear"), pm("Density", "0.25-0.75 [2]"))
    modes = [
        f"<pm:{mode}>" for d in ("0.25", "0.75") for mode in ("add", f"ties:density={d}", f"dare_linear:density={d}")
    ]
    check(server, plot, [PLAIN + STACK + mode for mode in modes])
    assert same(plot.cells[0], plot.cells[3])
    assert len({cell.tobytes() for cell in plot.cells}) == 5


def test_ranks(server: Server) -> None:
    """The third; `full` is a rank too."""
    plot = make_plot(
        server, PLAIN + STACK, pm("SVD rank", "1-5 [2], full"), pm("Mode", "ties_svd"), pm("Density", "0.5")
    )
    tags = [f"<pm:ties_svd:density=0.5:svd_rank={rank}>" for rank in ("1", "5", "full")]
    check(server, plot, [PLAIN + STACK + tag for tag in tags])
    assert len({cell.tobytes() for cell in plot.cells}) == 3


def test_against_seed(server: Server) -> None:
    plot = make_plot(server, PROMPT, ("Seed", "5, 6"), pm("Balance", "0.25, 1"))
    tags = [f"<lora:{A}:{a}><lora:{B}:{b}>" for a, b in (("0.75", "0.25"), ("0", "1"))]
    check(server, plot, [(PLAIN + tag + TIES, {"seed": seed}) for tag in tags for seed in (5, 6)])


def test_against_prompt_search_and_replace(server: Server) -> None:
    """Which may replace a LoRA: the axes see the prompt that it leaves."""
    plot = make_plot(server, PROMPT, ("Prompt S/R", f"{A}, {B}"), pm("LoRA 1 strength model", "0.1, 0.2"))
    tags = [f"<lora:{x}:0.8:{m}><lora:{B}:0.6>" for m in ("0.1", "0.2") for x in (A, B)]
    check(server, plot, [PLAIN + tag + TIES for tag in tags])


def test_the_order_of_the_axes_does_not_matter(server: Server) -> None:
    axes = pm("All strengths", "0.5"), pm("LoRA 1 strength", "0.4"), pm("Mode", "ties")
    plots = [make_plot(server, PROMPT, *order) for order in (axes, axes[::-1], (axes[1], axes[2], axes[0]))]
    for plot in plots:
        check(server, plot, [f"{PLAIN}<lora:{A}:0.2><lora:{B}:0.3><pm:ties:density=0.5>"])


def test_a_panel_that_is_on_becomes_the_cells_tag(server: Server) -> None:
    panel = {"alwayson_scripts": {"Power Merger": {"args": [True, "ties_svd:density=0.5:rank=4"]}}}
    plot = make_plot(server, PLAIN + STACK, pm("Density", "0.5, 0.9"), pm("LoRA 2 name", A), **panel)
    both = f"<lora:{A}:0.8><lora:{A}:0.6>"
    check(server, plot, [f"{PLAIN}{both}<pm:ties_svd:density={d}:svd_rank=4:lambda=1>" for d in ("0.5", "0.9")])


def test_without_a_merge_the_strengths_are_the_hosts_own_stack(server: Server) -> None:
    plot = make_plot(server, PLAIN + STACK, pm("LoRA 1 strength", "0, 0.5"), pm("LoRA 2 lbw", "MIDD"))
    check(server, plot, [f"{PLAIN}<lora:{A}:{a}><lora:{B}:0.6:lbw=MIDD>" for a in ("0", "0.5")])


def test_an_option_without_a_merge_is_told(server: Server) -> None:
    stopped(server, PLAIN + STACK, pm("Density", "0.5, 0.9"), "density", "axis Mode")


def stopped(server: Server, prompt: str, x: Values, *texts: str) -> None:
    """The plot, with a message that has these texts; and what comes next is as if nothing had been."""
    merged = drawn_first(server, PROMPT).image
    with pytest.raises(ServerError) as error:
        make_plot(server, prompt, x)
    for text in texts:
        assert text in str(error.value)
    if isinstance(server, Double):
        assert type(error.value.__cause__).__name__ == "Power Merger"  # what the page shows before the message
        assert vars(error.value.__cause__)["status_code"] == 400
        server.module("errors").exception_records.clear()  # the plot's, of the cell
    assert same(server.txt2img(PROMPT).image, merged)


@pytest.mark.parametrize(
    "x", [pm("Density", "0.5, 0.9"), pm("Mode", "ties"), ("Steps", "1, 2"), ("Prompt S/R", "cat, dog")]
)
@pytest.mark.parametrize(
    ("tags", "texts"),
    [
        (f"{STACK}<pm:tiess>", ("tiess",)),
        (f"<lora:{A}:x>{TIES}", (A, "'x'")),
        (f"<lora:{A}x:1>{TIES}", (f"{A}x", A)),
    ],
    ids=["mode", "strength", "name"],
)
def test_what_is_wrong_with_the_prompt_stops_the_plot(
    server: Server, tags: str, texts: tuple[str, ...], x: Values
) -> None:
    """An axis of the WebUI's has no word in it, and the WebUI leaves what cannot be created black."""
    stopped(server, PLAIN + tags, x, *texts)


def test_what_is_wrong_with_the_panel_stops_the_plot(server: Server) -> None:
    panel = {"alwayson_scripts": {"Power Merger": {"args": [True, "tiess"]}}}
    with pytest.raises(ServerError, match="tiess"):
        make_plot(server, PLAIN + STACK, pm("Density", "0.5"), **panel)
    if isinstance(server, Double):
        server.module("errors").exception_records.clear()


def test_at_full_rank_a_sum_is_concat(server: Server) -> None:
    plot = make_plot(server, f"{PLAIN}{STACK}<pm:add_svd>", pm("SVD rank", "2, full"))
    check(server, plot, [f"{PLAIN}{STACK}<pm:add_svd:svd_rank={rank}>" for rank in ("2", "full")])
    assert same(plot.cells[1], server.txt2img(f"{PLAIN}{STACK}<pm:concat>").image)


def test_an_axis_that_changes_nothing_is_told(server: Server) -> None:
    plot = make_plot(server, f"{PLAIN}{STACK}<pm:add_svd>", pm("Seed", "1, 2"))
    assert same(*plot.cells)
    assert plot.comments is None or "Seed" in plot.comments
    for text in plot.infotexts:
        assert text is not None
        assert says(text, "Seed … nothing … add_svd … no seed")
    among_modes = make_plot(server, PLAIN + STACK, pm("Seed", "1, 2"), pm("Mode", "add_svd"))
    assert not any(says(text, "Seed … nothing") for text in among_modes.infotexts)


@pytest.mark.parametrize(
    ("axis", "facts"),
    [
        (pm("Density", "0.5, 2"), "density … 2.0 … a number … 0 … 1"),
        (pm("Mode", "ties, tie"), "mode 'tie' … concat, add"),
        (pm("SVD rank", "4, ful"), "svd_rank … 'ful' … a whole number … 1 … full"),
        (pm("LoRA 3 strength", "1"), "LoRA 3 … 2 <lora:…>"),
        (pm("LoRA 1 name", "pm_contract_none"), "LoRA 'pm_contract_none'"),
        (pm("LoRA 1 lbw", "MIDDD"), "LoRA 1 … block weight preset 'MIDDD' … MIDD"),
        (pm("Apply to", "vae"), "Apply to … 'vae' … model + clip, model, clip"),
    ],
)
def test_bad_values_are_refused_before_the_first_image(server: Server, axis: Values, facts: str) -> None:
    with pytest.raises(ServerError, match=saying(facts)):
        make_plot(server, PROMPT, axis)


def test_loras_of_a_style_count(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    if not isinstance(server, Double):
        pytest.skip("a real WebUI's styles are its user's")
    styles = server.module("shared").prompt_styles  # the double asks the same of the negative prompt
    added = f"<lora:{B}:0.6>"
    monkeypatch.setattr(
        styles, "apply_styles_to_prompt", lambda text, chosen: text + added if text and chosen else text
    )
    plot = make_plot(server, f"{PLAIN}<lora:{A}:0.8>{TIES}", pm("LoRA 2 strength", "0.3"), styles=["one"])
    check(server, plot, [f"{PLAIN}<lora:{A}:0.8>{TIES}<lora:{B}:0.3>"])


def test_hires_with_a_prompt_of_its_own(server: Server) -> None:
    """Its LoRAs are counted on their own, and one that it does not have is not missed."""
    hires = HIRES | {"hr_prompt": f"a dog<lora:{B}:1><pm:concat>"}
    plot = make_plot(server, PROMPT, pm("LoRA 1 strength", "0.3"), pm("LoRA 2 strength", "0.4"), **hires)
    alone = server.txt2img(
        f"{PLAIN}<lora:{A}:0.3><lora:{B}:0.4>{TIES}", **hires | {"hr_prompt": f"a dog<lora:{B}:0.3><pm:concat>"}
    )
    assert plot.infotexts == alone.infotexts
    assert same(plot.cells[0], alone.image)


def test_hires_batches_and_img2img(server: Server) -> None:
    plot = make_plot(server, PROMPT, pm("Lambda", "0.5"), **HIRES)
    changed = PROMPT.replace("rank=4", "rank=4:lambda=0.5")
    check(server, plot, [changed], **HIRES)
    source = server.txt2img("another").image
    plot = make_plot(server, PROMPT, pm("Lambda", "0.5"), image=source)
    assert same(plot.cells[0], server.img2img(changed, source).image)
    plot = make_plot(server, PROMPT, pm("Lambda", "0.5"), n_iter=2)
    assert difference(plot.cells[0], server.txt2img(changed, n_iter=2).images[0]) == 0


def test_the_next_image_knows_nothing_of_the_plot(server: Server) -> None:
    before = server.txt2img(PROMPT)
    make_plot(server, PROMPT, pm("LoRA 1 strength", "0.1, 0.2"), pm("Mode", "ties"))
    after = server.txt2img(PROMPT)
    assert after.infotexts == before.infotexts
    assert same(after.image, before.image)


@by_double_only
def test_a_cell_sent_to_txt2img_makes_its_image(server: Server) -> None:
    assert isinstance(server, Double)
    panel = {"alwayson_scripts": {"Power Merger": {"args": [True, "ties_svd:density=0.5:rank=4"]}}}
    plot = make_plot(server, PLAIN + STACK, pm("Density", "0.5, 0.9"), **panel)
    for cell, infotext in zip(plot.cells, plot.infotexts, strict=True):
        sent = server.paste(infotext or "")
        assert sent["Power Merger"] is False  # the tag says it all
        assert same(server.txt2img(sent["Prompt"]).image, cell)
