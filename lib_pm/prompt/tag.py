"""`<lora:…>`, `<lyco:…>` and `<pm:…>` in a text: read into parts and edited, and nothing of the rest is lost.

The only reader of tags, beside javascript/pm_recipe.js; tests/tags.json holds both to one meaning.

A tag is found and split as the WebUI does it: `<kind:item:item>`; the first item is the name, an item with `=` has a
key, the others go by their place. Keys are taken in any case and with spaces around them. The WebUI also takes `<` and
line breaks inside a tag; here they mean that its `>` is missing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from lib_pm.core.errors import Faults, MergeInputError, quoted
from lib_pm.core.params import parse_factor

KINDS = ("lora", "lyco", "pm")
_TAG = re.compile(r"<(lora|lyco|pm):([^<>\n]+)>")
# What somebody meant as a tag: not `<lora_x>` or `<pm-style>`, which are other things.
_LIKE = re.compile(r"<(?:(lora|lyco|pm)(?=[\s:=<>：＝]|$)|[ \t]+(lora|lyco|pm)(?=[ \t]*[:=：＝]))", re.IGNORECASE)
_HOW = {"lora": "<lora:NAME:STRENGTH>", "lyco": "<lora:NAME:STRENGTH>", "pm": "<pm:MODE:option=value>"}
_READ = ("te", "unet", "lbw", "w", "pm")
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
# Block weights in the place of a strength: three numbers or more, or a preset's name.
_WEIGHTS = re.compile(r"([^,]*,){2}.*|(?!(nan|inf|infinity)$)[^0-9+.,-][^,]*", re.IGNORECASE | re.DOTALL)
_ENDING = re.compile(r"[^<>\n]*>?")
_MOST = 50  # of what is no tag in one text, looked for and told
_UNWRITABLE = re.compile(r"[<>:\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Tag:
    """One tag as it is written. items: what is between the colons, the name first."""

    kind: str
    items: tuple[str, ...]

    @classmethod
    def of(cls, kind: str, body: str) -> Tag:
        return cls(kind, tuple(body.split(":")))

    def __str__(self) -> str:
        return f"<{self.kind}:{self.body}>"

    @property
    def body(self) -> str:
        return ":".join(self.items)

    @property
    def name(self) -> str:
        """Return the name of the LoRA or the mode."""
        return self.items[0].strip()

    @property
    def off(self) -> bool:
        """Return whether `pm=off` leaves this LoRA to the host."""
        value = self.value("pm")
        if value is not None and value.lower() != "off":
            raise MergeInputError(f"pm is {quoted(value)} in {self}; allowed: off, which keeps it out of the merge.")
        return value is not None

    @property
    def strengths(self) -> tuple[float, float]:
        """Return (model, clip) as the WebUI reads them: te defaults to 1, unet to te; a key wins over a place."""
        clip, model = self._strength("te", 0), self._strength("unet", 1)
        clip = 1.0 if clip is None else clip
        return clip if model is None else model, clip

    @property
    def lbw(self) -> str:
        """Return the block weights, "" for none: `lbw=MIDD`, `w=MIDD`, or `x:1:MIDD`, the older form."""
        value, at = self.value("lbw", "w"), self._older_lbw()
        if at and value is not None:
            raise MergeInputError(f"{self} has block weights twice: {self.items[at].strip()} and lbw={value}.")
        return self.items[at].strip() if at else value or ""

    @property
    def other(self) -> tuple[str, ...]:
        """Return the items that are not read here: other keys, and a third number, which is the WebUI's dyn."""
        read = {0, *self._plain()[:2], *self.places(*_READ)}
        return tuple(item.strip() for at, item in enumerate(self.items) if at not in read)

    @property
    def webui_agrees(self) -> bool:
        """Return whether the WebUI reads name and strengths alike: it knows the key `te`, but not `TE` or ` te `."""
        parts = [item.split("=", 2) for item in self.items]
        plain = [item for item, part in zip(self.items, parts, strict=True) if len(part) != 2]
        named = dict(part for part in parts if len(part) == 2)
        try:
            clip = float(plain[1]) if len(plain) > 1 else 1.0
            clip = float(named.get("te", clip))
            model = float(plain[2]) if len(plain) > 2 else clip
            model = float(named.get("unet", model))
            for dyn in (*plain[3:4], named.get("dyn", 0)):
                int(dyn)
        except ValueError:
            return False
        return plain[:1] == [self.name] and (model, clip) == self.strengths

    def named(self) -> list[tuple[int, str, str]]:
        """Return place, key in lower case, and value of each item that has a key."""
        parts = ((at, item.partition("=")) for at, item in enumerate(self.items) if at and "=" in item)
        return [(at, key.strip().lower(), value.strip()) for at, (key, _, value) in parts]

    def places(self, *names: str) -> list[int]:
        """Return the places of the items that have one of these keys."""
        return [at for at, key, _ in self.named() if key in names]

    def value(self, *names: str) -> str | None:
        """Return the value of a key, None without one; MergeInputError if it is there twice. names: all that it has."""
        found = [(at, value) for at, key, value in self.named() if key in names]
        if len(found) > 1:
            both = " and ".join(self.items[at].strip() for at, _ in found)
            raise MergeInputError(f"{self} says {names[0]} more than once: {both}. Keep only one.")
        return found[0][1] if found else None

    def with_name(self, name: str) -> Tag:
        return self._with(0, writable(name, self.kind))

    def with_strengths(self, clip: str, model: str) -> Tag:
        """Return the tag with each strength where it stands, else where the WebUI looks. Equal ones keep their text."""
        tag = self if self.strengths[1] == float(clip) else self._with_strength("te", 0, clip)
        return tag if tag.strengths[0] == float(model) else tag._with_strength("unet", 1, model)

    def with_lbw(self, lbw: str) -> Tag:
        """Return the tag with a list, named blocks or a preset's name; "" removes the item."""
        if lbw:
            writable(lbw, self.kind)
        at = self._older_lbw() if self.lbw else 0
        if not at:
            return self.with_value(("lbw", "w"), lbw)
        # with a key, as `0.5` in that place would be a strength; what comes after it keeps its place
        stand_in = [write_number(self.strengths[0])] if len(self._plain()) > 2 else []
        return self.without(at)._put(at, *stand_in, *([f"lbw={lbw}"] if lbw else []))

    def with_value(self, names: tuple[str, ...], value: str) -> Tag:
        """Return the tag with another value of a key, at the end if it is new; "" removes the item."""
        self.value(*names)
        places = self.places(*names)
        if not value:
            return self.without(*places)
        return self._with_text(places[0], value) if places else self._put(len(self.items), f"{names[0]}={value}")

    def without(self, *places: int) -> Tag:
        return replace(self, items=tuple(item for at, item in enumerate(self.items) if at not in places))

    def _plain(self) -> list[int]:
        """Return the places of the items without a key."""
        return [at for at, item in enumerate(self.items) if at and "=" not in item]

    def _older_lbw(self) -> int:
        """Return the place of `MIDD` in `x:1:MIDD`, 0 for none."""
        second = self._plain()[1:2]
        return second[0] if second and _WEIGHTS.fullmatch(self.items[second[0]].strip()) else 0

    def _strength(self, key: str, place: int) -> float | None:
        at, text = self._plain()[place : place + 1], self.value(key)
        placed = self.items[at[0]].strip() if at and at[0] != self._older_lbw() else None
        read = [parse_strength(written, str(self)) for written in (placed, text) if written is not None]
        return read[-1] if read else None

    def _with_strength(self, key: str, place: int, text: str) -> Tag:
        """See `with_strengths`."""
        named, plain, older = self.places(key), self._plain(), self._older_lbw()
        if named:
            return self._with_text(named[0], text)
        if len(plain) > place and plain[place] != older:
            return self._with_text(plain[place], text)
        if place == 0:
            return self._put(1, text)
        if older or (self.places("te") and not plain):
            return self._put(len(self.items), f"{key}={text}")
        return self._put(plain[0] + 1, text) if plain else self._put(1, "1", text)

    def _with_text(self, at: int, text: str) -> Tag:
        """Return the tag with another value in an item, whose key and spaces stay."""
        parts = re.fullmatch(r"([^=]*=\s*|\s*)(.*?)(\s*)", self.items[at], re.DOTALL)
        assert parts
        return self._with(at, f"{parts[1]}{text}{parts[3]}")

    def _with(self, at: int, item: str) -> Tag:
        return replace(self, items=(*self.items[:at], item, *self.items[at + 1 :]))

    def _put(self, at: int, *items: str) -> Tag:
        return replace(self, items=(*self.items[:at], *items, *self.items[at:]))


def split_text(text: str) -> list[str | Tag]:
    """Return the tags and what is between them; joined as text they are the original again."""
    parts: list[str | Tag] = []
    end = 0
    for match in _TAG.finditer(text):
        parts += [text[end : match.start()], Tag.of(match[1], match[2])]
        end = match.end()
    return [*parts, text[end:]]


def tags_of(text: str) -> list[Tag]:
    return [part for part in split_text(text) if isinstance(part, Tag)]


def has_tags(text: str) -> bool:
    """Return whether there is a tag in it, or what looks like one."""
    return _TAG.search(text) is not None or next(_broken(text), None) is not None


def check_text(text: str, kinds: Collection[str] = KINDS) -> None:
    """Raise MergeInputError with line and column for all that looks like a tag of these kinds but is not."""
    faults = Faults()
    wrong = (broken for broken in _broken(text) if broken[0].lower() in kinds)
    for kind, line, column, found in islice(wrong, _MOST):
        why, how = _why(kind, found), _HOW[kind.lower()]
        with faults.collect():
            raise MergeInputError(f"Line {line}, column {column}: {quoted(found)} is not a tag{why}; write {how}.")
    faults.raise_all()


def _broken(text: str) -> Iterator[tuple[str, int, int, str]]:
    """Yield kind, line, column and text of each, up to where its end may be."""
    line, start = 1, 0
    for part in split_text(text):
        done = 0
        for match in _LIKE.finditer(part) if isinstance(part, str) else ():
            at = start + match.start()
            line += text.count("\n", start + done, at)
            done = match.start()
            ending = _ENDING.match(text, at + 1)
            found = text[at : ending.end() if ending else None].rstrip()
            yield match[1] or match[2], line, at - text.rfind("\n", 0, at), found
        start += len(str(part))
        line += text.count("\n", start - len(str(part)) + done, start)


def _why(kind: str, found: str) -> str:
    if not found.endswith(">"):
        return ": it has no > on its line"
    return "" if kind.islower() else f": {kind} should be in lower case"


def writable(text: str, kind: str) -> str:
    """Return the text if it can be an item of a tag: names also come from files, which hold anything."""
    if _UNWRITABLE.search(text) or text != text.strip() or not text:
        raise MergeInputError(
            f"{quoted(text)} cannot be written into a <{kind}:…> tag, where <, >, : and line breaks have a special "
            "meaning and spaces at the ends are lost."
        )
    return text


def write_number(number: float) -> str:
    """Return the shortest text that reads back to the same number."""
    return repr(float(number)).removesuffix(".0")


def is_number(text: str) -> bool:
    """Return whether it is a number as people write them, which Python and JavaScript read alike."""
    return _NUMBER.fullmatch(text.strip()) is not None


def parse_strength(text: str, where: str) -> float:
    """Return a strength that stands in `where`. A MergeInputError says what is wrong with it."""
    if is_number(text):
        return parse_factor(text, f"The strength in {quoted(where)}")
    comma = (
        f" Write {text.strip().replace(',', '.')}, with a decimal point."
        if is_number(text.replace(",", ".", 1))
        else ""
    )
    weights = f" To set block weights, write lbw={text.strip()}." if _WEIGHTS.fullmatch(text.strip()) else ""
    raise MergeInputError(f"The strength {quoted(text)} in {quoted(where)} is not a number.{comma or weights}")
