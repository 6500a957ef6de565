"""The tab in the page: readable, nothing overlaps, in its host, and without JavaScript."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import OpenTab
from tests.browser.driver import Tab

RECIPE = """<lora:style/watercolor_v2:0.8>
<lora:miku:0.6:0.75:lbw=1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0:start=5>
#<lora:detail:-0.35>
<lora:a_name_that_is_much_longer_than_there_is_room_for_in_any_of_the_rows_of_this_page:1>
a cat, masterpiece, best quality and many more words that nobody reads, <lora:asuka:1> <pm:dare_ties_svd:density=0.5>
"""

# Every pair of controls that share a pixel; every control that is outside of its row or of the window, or too small.
MISPLACED = """() => {
    const controls = document.querySelectorAll('#pm_rows :is(input, button, .pm-thumb)');
    const all = [...controls].filter((e) => e.checkVisibility());
    const box = (e) => e.getBoundingClientRect();
    const said = (e) => `${e.tagName}.${e.className} ${e.ariaLabel || e.title}`;
    const within = (a, b) => a.left >= b.left && a.right <= b.right && a.top >= b.top && a.bottom <= b.bottom;
    const found = [];
    all.forEach((e, i) => {
        const a = box(e);
        for (const other of all.slice(i + 1)) {
            const b = box(other);
            const apart = a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
            if (!apart) found.push(`${said(e)} over ${said(other)}`);
        }
        if (a.width < 18 || a.height < 18) found.push(`${said(e)} is ${a.width} × ${a.height}`);
        const row = e.closest('.pm-row') || document.querySelector('#pm_rows');
        if (!within(a, box(row))) found.push(`${said(e)} leaves its row`);
        if (a.left < 0 || a.right > innerWidth) found.push(`${said(e)} leaves the window`);
    });
    return [all.length, found];
}"""

# Texts whose colour differs from what is behind them by less than 4.5 : 1, as WCAG counts it.
PALE = """() => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const layers = (e) => (e ? [...layers(e.parentElement), getComputedStyle(e).backgroundColor] : ['white']);
    const seen = (colours) => {
        for (const colour of colours) {
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
        }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = (rgb) => {
        const [r, g, b] = rgb.map((v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const inRows = '.pm-row:not(.pm-off) :is(b, small, span, input:not([type=checkbox]))';
    const said = (e) => e.value || e.innerText;
    const shown = [...document.querySelectorAll(`${inRows}, .pm-note`)].filter((e) => e.checkVisibility() && said(e));
    const ratio = (e) => {
        const behind = layers(e);
        const lights = [light(seen(behind)), light(seen([...behind, getComputedStyle(e).color]))];
        return (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
    };
    return [shown.length, shown.filter((e) => ratio(e) < 4.5).map((e) => `${said(e)} ${ratio(e).toFixed(1)}`)];
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_overlaps_and_all_can_be_read(open_tab: OpenTab, subtests: pytest.Subtests, theme: str) -> None:
    tab = open_tab(f"__theme={theme}")
    tab.write(RECIPE)
    assert tab.page.evaluate("document.body.classList.contains('dark')") == (theme == "dark")
    for width in (1280, 800, 390):
        with subtests.test(width=width):
            tab.page.set_viewport_size({"width": width, "height": 900})
            assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
            controls, misplaced = tab.page.evaluate(MISPLACED)
            assert controls > 50
            assert misplaced == []
            texts, pale = tab.page.evaluate(PALE)
            assert texts > 20
            assert pale == []
            tab.search.click()
            popup = tab.page.locator("#pm_rows .pm-popup").first.bounding_box()
            assert popup["x"] >= 0
            assert popup["x"] + popup["width"] <= width
            tab.page.keyboard.press("Escape")


def test_the_list_can_be_refreshed(tab: Tab, loras: Path) -> None:
    tab.write("<lora:came_later:1>")
    assert tab.rows.locator("small").inner_text() == "not found"
    new = loras / "style" / "came_later.safetensors"
    new.touch()
    try:
        tab.page.locator("#pm_refresh").click()
        tab.rows.locator("small").get_by_text("style").wait_for()
        tab.search.fill("came")
        assert tab.options.locator("b").all_inner_texts() == ["came_later"]
    finally:
        new.unlink()
    tab.page.locator("#pm_refresh").click()
    tab.rows.locator("small").get_by_text("not found").wait_for()


def test_presets_are_offered(tab: Tab) -> None:
    tab.write("<lora:miku:1>")
    offered = tab.in_row(0, "Block weights").evaluate("input => [...input.list.options].map((option) => option.value)")
    assert {"MIDD", "OUTALL"} <= set(offered)


HOST = """
window.called = [];
window.switch_to_txt2img = () => window.called.push('txt2img');
window.addEventListener('DOMContentLoaded', () => {
    document.body.insertAdjacentHTML('beforeend', '<button id="txt2img_lora_extra_refresh">R</button>');
    document.getElementById('txt2img_lora_extra_refresh').onclick = () => window.called.push('refresh');
});"""


def test_in_a_webui_it_goes_where_the_recipe_went(open_tab: OpenTab) -> None:
    tab = open_tab(script=HOST)
    insert = tab.page.locator("#pm_insert_txt2img")
    tab.write("<lora:nobody:1>")
    insert.click()
    tab.page.locator("#pm_check .pm-problem").wait_for()
    assert tab.page.evaluate("called") == [], "the problem is told here"
    tab.write("<lora:miku:1>")
    tab.page.locator("#pm_check .pm-note").wait_for()
    insert.click()
    tab.wait_for_prompt("<lora:miku:1> <pm:concat:lambda=1>")
    tab.page.wait_for_function("called.join() == 'txt2img'")
    insert.click()  # nothing changes in the prompt
    tab.page.wait_for_function("called.join() == 'txt2img,txt2img'")


def test_it_is_one_name_in_the_window(tab: Tab, open_tab: OpenTab) -> None:
    names = "Object.keys(window).filter((name) => !name.startsWith('__svelte'))"
    without = set(open_tab("plain").page.evaluate(names))
    assert set(tab.page.evaluate(names)) - without == {"powerMerger"}


def test_with_rows_the_dropdown_is_not_needed(tab: Tab) -> None:
    assert not tab.page.locator("#pm_add_row").is_visible()


def test_without_javascript_the_dropdown_and_the_text_do_every_job(open_tab: OpenTab) -> None:
    tab = open_tab("plain")
    assert tab.rows.count() == 0
    for name in ("miku", "oil_paint"):
        chosen = tab.page.locator("#pm_add input")
        chosen.fill("")
        chosen.press_sequentially(name)  # gradio 4 filters by what was there before the last key
        tab.page.locator("ul.options li", has_text=name).click()
        before = tab.text()
        tab.page.locator("#pm_add_button").click()
        tab.page.wait_for_function(
            "before => document.querySelector('#pm_recipe textarea').value !== before", arg=before
        )
    assert tab.text() == "<lora:miku:1>\n<lora:oil_paint:1>"
    tab.write(tab.text() + "\n<lora:detail:0.5>")
    tab.page.locator("#pm_insert_txt2img").click()
    tab.wait_for_prompt("<lora:miku:1> <lora:oil_paint:1> <lora:detail:0.5> <pm:concat:lambda=1>")


def test_a_page_at_rest_asks_for_nothing(tab: Tab) -> None:
    tab.page.wait_for_timeout(2000)  # what it asks for when it is opened
    requests: list[str] = []

    def note(request: Any) -> None:
        requests.append(request.url)

    tab.page.on("request", note)
    tab.page.wait_for_timeout(1000)
    tab.page.remove_listener("request", note)
    assert requests == []
