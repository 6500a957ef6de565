"""The doubles behave as the real hosts were seen to: where they did not, the contract's tests would prove nothing.

Here: models, networks and prompts. test_doubles_hooks.py has the callbacks of a run, test_doubles_pages.py the rest.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.host.double import Double, running
from tests.host.lora_files import put, tensors
from tests.host.server import HIRES, ServerError, difference, same

pytest_plugins = ("tests.host.fixtures",)

PROMPT = "a red cat"
AFTER = "after_extra_networks_activate"


class TestImages:
    def test_unet_and_text_encoder_each_change_the_image(self, double: Double) -> None:
        plain = double.txt2img(PROMPT).image
        assert same(double.txt2img(PROMPT).image, plain)
        put(double, "unet_only", tensors(double, 1, part="lora_unet_"))
        put(double, "te_only", tensors(double, 1, part="lora_te_"))
        images = [
            plain,
            double.txt2img("a blue dog").image,
            double.txt2img(PROMPT, seed=6).image,
            double.txt2img(f"{PROMPT}<lora:unet_only:1>").image,
            double.txt2img(f"{PROMPT}<lora:te_only:1>").image,
        ]
        assert len({image.tobytes() for image in images}) == len(images)
        assert same(double.txt2img(f"{PROMPT}<lora:te_only:0:1>").image, plain)  # 1 is the UNet's, and it has none
        assert same(double.txt2img(f"{PROMPT}<lora:unet_only:1:0>").image, plain)

    def test_both_hosts_make_the_same_images_of_the_same_loras(self, tmp_path: Path) -> None:
        """What is told of one host in words of the other is then not a matter of the doubles."""
        images = []
        for kind in ("a1111", "forge"):
            with running(kind, tmp_path / kind, extensions={}) as double:
                put(double, "a", tensors(double, 1))
                images.append(double.txt2img(f"{PROMPT}<lora:a:0.5:-0.7>").image)
        assert difference(*images) <= 1

    def test_weights_come_back_to_the_bit(self, double: Double) -> None:
        put(double, "a", tensors(double, 1))
        plain = double.txt2img(PROMPT).image
        for prompt in ("<lora:a:1>", "<lora:a:0.5>", "<lora:a:0.5><lora:a:-2>"):
            double.txt2img(PROMPT + prompt)
        assert same(double.txt2img(PROMPT).image, plain)
        if double.kind == "forge":
            model = double.module("shared").sd_model.forge_objects.unet.model.diffusion_model
        else:
            model = double.module("shared").sd_model.model.diffusion_model
        built, _ = importlib.import_module("tiny_pipeline").build(double.checkpoints[0])
        assert all(
            torch.equal(mine, theirs) for mine, theirs in zip(model.parameters(), built.parameters(), strict=True)
        )

    def test_a_dense_difference_is_applied_too(self, double: Double) -> None:
        name = "lora_unet_mid_block_attentions_0_proj_in"
        shape = double.layers[name]
        diff = torch.randn(shape.out, shape.inner, *shape.kernel, generator=torch.Generator().manual_seed(0))
        put(double, "dense", {f"{name}.diff": diff})
        plain = double.txt2img(PROMPT).image
        whole, halves = double.txt2img(f"{PROMPT}<lora:dense:1>").image, f"{PROMPT}<lora:dense:0.5>"
        assert not same(whole, plain)
        assert not same(double.txt2img(halves).image, whole)

    def test_another_checkpoint_and_back(self, double: Double) -> None:
        put(double, "a", tensors(double, 1))
        first, second = double.checkpoints
        plain = double.txt2img(PROMPT).image
        double.txt2img(f"{PROMPT}<lora:a:1>")
        double.set_checkpoint(second)
        other = double.txt2img(PROMPT).image
        assert not same(other, plain)
        assert same(double.txt2img(PROMPT, override_settings={"sd_model_checkpoint": first}).image, plain)
        assert same(double.txt2img(PROMPT).image, other)
        double.set_checkpoint(first)
        assert same(double.txt2img(PROMPT).image, plain)


class TestActivation:
    def test_networks_are_loaded_in_every_batch_with_no_names_too(
        self, double: Double, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        networks, asked = importlib.import_module("networks"), []
        original = networks.load_networks
        monkeypatch.setattr(
            networks, "load_networks", lambda names, *rest: asked.append(names) or original(names, *rest)
        )
        put(double, "a", tensors(double, 1))
        double.txt2img(PROMPT, n_iter=2)
        double.txt2img(f"{PROMPT}<lora:a:1>", n_iter=2)
        assert asked == [[], [], ["a"], ["a"]]

    def test_hires_activates_again_with_its_own_tags(self, double: Double, hooks: dict[str, Any]) -> None:
        seen: list[list[str]] = []
        hooks[AFTER] = lambda p, *args, extra_network_data, **kwargs: seen.append(list(extra_network_data))
        double.txt2img("a<x:1>", hr_prompt="b<y:1>", **HIRES)
        assert seen == ([["x"], ["y"]] if double.kind == "a1111" else [["x"], ["y"], ["x"], ["y"]])

    def test_named_ones_first_in_the_prompts_order_then_the_others_with_nothing(self, double: Double) -> None:
        extra_networks, order = double.module("extra_networks"), []

        class Recorded(extra_networks.ExtraNetwork):
            def activate(self, p: Any, params_list: list[Any]) -> None:
                order.append((self.name, len(params_list)))

        for name in ("one", "two", "three"):
            extra_networks.register_extra_network(Recorded(name))
        double.txt2img("<three:1><one:1><three:2>")
        assert order == [("three", 2), ("one", 1), ("two", 0)]

    def test_a_missing_lora_on_forge_drops_all_of_the_prompt(self, double: Double) -> None:
        put(double, "a", tensors(double, 1))
        plain, alone = double.txt2img(PROMPT).image, double.txt2img(f"{PROMPT}<lora:a:1>").image
        both = double.txt2img(f"{PROMPT}<lora:a:1><lora:no_such:1>").image
        assert same(both, plain if double.kind == "forge" else alone)

    def test_no_number_as_strength_drops_all_of_the_prompt(self, double: Double) -> None:
        put(double, "a", tensors(double, 1))
        plain = double.txt2img(PROMPT).image
        assert same(double.txt2img(f"{PROMPT}<lora:a:1><lora:a:high>").image, plain)

    def test_arguments_are_text_positional_or_named(self, double: Double, hooks: dict[str, Any]) -> None:
        seen: list[Any] = []
        hooks[AFTER] = lambda p, *args, extra_network_data, **kwargs: seen.append(extra_network_data.get("pm"))
        double.txt2img("a<pm:ties_svd:density=0.5:rank=32>")
        double.txt2img("a")
        ((params,), none) = seen
        assert (params.positional, params.named) == (["ties_svd"], {"density": "0.5", "rank": "32"})
        assert none is None

    def test_only_the_first_prompt_of_a_batch_has_tags_and_the_negative_one_never(
        self, double: Double, hooks: dict[str, Any]
    ) -> None:
        seen: list[Any] = []
        hooks[AFTER] = lambda p, *args, extra_network_data, **kwargs: seen.append((p.prompts, list(extra_network_data)))
        double.txt2img(["a<x:1>", "b<y:1>"], batch_size=2, negative_prompt="c<z:1>")
        assert seen == [(["a", "b"], ["x"])]

    def test_infotext_is_of_the_prompt_as_written_and_unknown_tags_are_not_conditioned(self, double: Double) -> None:
        result = double.txt2img(f"{PROMPT}<unknown:1>", negative_prompt="n<z:1>")
        assert result.infotexts[0].startswith(f"{PROMPT}<unknown:1>\nNegative prompt: n<z:1>\nSteps: 2,")
        assert same(result.image, double.txt2img(PROMPT, negative_prompt="n<z:1>").image)

    def test_lora_hashes_are_the_hosts_own(self, double: Double) -> None:
        put(double, "a", tensors(double, 1), {"sshs_model_hash": "0123456789abcdef"})
        assert 'Lora hashes: "a: 0123456789ab"' in double.txt2img(f"{PROMPT}<lora:a:1>").infotexts[0]
        assert "Lora hashes" not in double.txt2img(PROMPT).infotexts[0]

    def test_aliases_and_subfolders_are_names(self, double: Double) -> None:
        put(double, "sub/inner", tensors(double, 1), {"ss_output_name": "known_as"})
        plain = double.txt2img(PROMPT).image
        by_name = double.txt2img(f"{PROMPT}<lora:inner:1>").image
        assert not same(by_name, plain)
        assert same(double.txt2img(f"{PROMPT}<lora:known_as:1>").image, by_name)

    def test_deactivation_needs_a_tag_and_no_exception(self, double: Double, hooks: dict[str, Any]) -> None:
        networks, calls = importlib.import_module("networks"), []
        networks.extra_network_lora.deactivate = calls.append
        double.txt2img("a")
        assert len(calls) == 0
        double.txt2img("a<x:1>")
        assert len(calls) == 1
        hooks["process_batch"] = lambda p, *args, **kwargs: setattr(p, "sample", None)
        with pytest.raises(ServerError, match="not callable"):
            double.txt2img("a<x:1>")
        assert len(calls) == 1
