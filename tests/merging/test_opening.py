"""Before the first layer: each file is told when it is opened and when it is hashed, and a job can be stopped there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lib_pm.compare.analyse import analyse
from lib_pm.files import reader
from lib_pm.merging import plan
from lib_pm.merging.cache import MergeCache
from lib_pm.merging.merge import merge, merge_to_file
from lib_pm.merging.progress import Cancelled
from lib_pm.merging.recipe import LoraUse, make_recipe
from lib_pm.merging.resize import NewRank, preview_resize, resize_to_file
from tests.loras import make_lora, write
from tests.workspaces import SHAPES

COUNT = 4
Told = tuple[int, int, str]
Start = Callable[[list[LoraUse], Path, Any], object]


def recipe(uses: list[LoraUse]) -> Any:
    return make_recipe(uses, "concat")


STARTS: dict[str, Start] = {
    "merge": lambda uses, folder, progress: merge(recipe(uses), progress=progress),
    "file": lambda uses, folder, progress: merge_to_file(
        recipe(uses), folder / "out.safetensors", progress=progress, overwrite=True
    ),
    "cache": lambda uses, folder, progress: MergeCache(1 << 20).merge(recipe(uses), progress=progress),
    "analyse": lambda uses, folder, progress: analyse(make_recipe(uses, "concat"), progress=progress),
    "resize": lambda uses, folder, progress: resize_to_file(
        uses[0].path, folder / "out.safetensors", NewRank(1), progress=progress, overwrite=True
    ),
    "look": lambda uses, folder, progress: preview_resize(uses[0].path, NewRank(1), progress=progress),
}
HASH = ("merge", "file", "cache")  # those whose result depends on what the files hold as a whole


@pytest.fixture
def uses(tmp_path: Path) -> list[LoraUse]:
    return [
        LoraUse(write(tmp_path / f"{index}.safetensors", make_lora(SHAPES, 2, seed=index))) for index in range(COUNT)
    ]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done with the files, in its order."""
    done: list[str] = []
    open_lora, content = reader.open_lora, reader.LoraFile.content
    digest = getattr(content, "func", None) or content.fget

    def opened(path: Path) -> Any:
        done.append(f"open {path.stem}")
        return open_lora(path)

    def hashed(file: Any) -> str:
        done.append(f"hash {file.name}")
        return digest(file)

    monkeypatch.setattr(plan.open_plan.__wrapped__, "__defaults__", (opened,))
    monkeypatch.setattr("lib_pm.merging.cache.open_lora", opened)
    monkeypatch.setattr(reader.LoraFile, "content", property(hashed))
    return done


@pytest.mark.parametrize("what", STARTS)
def test_each_file_is_told_before_it_is_read(uses: list[LoraUse], read: list[str], tmp_path: Path, what: str) -> None:
    seen: list[tuple[str, list[str]]] = []

    def progress(done: int, total: int, name: str, unit: str = "layers") -> None:
        if unit == "files" and done < total:
            seen.append((f"{done} of {total}: {name}", [*read]))
            read.clear()

    STARTS[what](uses, tmp_path, progress)
    count = 1 if what in ("resize", "look") else COUNT
    each = [f"{index} of {count}: {index}" for index in range(count)]
    assert [told for told, _ in seen] == each * (2 if what in HASH else 1)
    assert all(len(before) <= 1 for _, before in seen), "no two files between two words"


@pytest.mark.parametrize("what", STARTS)
def test_it_can_be_stopped_at_each_word_and_leaves_nothing(uses: list[LoraUse], tmp_path: Path, what: str) -> None:
    before = sorted(tmp_path.iterdir())
    words = 0

    def count(*at: Any) -> None:
        nonlocal words
        words += 1

    STARTS[what](uses, tmp_path, count)
    (tmp_path / "out.safetensors").unlink(missing_ok=True)
    assert words > len(SHAPES) + (1 if what in ("resize", "look") else COUNT)
    for last in range(words):
        said = 0

        def stop(*at: Any, last: int = last) -> None:
            nonlocal said
            said += 1
            if said > last:
                raise Cancelled

        with pytest.raises(Cancelled):
            STARTS[what](uses, tmp_path, stop)
        assert said == last + 1
        assert sorted(tmp_path.iterdir()) == before
