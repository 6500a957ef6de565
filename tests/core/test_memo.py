"""What merges have in common: what is kept, what gives way, from several threads."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lib_pm.core.memo import Memo


@dataclass(frozen=True)
class Block:
    nbytes: int
    name: object = None


def test_a_value_is_made_once() -> None:
    memo, made = Memo(100), []

    def make() -> Block:
        made.append(1)
        return Block(60)

    assert memo.once("a", make) is memo.once("a", make)
    assert len(made) == 1
    assert memo.nbytes == 60


def has(memo: Memo, key: object) -> bool:
    """Whether it is there, found out without adding it."""
    found = True

    def make() -> Block:
        nonlocal found
        found = False
        return Block(10**9)

    memo.once(key, make)
    return found


def test_without_a_limit_nothing_is_kept() -> None:
    memo = Memo()
    memo.once("a", lambda: Block(1))
    assert not has(memo, "a")
    assert memo.nbytes == 0


def test_what_this_round_used_does_not_give_way_and_the_oldest_round_goes_first() -> None:
    memo = Memo(100)
    for name in "abc":
        memo.once(name, lambda: Block(30))
        memo.next_round(100)
    memo.once("a", lambda: Block(30))
    memo.once("d", lambda: Block(30))
    assert [name for name in "abcd" if has(memo, name)] == ["a", "c", "d"]
    memo.once("e", lambda: Block(30))
    assert not has(memo, "e"), "all others were used in this round"
    assert memo.nbytes == 90


def test_going_through_too_many_in_the_same_order_finds_some_every_time() -> None:
    memo = Memo(100)
    for _ in range(3):
        memo.next_round(100)
        found = [name for name in range(20) if memo.once(name, lambda: Block(10, object()))]
        assert len(found) == 20
    memo.next_round(100)
    assert sum(has(memo, name) for name in range(20)) == 10


def test_what_is_larger_than_the_limit_pushes_nothing_out() -> None:
    memo = Memo(100)
    memo.once("a", lambda: Block(60))
    memo.next_round(100)
    memo.once("b", lambda: Block(101))
    assert has(memo, "a")


def test_a_smaller_limit_drops_what_was_used_longest_ago() -> None:
    memo = Memo(100)
    for name in "abc":
        memo.next_round(100)
        memo.once(name, lambda: Block(30))
    memo.shrink(65)
    assert [name for name in "abc" if has(memo, name)] == ["b", "c"]
    memo.shrink(-5)
    assert memo.nbytes == 0


def test_many_threads_get_the_values_of_their_keys_within_the_limit() -> None:
    memo = Memo(500)

    def work(seed: int) -> bool:
        numbers, fine = random.Random(seed), True
        for _ in range(2000):
            key = numbers.randrange(40)
            fine &= memo.once(key, lambda key=key: Block(10 + key, key)).name == key
            fine &= 0 <= memo.nbytes <= 500
            if not numbers.randrange(20):
                memo.next_round(500)
        return fine

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert memo.nbytes == sum(10 + key for key in range(40) if has(memo, key))
