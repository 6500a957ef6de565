from __future__ import annotations

from collections.abc import Iterator, Mapping


def in_order(earlier: Mapping[str, set[str]]) -> Iterator[str]:
    """Each name after those that are to be earlier; otherwise as given."""
    done: set[str] = set()

    def place(name: str) -> Iterator[str]:
        if name not in done:
            done.add(name)
            for other in earlier:
                if other in earlier[name]:
                    yield from place(other)
            yield name

    for name in earlier:
        yield from place(name)
