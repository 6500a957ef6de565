"""A page of the tab in a browser: opened, and put back to how it was when it was new."""

from __future__ import annotations

import re
from typing import Any

from tests.browser.driver import Tab

WIDTH, HEIGHT = 1280, 900

# A row for each LoRA by each of its names: the rows alone know whose strengths go apart, for as long as the page lives.
ROWS = """
    const area = document.querySelector('#pm_recipe textarea');
    const {loras} = document.querySelector('#pm_data [data-loras]').dataset;
    const names = JSON.parse(loras).flatMap(({name, folder}) => [name, `${folder}/${name.split('/').pop()}`]);
    area.value = names.map((name) => `<lora:${name}:1>`).join('\\n');
    const buttons = [...document.querySelectorAll('#pm_rows button')];
"""

EMPTY = f"""() => {{{ROWS}
    buttons.filter((button) => button.title.startsWith('Link')).forEach((button) => button.click());
    area.value = '';
    area.dispatchEvent(new Event('input', {{bubbles: true}}));
    document.activeElement.blur();
    scrollTo(0, 0);
}}"""

# All that a user sees and can set.
LOOKS = f"""() => {{{ROWS}
    const titles = buttons.map((button) => button.title);
    area.value = '';
    const fields = [...document.querySelectorAll('input, textarea')];
    const controls = fields.map((e) => [e.value, e.checked, e.placeholder, e.checkVisibility()]);
    const {{innerText, className, scrollHeight}} = document.body;
    return JSON.stringify([loras, titles, controls, innerText, className, scrollHeight]);
}}"""


class Page:
    """tab: what is in it. complaints: what its console said."""

    def __init__(self, browser: Any, at: str, query: str = "", *, width: int = WIDTH, script: str = "") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": HEIGHT})
        self.complaints: list[str] = []
        self.new = ""
        page = self.context.new_page()
        page.add_init_script(script)
        page.set_default_timeout(10_000)
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        # gradio asks the network for fonts and the like, which a test must not depend on
        page.route(re.compile(f"^(?!{re.escape(at)})"), lambda route: route.fulfill(body=""))
        page.goto(f"{at}/?{query}")
        self.tab = Tab(page)
        page.wait_for_function("document.querySelector('#pm_recipe textarea')?.value === '# loaded'")
        page.locator("#pm_data [data-loras]").wait_for(state="attached")
        self.tab.write("")

    def close(self) -> None:
        self.context.close()

    def looks(self) -> str:
        return str(self.tab.page.evaluate(LOOKS))

    def remember(self) -> None:
        """Remember how it looks now that it is new, once nothing changes any more."""
        self.new, before = self.looks(), ""
        while self.new != before:
            self.tab.page.wait_for_timeout(300)
            self.new, before = self.looks(), self.new

    def renew(self) -> bool:
        """Put back what a test may have changed. Returns whether it then looks as it did when it was new."""
        from playwright.sync_api import Error

        page = self.tab.page
        page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
        page.mouse.move(0, 0)
        self.tab.search.fill("")
        self.tab.prompt.fill("")
        page.evaluate(EMPTY)
        try:
            page.wait_for_function(f"seen => ({LOOKS})() === seen", arg=self.new, timeout=3_000)
        except Error:
            return False
        return True
