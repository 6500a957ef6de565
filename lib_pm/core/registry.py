"""The table of merge methods and of the modes they make.

A method is one function of a stack of deltas, which is its own to write over, and of nothing else that can change.
Where it is applied is its space: `exact` (concatenated factors), `factors` (up and down factors apart) or `delta` (the
full deltas, then the best rank-k approximation). Method and space together are a mode, whose id is what users write:
`ties` is the method in the factors, `ties_svd` in the deltas.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lib_pm.core.errors import MergeInputError, did_you_mean, quoted
from lib_pm.core.memo import Content
from lib_pm.core.params import Declared, Lambda, Option, OptionValue, SvdConvRank, SvdRank

if TYPE_CHECKING:
    from torch import Tensor

Space = Literal["exact", "factors", "delta"]
MethodFunction = TypeVar("MethodFunction", bound="Callable[..., Tensor]")

_STACK = ("deltas", "weights")
_STACK_AND_CONTENTS = (*_STACK, "contents")


@dataclass(frozen=True, eq=False)  # a row of a table: it is itself
class Method:
    """A registered method. by_content: it takes `contents`. linear: it is Σ wᵢ·ΔWᵢ, so factors can be concatenated."""

    id: str
    title: str
    formula: str
    when: str
    when_factors: str
    source: str
    function: Callable[..., Tensor]
    linear: bool
    by_content: bool
    options: Mapping[str, Option]

    @property
    def random(self) -> bool:
        """Return whether it has a seed."""
        return "seed" in self.options

    def __call__(
        self, deltas: Tensor, weights: Tensor, contents: list[Content], values: Mapping[str, OptionValue]
    ) -> Tensor:
        """deltas: (n, *shape), may be written over. weights: (n,). contents: (n,). Returns (*shape,)."""
        arguments = {option.keyword: values[name] for name, option in self.options.items()}
        stack = (deltas, weights, contents) if self.by_content else (deltas, weights)
        return self.function(*stack, **arguments)


@dataclass(frozen=True, eq=False)
class Mode:
    """A method in a space, with every option that the user can set."""

    id: str
    title: str
    method: Method
    space: Space
    options: Mapping[str, Option]

    @property
    def when(self) -> str:
        return (self.space == "factors" and self.method.when_factors) or self.method.when

    @property
    def approximates(self) -> bool:
        """Return whether it truncates dense deltas, so that the precision of that is a choice."""
        return self.space == "delta" and not self.method.linear

    def values(self, given: Mapping[str, Any]) -> dict[str, OptionValue]:
        """Return all options with their values: `given` checked, the rest at their defaults.

        Names may be the short ones (`rank`). An unknown name or a bad value is a MergeInputError.
        """
        values = {name: option.default for name, option in self.options.items()}
        words: dict[str, str] = {}  # option -> what it is called in `given`
        for written, value in given.items():
            option = self.option(written)
            if not option:
                raise self._no_option(written)
            if option.name in words:
                raise MergeInputError(
                    f"{words[option.name]} and {written} are the same option of mode {self.id}; keep only one."
                )
            words[option.name] = written
            values[option.name] = option.parse(value)
        return values

    def choice(self, given: Mapping[str, Any] | None = None) -> Choice:
        """Return this mode with `given` checked and the other options at their defaults; see `values`."""
        return Choice(self, self.values(given or {}))

    def _no_option(self, name: str) -> MergeInputError:
        known = [word for option in self.options.values() for word in (option.name, option.declared.short) if word]
        return MergeInputError(
            f"Mode {self.id} has no option {quoted(name)}; its options are: {', '.join(self.options)}."
            f"{did_you_mean(name, known)}"
        )

    def option(self, name: str) -> Option | None:
        """Return the option of that name or short name (`rank`)."""
        return next((option for option in self.options.values() if name in (option.name, option.declared.short)), None)


@dataclass(frozen=True)
class Choice:
    """A mode and a value for each of its options, in their types.

    unused: options of other modes that were written beside them.
    """

    mode: Mode
    values: Mapping[str, OptionValue] = field(hash=False)
    unused: tuple[str, ...] = field(default=(), compare=False)

    def changed(self, given: Mapping[str, Any]) -> Choice:
        """Return the choice with other values for some options; see `Mode.values`."""
        values = self.mode.values(given)
        names = [option.name for name in given if (option := self.mode.option(name))]
        return replace(self, values={**self.values, **{name: values[name] for name in names}})

    def note(self) -> str:
        """Return a note for the user, "" for none."""
        return f"{', '.join(self.unused)} does nothing in mode {self.mode.id}" if self.unused else ""


METHODS: dict[str, Method] = {}
MODES: dict[str, Mode] = {}


def find_mode(id: str) -> Mode:
    """Return the mode of that id; a MergeInputError that lists all of them if there is none."""
    if id not in MODES:
        raise MergeInputError(
            f"There is no mode {quoted(id)}; the modes are: {', '.join(MODES)}.{did_you_mean(id, MODES)}"
        )
    return MODES[id]


def find_option(name: str) -> Option | None:
    """Return an option of that name or short name of any mode."""
    return next((option for mode in MODES.values() if (option := mode.option(name))), None)


def all_options() -> dict[str, Option]:
    """Return every option of every mode by name, in the order of the modes that have most of them."""
    options: dict[str, Option] = {}
    for mode in sorted(MODES.values(), key=lambda mode: -len(mode.options)):
        for name, option in mode.options.items():
            options.setdefault(name, option)
    return options


def merge_method(
    id: str,
    *,
    title: str,
    formula: str,
    when: str,
    source: str,
    when_factors: str = "",
    spaces: tuple[Space, ...] = ("factors", "delta"),
    linear: bool = False,
) -> Callable[[MethodFunction], MethodFunction]:
    """Register a merge method; the function is returned unchanged.

    Its positional parameters are (deltas, weights), or (deltas, weights, contents); its keyword-only
    ones are declared types from `lib_pm.core.params`. Anything else, and a missing docstring, is a TypeError at import.
    """

    def register(function: MethodFunction) -> MethodFunction:
        if id in METHODS:
            raise TypeError(f"merge method {id!r} is registered twice")
        if not inspect.getdoc(function):
            raise TypeError(f"merge method {id!r} has no docstring")
        stack = tuple(
            name
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        )
        if stack not in (_STACK, _STACK_AND_CONTENTS):
            raise TypeError(f"merge method {id!r} takes {stack}; it should take {_STACK} or {_STACK_AND_CONTENTS}")
        method = Method(
            id,
            title,
            formula,
            when,
            when_factors,
            source,
            function,
            linear,
            stack == _STACK_AND_CONTENTS,
            declared_options(function),
        )
        METHODS[id] = method
        for space in spaces:
            mode = _mode(method, space)
            MODES[mode.id] = mode
        return function

    return register


def _option(keyword: str, hint: Any, default: OptionValue) -> Option | None:
    """Return the option that an annotation declares, None for one that declares nothing."""
    if get_origin(hint) in (Union, types.UnionType):  # Python 3.10 makes Optional of a hint whose default is None
        hint = next((part for part in get_args(hint) if get_origin(part) is Annotated), hint)
    declared = [extra for extra in get_args(hint)[1:] if isinstance(extra, Declared)]
    if get_origin(hint) is not Annotated or not declared:
        return None
    name = keyword.rstrip("_")  # `lambda` is a word of the language
    return Option(name, keyword, _plain_type(get_args(hint)[0]), default, declared[0])


def _options(*declarations: tuple[str, Any, OptionValue]) -> dict[str, Option]:
    return {option.name: option for declaration in declarations if (option := _option(*declaration))}


def _mode(method: Method, space: Space) -> Mode:
    options = {**method.options, **(_TRUNCATED_MODE if space == "delta" else {}), **_EVERY_MODE}
    suffix, words = ("_svd", " (SVD)") if space == "delta" else ("", "")
    return Mode(method.id + suffix, method.title + words, method, space, options)


def declared_options(function: Callable[..., object]) -> dict[str, Option]:
    """Return the keyword-only parameters of a function, which must be declared and have a default."""
    # a method's tensors are tensors to the type checker alone; which type that is makes no difference here
    hints = get_type_hints(function, localns={"Tensor": Any}, include_extras=True)
    options = {}
    for keyword, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        option = _option(keyword, hints.get(keyword), parameter.default)
        if option is None or parameter.default is inspect.Parameter.empty:
            raise TypeError(f"parameter {keyword!r} of {function.__name__} is undeclared or has no default")
        options[option.name] = option
    return options


def _plain_type(hint: Any) -> type:
    """Return `int` for `int` and of `int | None`."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    return hint  # type: ignore[no-any-return]


# What modes have beside the options of their methods: all of them, and those that end in a truncation.
_EVERY_MODE = _options(("lambda_", Lambda, 1.0))
_TRUNCATED_MODE = _options(("svd_rank", SvdRank, 16), ("svd_conv_rank", SvdConvRank, None))
