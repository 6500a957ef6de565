"""Settings: declared with OptionInfo, read as attributes, with their defaults until set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class OptionInfo:
    def __init__(
        self, default=None, label="", component=None, component_args=None, onchange=None, section=None, refresh=None,
        comment_before="", comment_after="", infotext=None, restrict_api=False, category_id=None,
    ):  # fmt: skip
        self.default, self.label, self.component, self.component_args = default, label, component, component_args
        self.onchange, self.section, self.refresh = onchange, section, refresh
        self.comment_before, self.comment_after = comment_before, comment_after
        self.infotext, self.restrict_api, self.category_id = infotext, restrict_api, category_id
        self.do_not_save = False

    def info(self, info: str) -> OptionInfo:
        self.comment_after += f"<span class='info'>({info})</span>"
        return self

    def html(self, html: str) -> OptionInfo:
        self.comment_after += html
        return self

    def link(self, label: str, url: str) -> OptionInfo:
        self.comment_before += f"[<a href='{url}'>{label}</a>]"
        return self

    def needs_restart(self) -> OptionInfo:
        return self.info("requires restart")

    def needs_reload_ui(self) -> OptionInfo:
        return self.info("requires Reload UI")


class OptionHTML(OptionInfo):
    def __init__(self, text: str):
        super().__init__(text)
        self.do_not_save = True


def options_section(section_identifier: tuple[str, ...], options_dict: dict[str, OptionInfo]) -> dict[str, OptionInfo]:
    for info in options_dict.values():
        info.section = section_identifier[:2]
        info.category_id = section_identifier[2] if len(section_identifier) > 2 else None
    return options_dict


class Options:
    """An attribute is a declared setting: what was set, or its default. data: what was set."""

    data_labels: dict[str, OptionInfo]
    data: dict[str, Any]

    def __init__(self, data_labels: Mapping[str, OptionInfo]):
        self.__dict__["data_labels"] = dict(data_labels)
        self.__dict__["data"] = {key: info.default for key, info in data_labels.items()}

    def __getattr__(self, key: str) -> Any:
        if key in self.__dict__["data"]:
            return self.__dict__["data"][key]
        if key in self.__dict__["data_labels"]:
            return self.__dict__["data_labels"][key].default
        raise AttributeError(key)

    def __setattr__(self, key: str, value: Any) -> None:
        if key in self.data or key in self.data_labels:
            self.data[key] = value
        else:
            self.__dict__[key] = value

    def set(self, key: str, value: Any, is_api: bool = False, run_callbacks: bool = True) -> bool:
        if self.data.get(key) == value:
            return False
        setattr(self, key, value)
        onchange = self.data_labels[key].onchange
        if run_callbacks and onchange is not None:
            onchange()
        return True

    def get_default(self, key: str) -> Any:
        return self.data_labels[key].default if key in self.data_labels else None

    def onchange(self, key: str, func: Callable[[], Any], call: bool = True) -> None:
        self.data_labels[key].onchange = func
        if call:
            func()

    def add_option(self, key: str, info: OptionInfo) -> None:
        self.data_labels[key] = info
        if not info.do_not_save:
            self.data.setdefault(key, info.default)
