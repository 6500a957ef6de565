"""The pages of cards, as far as others ask them something."""

from __future__ import annotations

extra_pages: list[ExtraNetworksPage] = []


def initialize() -> None:
    extra_pages.clear()


def register_page(page: ExtraNetworksPage) -> None:
    extra_pages.append(page)


class ExtraNetworksPage:
    def __init__(self, title: str):
        self.title, self.name = title, title.lower()

    def allowed_directories_for_previews(self) -> list[str]:
        return []
