"""Turns: one draws at a time, and the user first."""

from __future__ import annotations

import threading

import pytest

from demo.painter import Turns

WAIT = 10  # seconds, at most


def test_the_user_comes_before_all_that_wait_in_the_background() -> None:
    turns, order = Turns(), list[str]()

    def take(name: str) -> None:
        with turns.user() if name == "user" else turns.background():
            order.append(name)

    threads = [threading.Thread(target=take, args=(name,)) for name in ("sheet 1", "sheet 2", "user")]
    with turns.background():
        for thread in threads:
            thread.start()
        with turns._condition:  # until the user waits too
            assert turns._condition.wait_for(lambda: bool(turns._users), WAIT)
        assert order == []
    for thread in threads:
        thread.join(WAIT)
    assert order[0] == "user"
    assert sorted(order[1:]) == ["sheet 1", "sheet 2"]


@pytest.mark.parametrize("door", [Turns.user, Turns.background])
def test_an_error_gives_the_turn_back(door: object) -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="broken"), door(turns):  # type: ignore[operator]
        raise ValueError("broken")
    free = threading.Event()

    def take() -> None:
        with turns.background():
            free.set()

    threading.Thread(target=take, daemon=True).start()
    assert free.wait(WAIT)
