"""The tab as a user sees it: its text, its rows, its picker."""

from __future__ import annotations

from typing import Any


class Tab:
    """A page that shows the tab. page: Playwright's."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.recipe = page.locator("#pm_recipe textarea")
        self.prompt = page.locator("#txt2img_prompt textarea")  # the WebUI's, beside the tab
        self.search = page.locator("#pm_rows .pm-picker input").first
        self.options = page.locator("#pm_rows .pm-options li")
        self.rows = page.locator("#pm_rows .pm-row")

    def text(self) -> str:
        return str(self.recipe.input_value())

    def write(self, text: str) -> None:
        """As if it had been typed or pasted."""
        self.recipe.fill(text)

    def wait_for_prompt(self, text: str) -> None:
        self.page.wait_for_function(
            "text => document.querySelector('#txt2img_prompt textarea').value === text", arg=text
        )

    def names(self) -> list[str]:
        """What the rows say they are, from the first to the last."""
        return list(self.rows.locator("b").all_inner_texts())

    def add(self, query: str) -> None:
        """With the keyboard alone, but for getting there."""
        self.search.focus()
        self.page.keyboard.type(query)
        self.page.keyboard.press("Enter")

    def in_row(self, index: int, label: str) -> Any:
        """The control of a row by what it is called."""
        return self.rows.nth(index).get_by_label(label)

    def button(self, index: int, title: str) -> Any:
        return self.rows.nth(index).locator(f"button[title^='{title}']")

    def focused(self) -> str:
        """The label or title of what has the focus."""
        return str(
            self.page.evaluate(
                "(e => e.getAttribute('aria-label') || e.title || e.labels?.[0]?.innerText || e.tagName)"
                "(document.activeElement)"
            )
        )
