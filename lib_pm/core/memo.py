"""What one merge computes and the next one may need again: kept by content, within a number of bytes.

`lib_pm.merging.cache.MergeCache` owns the memo. These ask it:

| what is kept | by | asked by | serves |
|---|---|---|---|
| a file's header and hash | its stamp | `MergeCache` | every merge of the file |
| a layer as it is stored | LoRA, layer | `layer_merger` | every merge of the LoRA |
| a layer's threshold | LoRA, layer, density | `keep_largest_` | all strengths |
| factors and their QR | LoRAs, layer | `merge_layer`, linear modes | all strengths |
| a sum's decomposition | LoRAs, layer, ratio of strengths | `merge_layer`, linear modes | all ranks |
| an approximation | the same, mode, options, class of ranks | `merge_layer`, other modes | all ranks of the class |
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar


class Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


Value = TypeVar("Value", bound=Sized)


@dataclass
class _Entry:
    value: Any
    nbytes: int
    used: int  # in which round it was last


class Memo:
    """Values by key, never more than `limit` bytes of them. Safe from several threads.

    A key says everything that decides its value, and values are never changed: whether one is found or made anew makes
    no difference but in time.

    A merge goes through its layers in the same order every time; if what is used least recently gave way, all of it
    would be gone before it is needed. So only what the present round, that is one merge, has not used gives way, oldest
    round first, and what then finds no room is not kept: of a model too large for the limit, some layers are.
    """

    def __init__(self, limit: int = 0) -> None:
        self._limit = limit
        self._round = 0
        self._held = 0
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()  # what was used last at the end
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        return self._held

    def once(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of the key, made if it is not there."""
        if not self._limit:
            return make()
        with self._lock:
            entry = self._entries.get(key)
            if entry:
                entry.used = self._round
                self._entries.move_to_end(key)
                value: Value = entry.value
                return value
        value = make()
        with self._lock:
            if key not in self._entries and self._make_room(value.nbytes, self._round):
                self._entries[key] = _Entry(value, value.nbytes, self._round)
                self._held += value.nbytes
        return value

    def next_round(self, limit: int) -> None:
        self._round += 1
        self.shrink(limit)

    def shrink(self, limit: int) -> None:
        """Set the limit, and drop what does not fit into it, oldest round first."""
        with self._lock:
            self._limit = max(0, limit)
            self._make_room(0, self._round + 1)

    def _make_room(self, needed: int, before: int) -> bool:
        """Drop entries last used before that round until so much room is there. Return whether it is."""
        while needed <= self._limit < self._held + needed:
            key, entry = next(iter(self._entries.items()))
            if entry.used >= before:
                return False
            self._held -= self._entries.pop(key).nbytes
        return needed <= self._limit


@dataclass(frozen=True)
class Content:
    """What a LoRA holds in one place, by a digest of it, and the memo of what was found out about that.

    Two of one digest hold the same. Without a memo, nothing is kept.
    """

    digest: bytes
    memo: Memo = field(default_factory=Memo)

    def once(self, what: Hashable, make: Callable[[], Value]) -> Value:
        """Return what is asked about it, made if it is not known."""
        return self.memo.once((what, self.digest), make)
