"""Scripts and pages of the doubles: loading, Reload UI, controls, infotext, and what is refused without a word."""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.host.chosen import KINDS
from tests.host.double import Double, running
from tests.host.lora_files import put, tensors
from tests.host.plotting import make_plot
from tests.host.server import HIRES, ServerError, same

pytest_plugins = ("tests.host.fixtures",)

PROMPT = "a red cat"


def probe_scripts(double: Double) -> list[Any]:
    return [data for data in double.module("scripts").scripts_data if data.path.endswith("probe.py")]


class TestScripts:
    def test_a_script_is_loaded_by_path_with_its_extensions_folder_on_the_search_path(self, double: Double) -> None:
        (data,) = probe_scripts(double)
        assert data.module.BASEDIR == data.basedir == str(Path(data.path).parents[1])
        assert data.module.WAS_ON_PATH
        assert data.basedir not in sys.path
        assert data.module not in sys.modules.values()
        assert double.module("scripts").basedir() != data.basedir

    def test_each_tab_has_an_instance_of_its_own(self, double: Double) -> None:
        scripts = double.module("scripts")
        (first,), (second,) = (
            [script for script in runner.scripts if script.title() == "Probe"]
            for runner in (scripts.scripts_txt2img, scripts.scripts_img2img)
        )
        assert first is not second
        assert (first.is_txt2img, second.is_txt2img, second.tabname) == (True, False, "img2img")

    def test_ui_is_called_for_the_page_and_twice_more_by_the_api(self, double: Double) -> None:
        assert double.probe.CALLS["ui"] == 2 * 3

    def test_reload_ui_executes_scripts_anew_and_keeps_what_they_imported(self, double: Double) -> None:
        (before,), probe = probe_scripts(double), double.probe
        double.reload_ui()
        (after,) = probe_scripts(double)
        assert after.module is not before.module
        assert after.script_class is not before.script_class
        assert double.probe is probe
        assert (probe.CALLS["before_ui"], probe.CALLS["script_unloaded"]) == (2, 1)
        double.reload_ui()
        assert (probe.CALLS["before_ui"], probe.CALLS["script_unloaded"]) == (3, 2)  # the old ones are forgotten

    def test_reload_ui_forgets_extra_networks_and_keeps_settings(self, double: Double) -> None:
        extra_networks, shared = double.module("extra_networks"), double.module("shared")
        shared.opts.add_option("probe_setting", shared.OptionInfo(3, "Probe"))
        shared.opts.set("probe_setting", 4)
        extra_networks.register_extra_network(extra_networks.ExtraNetwork("mine"))
        double.reload_ui()
        assert list(extra_networks.extra_network_registry) == ["lora"]
        assert shared.opts.probe_setting == 4

    def test_imported_script_classes_are_registered_once_more(self, double: Double, tmp_path: Path) -> None:
        folder = tmp_path / "extensions" / "copycat" / "scripts"
        folder.mkdir(parents=True)
        (folder / "mine.py").write_text("from modules.scripts import Script\nclass Mine(Script):\n    pass\n")
        double.restart()
        found = [
            data.script_class.__name__
            for data in double.module("scripts").scripts_data
            if Path(data.path).is_relative_to(folder)
        ]
        assert found == ["Script", "Mine"]

    @pytest.mark.parametrize("order", ["", "After", "Before"])
    def test_callbacks_are_called_by_name_of_extension_unless_metadata_says_otherwise(
        self, double: Double, hooks: dict[str, Any], tmp_path: Path, order: str
    ) -> None:
        folder = tmp_path / "extensions" / "another"
        (folder / "scripts").mkdir(parents=True)
        (folder / "scripts" / "other.py").write_text(
            "import probe_hooks\nfrom modules import scripts\n"
            "class Other(scripts.Script):\n"
            "    def title(self):\n        return 'Other'\n"
            "    def show(self, is_img2img):\n        return scripts.AlwaysVisible\n"
            "    def process(self, p, *args):\n        probe_hooks.call('other')\n"
        )
        if order:
            (folder / "metadata.ini").write_text(
                f"[callbacks/another/other.py/script_process/Other]\n{order} = probe/probe.py/script_process/Probe\n"
            )
        double.restart()
        called: list[str] = []
        hooks["other"] = lambda: called.append("other")
        hooks["process"] = lambda p, *args: called.append("probe")
        double.txt2img(PROMPT)
        assert called == (["probe", "other"] if order == "After" else ["other", "probe"])

    @pytest.mark.parametrize("order", ["", "After", "Before"])
    def test_scripts_are_loaded_by_name_of_extension_unless_metadata_says_otherwise(
        self, double: Double, tmp_path: Path, order: str
    ) -> None:
        folder = tmp_path / "extensions" / "another"
        (folder / "scripts").mkdir(parents=True)
        (folder / "scripts" / "other.py").write_text(
            "from modules import scripts\nclass Other(scripts.Script):\n    pass\n"
        )
        (folder / "metadata.ini").write_text(f"[scripts]\n{order} = probe\n" if order else "")
        double.restart()
        names = [data.script_class.__name__ for data in double.module("scripts").scripts_data]
        loaded = [name for name in names if name in ("Probe", "Other")]  # the host has scripts of its own
        assert loaded == (["Probe", "Other"] if order == "After" else ["Other", "Probe"])

    def test_there_is_no_model_on_forge_before_the_first_image(self, double: Double) -> None:
        model = double.module("shared").sd_model
        assert hasattr(model, "sd_checkpoint_info") == (double.kind == "a1111")
        double.txt2img(PROMPT)
        assert hasattr(double.module("shared").sd_model, "sd_checkpoint_info")

    @pytest.mark.parametrize("kind", KINDS)
    def test_nothing_of_it_can_be_imported_afterwards(self, kind: Any, tmp_path: Path) -> None:
        before, searched = set(sys.modules), list(sys.path)
        with running(kind, tmp_path, extensions={}):
            import modules.shared

            assert modules.shared.cmd_opts.lora_dir.startswith(str(tmp_path))
        assert sys.path == searched
        assert {name for name in set(sys.modules) - before if name.split(".")[0] in ("modules", "networks")} == set()
        with pytest.raises(ImportError):
            importlib.import_module("modules.shared")


class TestControls:
    def test_always_on_arguments_reach_the_script(self, double: Double, hooks: dict[str, Any]) -> None:
        seen: list[Any] = []
        hooks["process"] = lambda p, *args: seen.append(args)
        double.txt2img(PROMPT)
        double.txt2img(PROMPT, alwayson_scripts={"probe": {"args": [7]}})
        double.img2img(PROMPT, double.txt2img(PROMPT).image, alwayson_scripts={"Probe": {"args": [8, True, "more"]}})
        assert seen == [(3, False), (7, False), (3, False), (8, True)]
        with pytest.raises(ServerError, match="Prob"):
            double.txt2img(PROMPT, alwayson_scripts={"Prob": {"args": []}})

    def test_infotext_comes_back_into_the_controls(self, double: Double, hooks: dict[str, Any]) -> None:
        hooks["process"] = lambda p, amount, is_on: p.extra_generation_params.update({"Probe amount": f"{amount}"})
        infotext = double.txt2img("a, b: c", alwayson_scripts={"probe": {"args": [7]}}).infotexts[0]
        assert double.paste(infotext) == {"Prompt": "a, b: c", "Amount": 7, "On": True}
        seen: list[Any] = []
        hooks["process"] = lambda p, *args: seen.append(args)
        double.txt2img(PROMPT, infotext=infotext)
        assert seen == [(7, True)]
        plain = double.txt2img(PROMPT).infotexts[0]
        assert double.paste(plain) == {"Prompt": PROMPT, "On": False}

    def test_values_with_commas_and_colons_are_quoted(self, double: Double) -> None:
        utils = double.module("infotext_utils")
        text = f"a\nSteps: 2, Seed: 1, CFG scale: 5, Key: {utils.quote('x: 1, y: 2')}, Other: z"
        assert utils.parse_generation_parameters(text)["Key"] == "x: 1, y: 2"

    def test_the_accordion_is_only_to_be_used_with_with(self, double: Double) -> None:
        ui_components = double.module("ui_components")
        with ui_components.InputAccordion(False, label="Mine", elem_id="mine") as is_on:
            pass
        assert is_on.value is False
        assert isinstance(ui_components.InputAccordion, type) == (double.kind == "a1111")


class TestStops:
    """What an image or a plot can be stopped by, and where the host goes on."""

    def test_a_batch_whose_prompts_a_script_takes_away_is_the_last_and_no_error(
        self, double: Double, hooks: dict[str, Any]
    ) -> None:
        hooks["before_process_batch"] = lambda p, *args, batch_number, prompts, **kwargs: (
            prompts.clear() if batch_number else None
        )
        result = double.txt2img(PROMPT, n_iter=3)
        assert len(result.images) == 1
        assert double.swallowed() == []

    def test_a_plot_copies_the_parameters_of_its_first_cell_even_if_that_failed(
        self, double: Double, hooks: dict[str, Any]
    ) -> None:
        class Fails(dict[str, Any]):
            def __copy__(self) -> Any:
                raise RuntimeError("copied")

        def process(p: Any, *args: Any) -> None:
            def fail(*args: Any, **kwargs: Any) -> None:
                raise RuntimeError("in the cell")

            if p.steps in failing:
                p.setup_conds, p.extra_generation_params = fail, Fails()

        hooks["process"] = process
        failing = {1}
        with pytest.raises(ServerError, match="copied"):
            make_plot(double, PROMPT, ("Steps", "1, 2"))
        failing = {2}
        first, second = make_plot(double, PROMPT, ("Steps", "1, 2")).cells
        assert first.any()
        assert not second.any()
        assert all("in the cell" in trace for trace in double.swallowed())


class TestSilence:
    def test_more_than_twelve_unmatched_tensors_and_forge_skips_the_lora(self, double: Double) -> None:
        content = tensors(double, 1)
        plain = double.txt2img(PROMPT).image
        for name, unmatched in (("some", 12), ("many", 13)):
            strange = {f"lora_unet_of_no_model_{index}.alpha": torch.tensor(1.0) for index in range(unmatched)}
            put(double, name, content | strange)
        some, many = (double.txt2img(f"{PROMPT}<lora:{name}:1>") for name in ("some", "many"))
        assert not same(some.image, plain)
        assert same(many.image, plain if double.kind == "forge" else some.image)
        assert many.comments == ""

    @pytest.mark.parametrize("double", ["forge"], indirect=True)
    def test_skipping_returns_the_very_objects_that_were_given(self, double: Double) -> None:
        double.txt2img(PROMPT)
        objects = double.module("shared").sd_model.forge_objects_original
        load = importlib.import_module("networks").load_lora_for_models
        strange = {f"of_no_model_{index}.alpha": torch.tensor(1.0) for index in range(13)}
        assert load(objects.unet, objects.clip, strange, 1.0, 1.0) == (objects.unet, objects.clip)
        assert load(objects.unet, objects.clip, tensors(double, 1), 1.0, 1.0)[0] is not objects.unet

    def test_a_narrower_layer_is_a_comment_on_a1111_and_filled_up_by_forge(self, double: Double) -> None:
        name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_v"
        shape = double.layers[name]
        narrow = {
            f"{name}.lora_up.weight": torch.ones(shape.out, 1),
            f"{name}.lora_down.weight": torch.ones(1, shape.inner - 1),
        }
        put(double, "narrow", narrow)
        plain, result = double.txt2img(PROMPT), double.txt2img(f"{PROMPT}<lora:narrow:1>")
        if double.kind == "a1111":
            assert "Networks with errors: narrow (" in result.comments
            assert same(result.image, plain.image)
        else:
            assert result.comments == ""
            assert not same(result.image, plain.image)

    def test_a_file_saved_over_is_used_by_a1111_after_another_prompt_and_never_by_forge(self, double: Double) -> None:
        path = put(double, "a", tensors(double, 1))
        before = double.txt2img(f"{PROMPT}<lora:a:1>").image
        put(double, "a", tensors(double, 2))
        later = time.time() + 5
        os.utime(path, (later, later))
        assert same(double.txt2img(f"{PROMPT}<lora:a:1>").image, before)  # A1111 reads it, but re-applies by name only
        double.txt2img(PROMPT)
        assert same(double.txt2img(f"{PROMPT}<lora:a:1>").image, before) == (double.kind == "forge")

    def test_a_new_file_is_found_by_its_name(self, double: Double) -> None:
        plain = double.txt2img(PROMPT).image
        put(double, "new", tensors(double, 1))
        assert not same(double.txt2img(f"{PROMPT}<lora:new:1>").image, plain)

    def test_hires_over_forges_api_needs_the_choice_of_modules(self, double: Double) -> None:
        if double.kind == "a1111":
            assert double.txt2img(PROMPT, hr_additional_modules=None, **HIRES).images
        else:
            with pytest.raises(ServerError, match="NoneType"):
                double.txt2img(PROMPT, hr_additional_modules=None, **HIRES)
