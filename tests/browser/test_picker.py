"""The picker: found by any word, added and replaced with the keyboard alone, fast with 2,000 LoRAs."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from tests.browser.conftest import OpenTab, Serve
from tests.browser.driver import Tab


def test_three_are_added_one_after_the_other(tab: Tab) -> None:
    for query in ("water", "char mik", "oil"):
        tab.add(query)
    assert tab.text() == "<lora:watercolor_v2:1>\n<lora:miku:1>\n<lora:oil_paint:1>"
    assert tab.names() == ["watercolor_v2", "miku", "oil_paint"]
    assert tab.focused().startswith("Add a LoRA")


def test_a_search_finds_names_folders_and_titles(tab: Tab) -> None:
    def found(query: str) -> list[str]:
        tab.search.fill(query)
        return list(tab.options.locator("b").all_inner_texts())

    assert found("STYLE") == ["oil_paint", "watercolor_v2"]
    assert found("a") == ["asuka", "detail", "oil_paint", "watercolor_v2", "miku"], "what begins with it comes first"
    assert found("ku mi") == ["miku"]
    assert found("hatsune") == ["miku"]
    assert found("nothing") == []
    assert tab.page.get_by_text("No LoRA matches all of these words.").is_visible()


def test_arrows_choose_and_escape_closes(tab: Tab) -> None:
    tab.search.focus()
    assert not tab.page.locator("#pm_rows [role=listbox]").is_visible()
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp"):
        tab.page.keyboard.press(key)
    chosen = tab.page.locator("#pm_rows [role=option][aria-selected=true]")
    assert chosen.locator("b").inner_text() == "asuka"
    assert tab.search.get_attribute("aria-activedescendant") == chosen.get_attribute("id")
    assert tab.search.get_attribute("aria-expanded") == "true"
    tab.page.keyboard.press("Escape")
    assert not tab.page.locator("#pm_rows [role=listbox]").is_visible()
    assert tab.text() == ""


def test_a_click_adds(tab: Tab) -> None:
    tab.search.click()
    tab.options.filter(has_text="miku").click()
    assert tab.text() == "<lora:miku:1>"
    tab.search.click()
    tab.page.get_by_text("Built with").click()
    assert not tab.page.locator("#pm_rows [role=listbox]").is_visible()


def test_another_lora_takes_the_place_of_one(tab: Tab) -> None:
    tab.write("<lora:asuka:0.5:lbw=MIDD>\n<lora:detail:1>")
    tab.button(0, "Choose another").click()
    tab.page.keyboard.type("miku")
    tab.page.keyboard.press("Enter")
    assert tab.text() == "<lora:miku:0.5:lbw=MIDD>\n<lora:detail:1>"
    assert tab.focused() == "Choose another LoRA"
    tab.page.keyboard.press("Enter")
    assert tab.focused() == "Replace miku"
    tab.page.keyboard.press("Escape")
    assert tab.names() == ["miku", "detail"]
    assert tab.focused() == "Choose another LoRA"


@pytest.fixture(scope="module")
def many(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with 2,000 LoRAs."""
    folder: Path = tmp_path_factory.mktemp("many")
    for index in range(2000):
        path = folder / f"folder {index % 20:02}" / f"lora_{index:04}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return serve("page", folder)


def test_two_thousand_loras(many: str, open_tab: OpenTab) -> None:
    tab = open_tab(at=many, script=READY)
    ready = tab.page.evaluate("pmReady - performance.getEntriesByType('navigation')[0].loadEventEnd")
    print(f"ready {ready:.0f} ms after the page")
    assert ready < 10_000, "on an idle machine it is less than 1,000; here others work too"
    took = [search_time(tab, query) for query in ("l", "lora", "7", "folder 07", "19", "lora_1234", "none")]
    print("searches", [f"{ms:.1f} ms" for ms in took])
    assert statistics.median(took) < 100
    tab.search.fill("lora_1234")
    assert tab.options.locator("b").all_inner_texts() == ["lora_1234"]


READY = """new MutationObserver(() => {
    if (!window.pmReady && document.querySelector('#pm_data [data-loras]')) window.pmReady = performance.now();
}).observe(document, {childList: true, subtree: true})"""


def search_time(tab: Tab, query: str) -> float:
    """Milliseconds from a key to the results laid out, measured in the page."""
    return float(
        tab.search.evaluate(
            """(input, query) => {
                input.focus();
                input.value = query;
                const start = performance.now();
                input.dispatchEvent(new Event('input', {bubbles: true}));
                document.querySelector('.pm-popup').getBoundingClientRect();
                return performance.now() - start;
            }""",
            query,
        )
    )
