"""What the documents say is what the project does."""

import re
from pathlib import Path

from lib_pm.cli import _parser
from lib_pm.core.blocks import BLOCK_LISTS
from lib_pm.jobs.axes import Offered, make_axes
from lib_pm.jobs.modes import modes_markdown
from lib_pm.jobs.presets import BUILT_IN
from lib_pm.jobs.sweeps import sweep_modes, sweep_ranks, sweep_strengths

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_table_of_modes_is_the_registry():
    assert modes_markdown() in README


def test_the_commands_of_the_first_screen_are_understood():
    commands = re.findall(r"^    python -m lib_pm (.+)$", README, re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", command)]
        _parser().parse_args(words)


def test_the_table_of_blocks_is_the_code():
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| ([^|]+) \|$", README, re.MULTILINE)
    assert {int(length) for length, _ in rows} == set(BLOCK_LISTS)
    for length, words in rows:
        names = words.split()
        for position, name in enumerate(names):
            if name == "…":  # a range: its ends stand beside it
                first, last = names[position - 1], names[position + 1]
                assert BLOCK_LISTS[int(length)].index(last) - BLOCK_LISTS[int(length)].index(first) == int(
                    last[-2:]
                ) - int(first[-2:])
            else:
                assert name in BLOCK_LISTS[int(length)]


def test_the_presets_are_named():
    assert all(f"{name}" in README for name in BUILT_IN)


def test_the_plots_to_start_with_are_the_sweeps():
    page = (Path(__file__).parents[1] / "docs" / "xyz.md").read_text(encoding="utf-8")
    axes = {axis.name for axis in make_axes(Offered(list, str, dict))}
    assert set(re.findall(r"`\[Power Merger\] ([^`…]+)`", page)) <= axes
    for sweep in (sweep_strengths(apply="clip"), sweep_modes(), sweep_ranks("ties_svd", 0.5)):
        for letter, (axis, values) in zip("XYZ", (sweep.x, sweep.y, sweep.z), strict=True):
            assert not axis or re.search(
                rf"^\| {letter} \|.*`\[Power Merger\] {axis}` \|.*`{re.escape(values)}`", page, re.M
            )
    for picture in re.findall(r"\]\((images/[^)]+)\)", page):
        assert (Path(__file__).parents[1] / "docs" / picture).is_file()
