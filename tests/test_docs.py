"""What the documents say is what the project does."""

import importlib
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from lib_pm.cli import main
from lib_pm.families.blocks import BLOCK_LISTS
from lib_pm.prompt.presets import BUILT_IN
from lib_pm.render.modes import modes_markdown
from lib_pm.sweep.axes import LoraLookup, make_axes
from lib_pm.sweep.sweeps import sweep_modes, sweep_ranks, sweep_strengths
from tests.loras import make_lora, write

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
COMMANDS = re.findall(r"^(?:\$|   ) python -m lib_pm (.+)$", PAGES["command_line"], re.MULTILINE)
DOCUMENTS = {"README": README, "CONTRIBUTING": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), **PAGES}
OTHERS = sorted(  # tests.texts is run by test_texts.py
    {
        command.strip()
        for text in DOCUMENTS.values()
        for command in re.findall(
            r"(?:^|    |`)python (-m (?!lib_pm|tests\.texts)[^`#\n]+|run\.py[^`#\n]*)", text, re.MULTILINE
        )
    }
)
SHAPES = {
    "lora_te_text_model_encoder_layers_0_mlp_fc1": (24, 16),
    "lora_unet_mid_block_attentions_0_proj_in": (24, 16),
    "lora_unet_down_blocks_0_attentions_0_proj_in": (24, 16),
}


def test_the_table_of_modes_is_the_registry():
    assert modes_markdown() in PAGES["modes"]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_work(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "Lora").mkdir(parents=True)
    for seed, name in enumerate(("style", "char", "in", "file", "models/Lora/style", "models/Lora/char")):
        write(tmp_path / f"{name}.safetensors", make_lora(SHAPES, 12, 4.0, seed=seed))
    status = main([word.strip("'") for word in re.findall(r"'[^']*'|\S+", command)])
    assert status == 0, capsys.readouterr().err


def test_there_are_commands_to_try():
    assert {command.split()[0] for command in COMMANDS} == {"merge", "analyse", "resize", "convert", "inspect", "modes"}


@pytest.mark.parametrize("command", OTHERS)
def test_what_takes_minutes_has_a_help_that_knows_it(command, capsys, monkeypatch):
    words = command.split()
    if words[0] == "run.py":
        spec = importlib.util.spec_from_file_location("run_of_the_docs", ROOT / "run.py")
        run = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(run)
        assert run.steps_of(words[1], words[2:]) if len(words) > 1 else run.main(["--help"]) == 0
        return
    name, arguments = words[1], words[2:]
    if importlib.util.find_spec(name).submodule_search_locations:
        name += ".__main__"
    monkeypatch.setattr(sys, "argv", [name, *arguments, "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(name).main()
    assert ended.value.code == 0
    known = capsys.readouterr().out
    assert [word for word in arguments if word.startswith("--") and word not in known] == []


def test_there_are_others_to_try():
    assert {
        "run.py demo",
        "-m demo.pictures",
        "-m demo.pictures --only stacked-merged",
        "-m tests.browser.pictures",
    } <= set(OTHERS)


def test_who_opens_the_readme_reads_it_whole():
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("page", ["README", *PAGES])
def test_links_lead_somewhere(page):
    text, folder = (README, ROOT) if page == "README" else (PAGES[page], ROOT / "docs")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert not [link for link in links if link and not (folder / link).exists()]


def test_the_table_of_blocks_is_the_code():
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| ([^|]+) \|$", PAGES["block_weights"], re.MULTILINE)
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
    assert all(f"{name}" in PAGES["block_weights"] for name in BUILT_IN)


def test_the_plots_to_start_with_are_the_sweeps():
    page = PAGES["xyz"]
    axes = {axis.name for axis in make_axes(LoraLookup(list, str, dict))}
    assert set(re.findall(r"`\[Power Merger\] ([^`…]+)`", page)) <= axes
    for sweep in (sweep_strengths(apply="clip"), sweep_modes(), sweep_ranks("ties_svd", 0.5)):
        for letter, (axis, values) in zip("XYZ", (sweep.x, sweep.y, sweep.z), strict=True):
            assert not axis or re.search(
                rf"^\| {letter} \|.*`\[Power Merger\] {axis}` \|.*`{re.escape(values)}`", page, re.M
            )
