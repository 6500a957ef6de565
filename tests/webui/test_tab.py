"""The tab in the WebUIs: registered, its controls found, LoRAs by the WebUI's names, new files known at once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.host.chosen import KINDS
from tests.host.double import Double, running
from tests.host.lora_files import put, tensors
from tests.host.server import same
from tests.messages import saying

PROMPT = "a red cat"


@pytest.fixture(params=KINDS)
def webui(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Double]:
    """With the extension, and nothing of it swallowed."""
    with running(request.param, tmp_path) as started:
        yield started
        assert started.swallowed() == []


def our_script(webui: Double) -> Any:
    (module,) = {data.module for data in webui.module("scripts").scripts_data if data.path.endswith("power_merger.py")}
    return module


def make_workspace(webui: Double, tmp_path: Path) -> Any:
    from lib_pm.webui.workspace import WebuiWorkspace  # of this double: it is imported anew for each

    return WebuiWorkspace(tmp_path / "extension")


class TestTab:
    def test_there_is_one_also_after_reload_ui(self, webui: Double) -> None:
        for _ in range(3):
            tabs = webui.module("shared").demo.tabs
            assert [tab[1:] for tab in tabs] == [("Power Merger", "power_merger")]
            webui.reload_ui()

    def test_it_finds_the_controls_of_the_page_that_is_there(self, webui: Double) -> None:
        for _ in range(2):
            demo, controls = webui.module("shared").demo, our_script(webui)._page_controls
            drawn = list(demo.blocks.values())
            assert len(controls) == 10
            for name, control in controls.items():
                assert control is next(block for block in drawn if block.elem_id == name)
            (tab,) = demo.tabs
            ids = {block.elem_id for block in tab[0].blocks.values()}
            assert {"pm_get_txt2img", "pm_insert_img2img", "pm_fill_strengths"} <= ids
            webui.reload_ui()

    def test_its_interface_is_added_when_the_webuis_own_is_there(self, webui: Double) -> None:
        assert ("POST", "/power-merger/v1/merge") in webui.module("shared").demo.app.routes
        webui.module("shared").cmd_opts.api = False
        webui.reload_ui()
        assert not [path for _, path in webui.module("shared").demo.app.routes if "power-merger" in path]

    def test_no_model_is_loaded_for_it(self, webui: Double, tmp_path: Path) -> None:
        """Neither for the tab nor when a file was written."""
        make_workspace(webui, tmp_path).announce(put(webui, "a", tensors(webui, 1)))
        assert not hasattr(webui.module("sd_models").model_data.sd_model, "sd_checkpoint_info")


class TestWorkspace:
    def test_names_titles_and_pictures(self, webui: Double, tmp_path: Path) -> None:
        put(webui, "style", tensors(webui, 1), {"ss_output_name": "Great Style"})
        put(webui, "sub/char", tensors(webui, 2), {"ss_output_name": "char"})
        (webui.lora_folder / "sub" / "char.preview.png").write_bytes(b"picture")
        workspace = make_workspace(webui, tmp_path)
        workspace.announce(webui.lora_folder / "style.safetensors")
        style, char = workspace.loras()
        assert (style.name, style.folder, style.title, style.thumb) == ("style", "", "Great Style", "")
        assert (char.name, char.folder, char.title) == ("char", "sub", "")
        assert char.thumb.startswith("./sd_extra_networks/thumb?filename=")
        assert "sub/char.preview.png&mtime=" in char.thumb
        assert workspace.folder == Path(webui.module("shared").cmd_opts.lora_dir)
        for name in ("style", "Great Style"):
            assert workspace.find(name) == webui.lora_folder / "style.safetensors"
        for name in ("char", "sub/char"):
            assert workspace.find(name) == webui.lora_folder / "sub" / "char.safetensors"

    def test_a_file_is_listed_before_the_webui_knows_it(self, webui: Double, tmp_path: Path) -> None:
        workspace = make_workspace(webui, tmp_path)
        put(webui, "new", tensors(webui, 1))
        assert [lora.name for lora in workspace.loras()] == ["new"]
        assert workspace.find("new") == webui.lora_folder / "new.safetensors"

    def test_loras_of_the_webuis_other_folders(self, webui: Double, tmp_path: Path) -> None:
        """A1111 has that of its old LyCORIS extension, Forge Neo those of `--lora-dirs`; Forge has none."""
        flags, other = webui.module("shared").cmd_opts, tmp_path / "elsewhere" / "LyCORIS"
        flags.lyco_dir_backcompat = str(other)  # Forge has the flag too, but does not look there
        flags.lora_dirs = [str(other)]
        put(webui, "a", tensors(webui, 1))
        for name in ("a", "sub/b"):
            put(webui, f"../../elsewhere/LyCORIS/{name}", tensors(webui, 2))
        workspace = make_workspace(webui, tmp_path)
        workspace.announce(webui.lora_folder / "a.safetensors")
        assert [(lora.name, lora.folder) for lora in workspace.loras()] == [
            ("./a", ""),
            ("LyCORIS/a", "LyCORIS"),
            ("b", "LyCORIS/sub"),
        ]
        assert workspace.find("LyCORIS/a") == other / "a.safetensors"
        assert workspace.find("./a") == webui.lora_folder / "a.safetensors"
        assert workspace.find("b") == other / "sub" / "b.safetensors"
        in_prompt = webui_networks().available_networks["a"].filename  # the WebUI takes the one that it reads last
        assert workspace.name_of(workspace.find("a")) == workspace.name_of(Path(in_prompt)) == "LyCORIS/a"
        assert workspace.public(f"{other / 'a.safetensors'} is damaged") == "a.safetensors is damaged"
        merged, alone = (webui.txt2img(f"{PROMPT}{tag}").image for tag in ("<lora:b:1><pm:concat>", ""))
        assert not same(merged, alone)
        if webui.kind == "forge":
            flags.lora_dirs = []
            assert [lora.name for lora in workspace.loras()] == ["a"]

    def test_an_unknown_name_opens_no_file(
        self, webui: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The WebUI has read the aliases; a file that it has not seen yet is found by its own name."""
        workspace = make_workspace(webui, tmp_path)
        workspace.announce(put(webui, "v2", tensors(webui, 1), {"ss_output_name": "alias"}))
        put(webui, "new", tensors(webui, 1), {"ss_output_name": "newer"})
        monkeypatch.setattr("lib_pm.files.aliases.safe_open", lambda *_, **__: pytest.fail("a file was opened"))
        assert (workspace.find("alias").stem, workspace.find("new").stem) == ("v2", "new")
        for name in ("newer", "alia", "nothing like it"):
            with pytest.raises(ValueError, match=saying(f"LoRA '{name}'")):
                workspace.find(name)

    def test_its_turn_is_the_webuis_on_a_gpu_only(
        self, webui: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        workspace, lock = make_workspace(webui, tmp_path), webui.module("call_queue").queue_lock
        with workspace.turn("cpu"):
            assert not lock.locked()
        monkeypatch.setattr("lib_pm.webui.workspace.choose_device", lambda device: torch.device("cuda"))
        with workspace.turn("auto"):
            assert lock.locked()
        assert not lock.locked()

    def test_recipes_are_in_the_extensions_own_folder(self, webui: Double, tmp_path: Path) -> None:
        from lib_pm.workspace.draft import Draft

        make_workspace(webui, tmp_path).recipes.save("mine", Draft("<lora:a:1>"))
        assert (tmp_path / "extension" / "data" / "recipes" / "mine.json").is_file()


class TestAnnounced:
    """What a merge has written acts at the next image."""

    def test_a_new_file_is_known_at_once(self, webui: Double, tmp_path: Path) -> None:
        workspace = make_workspace(webui, tmp_path)
        put(webui, "sub/new", tensors(webui, 1), {"ss_output_name": "Brand New"})
        workspace.announce(webui.lora_folder / "sub" / "new.safetensors")
        assert "new" in webui_networks().available_networks
        plain = webui.txt2img(PROMPT).image
        by_name = webui.txt2img(f"{PROMPT}<lora:new:1>").image
        assert not same(by_name, plain)
        assert same(webui.txt2img(f"{PROMPT}<lora:Brand New:1>").image, by_name)

    @pytest.mark.parametrize("part", ["", "lora_unet", "lora_te"])
    def test_a_file_that_was_written_over_acts_anew(self, webui: Double, tmp_path: Path, part: str) -> None:
        workspace = make_workspace(webui, tmp_path)
        put(webui, "fresh", tensors(webui, 2, part=part))
        expected = webui.txt2img(f"{PROMPT}<lora:fresh:1>").image
        plain = webui.txt2img(PROMPT).image
        path = put(webui, "a", tensors(webui, 1, part=part))
        before = webui.txt2img(f"{PROMPT}<lora:a:1>").image
        assert not same(before, expected)
        put(webui, "a", tensors(webui, 2, part=part))
        later = time.time() + 5
        os.utime(path, (later, later))
        workspace.announce(path)
        assert same(webui.txt2img(f"{PROMPT}<lora:a:1>").image, expected)
        assert same(webui.txt2img(PROMPT).image, plain)


def webui_networks() -> Any:
    import networks

    return networks
