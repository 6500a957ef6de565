"""The few components that the pages are made of, with the arguments that both of the hosts' gradio lines take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

_EVENTS = "change input release click submit select blur clear upload then success load".split()
_COMMON = {
    "label", "info", "show_label", "container", "scale", "min_width", "interactive", "visible", "elem_id",
    "elem_classes", "render", "every",
}  # fmt: skip
_parents: list[Block] = []


def made(component: Block, **kwargs: Any) -> None:
    """Called for every component; the hosts put a function of their own here."""


class Listener(NamedTuple):
    event: str
    fn: Callable[..., Any] | None
    inputs: list[Any]
    outputs: list[Any]


class Block:
    allowed = ""  # arguments besides the common ones
    is_layout = False

    def __init__(self, value: Any = None, **kwargs: Any):
        unknown = kwargs.keys() - _COMMON - set(self.allowed.split())
        if unknown:
            raise TypeError(
                f"{type(self).__name__}.__init__() got an unexpected keyword argument {sorted(unknown)[0]!r}"
            )
        self.value = value() if callable(value) else value
        self.label = self.elem_id = None
        self.visible = True
        self.__dict__.update(kwargs)
        self.children: list[Block] = []
        self.listeners: list[Listener] = []
        if _parents:
            _parents[-1].children.append(self)
        made(self, **kwargs)

    def __enter__(self) -> Any:
        if not self.is_layout:
            raise AttributeError("__enter__")
        _parents.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _parents.pop()

    def __getattr__(self, event: str) -> Callable[..., Any]:
        if event not in _EVENTS:
            raise AttributeError(f"{type(self).__name__} has no attribute {event!r}")

        def listen(
            fn: Callable[..., Any] | None = None, inputs: Any = None, outputs: Any = None, *, queue: bool = True,
            show_progress: Any = "full", api_name: Any = None, trigger_mode: Any = None, cancels: Any = None,
        ) -> Block:  # fmt: skip
            self.listeners.append(Listener(event, fn, _listed(inputs), _listed(outputs)))
            return self

        return listen


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, Sequence) else [value]


def _component(name: str, allowed: str = "", *, layout: bool = False) -> type[Block]:
    return type(name, (Block,), {"allowed": allowed, "is_layout": layout})


class _Choices(Block):
    def __init__(self, choices: Sequence[Any] | None = None, *, value: Any = None, **kwargs: Any):
        super().__init__(value, **kwargs)
        self.choices = list(choices or [])


class Dropdown(_Choices):
    allowed = "type multiselect max_choices allow_custom_value filterable"


class Radio(_Choices):
    allowed = "type"


class CheckboxGroup(_Choices):
    allowed = "type"


class Slider(Block):
    allowed = "step randomize"

    def __init__(self, minimum: float = 0, maximum: float = 100, value: Any = None, **kwargs: Any):
        super().__init__(minimum if value is None else value, **kwargs)
        self.minimum, self.maximum = minimum, maximum


class Checkbox(Block):
    def __init__(self, value: Any = False, **kwargs: Any):
        super().__init__(value, **kwargs)


class Accordion(Block):
    is_layout = True
    allowed = "open"

    def __init__(self, label: str | None = None, **kwargs: Any):
        super().__init__(None, label=label, **kwargs)


class Blocks(Block):
    allowed = "analytics_enabled title css theme"
    is_layout = True

    @property
    def blocks(self) -> dict[int, Block]:
        """All that is in it, at any depth."""

        def inside(block: Block) -> list[Block]:
            return [block, *(deeper for child in block.children for deeper in inside(child))]

        return dict(enumerate(inside(self)))


Number = _component("Number", "precision minimum maximum step")
Textbox = _component("Textbox", "lines max_lines placeholder type text_align autofocus")
Button = _component("Button", "variant size icon link")
Markdown, HTML, State = _component("Markdown"), _component("HTML"), _component("State")
Dataframe = _component("Dataframe", "headers datatype row_count col_count wrap type")
File = _component("File", "file_count file_types type")
Image = _component("Image", "type image_mode height width")
Row = _component("Row", "variant equal_height", layout=True)
Column = _component("Column", "variant", layout=True)
Group, Tabs = _component("Group", layout=True), _component("Tabs", "selected", layout=True)
Tab = TabItem = _component("Tab", "id", layout=True)


class Error(Exception):
    pass


class Request:
    username = None


class Progress:
    def __init__(self, track_tqdm: bool = False):
        pass

    def __call__(self, progress: Any, desc: str | None = None, total: int | None = None, unit: str = "steps") -> None:
        pass


def update(**kwargs: Any) -> dict[str, Any]:
    return {"__type__": "update", **kwargs}


def skip() -> dict[str, Any]:
    return update()


def Warning(message: str) -> None:  # noqa: N802 (gradio's name)
    print(f"warning in the page: {message}")


def Info(message: str) -> None:  # noqa: N802
    print(f"note in the page: {message}")
