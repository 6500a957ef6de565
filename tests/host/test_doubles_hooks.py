"""The callbacks of a run: the way to apply a LoRA from memory that is right, and each of the known wrong ones."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from copy import copy
from typing import Any

import pytest
from torch import Tensor

from tests.host import in_memory
from tests.host.double import Double
from tests.host.lora_files import put, tensors
from tests.host.server import HIRES, ServerError, same

pytest_plugins = ("tests.host.fixtures",)

PROMPT = "a red cat"
AFTER = "after_extra_networks_activate"


def replaces(double: Double, content: dict[str, Tensor], name: str, *, key: str = "") -> Callable[..., None]:
    """The right hook: the LoRA from memory, and its key where the cond cache sees it (if there is one)."""

    def hook(p: Any, *args: Any, extra_network_data: Any, **kwargs: Any) -> None:
        in_memory.use(double.kind, content, name)
        if key:
            in_memory.set_key(extra_network_data, key)

    return hook


def test_right_hook_equals_the_file_and_leaves_no_trace(double: Double, hooks: dict[str, Any]) -> None:
    content = tensors(double, 1)
    put(double, "a", content)
    put(double, "other", tensors(double, 2))
    plain = double.txt2img(PROMPT).image
    for payload in ({}, HIRES, {"batch_size": 2, "n_iter": 2}):
        expected = double.txt2img(f"{PROMPT}<lora:a:1>", **payload).images
        hooks[AFTER] = replaces(double, content, "memory 1", key="1")
        got = double.txt2img(f"{PROMPT}<lora:other:0.3>", **payload).images
        hooks.clear()
        assert all(same(*pair) for pair in zip(got, expected, strict=True))
        assert same(double.txt2img(PROMPT).image, plain)


def test_same_name_with_other_content_keeps_the_old_weights(double: Double, hooks: dict[str, Any]) -> None:
    hooks[AFTER] = replaces(double, tensors(double, 1), "same name", key="1")
    first = double.txt2img(PROMPT).image
    hooks[AFTER] = replaces(double, tensors(double, 2), "same name", key="1")
    assert same(double.txt2img(PROMPT).image, first)
    hooks[AFTER] = replaces(double, tensors(double, 2), "another name", key="2")
    assert not same(double.txt2img(PROMPT).image, first)


def test_without_a_key_old_conds_are_used_and_wrong_ones_kept(double: Double, hooks: dict[str, Any]) -> None:
    content = tensors(double, 1, part="lora_te_")
    put(double, "a", content)
    plain = double.txt2img(PROMPT).image
    expected = double.txt2img(f"{PROMPT}<lora:a:1>").image
    assert same(double.txt2img(PROMPT).image, plain)  # the cache now holds the conds of PROMPT
    hooks[AFTER] = replaces(double, content, "memory")
    assert same(double.txt2img(PROMPT).image, plain)  # the text encoder was patched, and nobody asked it
    double.txt2img("other", negative_prompt="other")
    assert same(double.txt2img(PROMPT).image, expected)  # now it was asked
    hooks.clear()
    assert same(double.txt2img(PROMPT).image, expected)  # and what it said is kept for the next request


def test_conds_are_kept_across_requests_by_prompt_and_tags(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, asked = importlib.import_module("tiny_pipeline").TextEncoder, []
    original = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda self, prompts: asked.append(prompts[0]) or original(self, prompts))
    for prompt in ("a", "a", "a<x:1>", "a<x:2>", "a<x:2>", "a"):
        double.txt2img(prompt, negative_prompt="n")
    assert asked == ["n", "a"] * 4


def test_a_callbacks_exception_is_swallowed(double: Double, hooks: dict[str, Any]) -> None:
    def fails(p: Any, *args: Any, **kwargs: Any) -> None:
        raise ValueError("a message that nobody sees")

    plain = double.txt2img(PROMPT)
    for callback in (AFTER, "process", "process_batch", "process_before_every_sampling", "postprocess"):
        hooks.clear()
        hooks[callback] = fails
        result = double.txt2img(PROMPT)
        assert same(result.image, plain.image)
        assert (result.infotexts, result.comments) == (plain.infotexts, "")
    assert len(double.swallowed()) == 5
    assert "a message that nobody sees" in double.swallowed()[0]


@pytest.mark.parametrize("step", ["setup_conds", "sample", "sample_hr_pass", "calculate_hr_conds"])
def test_a_step_replaced_on_the_instance_stops_with_a_message(double: Double, hooks: dict[str, Any], step: str) -> None:
    def stop(*args: Any, **kwargs: Any) -> None:
        raise ValueError("why it was stopped")

    plain = double.txt2img(PROMPT, **HIRES).images[0]
    hooks[AFTER] = lambda p, *args, **kwargs: setattr(p, step, stop)
    with pytest.raises(ServerError, match="why it was stopped"):
        double.txt2img(PROMPT, **HIRES)
    hooks.clear()
    assert same(double.txt2img(PROMPT, **HIRES).images[0], plain)


def test_interrupt_gives_an_unfinished_image_without_a_word(double: Double, hooks: dict[str, Any]) -> None:
    state = double.module("shared").state
    plain = double.txt2img(PROMPT, n_iter=2).images
    hooks[AFTER] = lambda p, *args, **kwargs: (state.interrupt(), p.comment("interrupted"))
    result = double.txt2img(PROMPT, n_iter=2)
    assert len(result.images) == 1
    assert not same(result.images[0], plain[0])
    hooks.clear()
    assert same(double.txt2img(PROMPT, n_iter=2).images[1], plain[1])


def test_process_batch_is_too_late_for_hires_on_a1111_and_without_effect_on_forge(
    double: Double, hooks: dict[str, Any]
) -> None:
    content = tensors(double, 1, part="lora_unet_")
    put(double, "a", content)
    plain, stacked = (double.txt2img(PROMPT + tag, **HIRES).images[0] for tag in ("", "<lora:a:1>"))
    hooks["process_batch"] = lambda p, *args, **kwargs: _patch_in_use(double, content)
    got = double.txt2img(PROMPT, **HIRES).images[0]
    if double.kind == "forge":
        assert same(got, plain)
    else:
        assert not same(got, plain)
        assert not same(got, stacked)


@pytest.mark.parametrize("double", ["forge"], indirect=True)
def test_forge_before_every_sampling_reaches_the_unet_only(double: Double, hooks: dict[str, Any]) -> None:
    content = tensors(double, 1)
    put(double, "a", content)
    hooks["process_before_every_sampling"] = lambda p, *args, **kwargs: _patch_in_use(double, content)
    got = double.txt2img(PROMPT).image
    hooks.clear()
    assert same(got, double.txt2img(f"{PROMPT}<lora:a:0:1>").image)
    assert not same(got, double.txt2img(f"{PROMPT}<lora:a:1>").image)


def test_a_shallow_copy_of_p_shares_its_parameters(double: Double, hooks: dict[str, Any]) -> None:
    processing = double.module("processing")
    hooks[AFTER] = lambda p, *args, **kwargs: p.extra_generation_params.update(probe=p.prompt)
    p = processing.StableDiffusionProcessingTxt2Img(prompt="first", width=64, height=64, steps=1, seed=1)
    p.scripts, p.script_args = double.module("scripts").scripts_txt2img, (0, 0, 0)
    cell = copy(p)
    processing.process_images(cell)
    hooks.clear()
    assert "probe: first" in processing.process_images(p).infotexts[0]  # the other cell's


def test_without_scripts_no_callback_is_called(double: Double) -> None:
    processing, probe = double.module("processing"), double.probe
    before = probe.CALLS.copy()
    p = processing.StableDiffusionProcessingTxt2Img(prompt="a<x:1>", width=64, height=64, steps=1, seed=1)
    assert len(processing.process_images(p).images) == 1
    assert before == probe.CALLS


def _patch_in_use(double: Double, content: dict[str, Tensor]) -> None:
    """Into what is in use at this moment, as one would at first think right."""
    if double.kind == "a1111":
        in_memory.use("a1111", content, "memory")
        return
    objects = double.module("shared").sd_model.forge_objects
    load = importlib.import_module("networks").load_lora_for_models
    objects.unet, objects.clip = load(objects.unet, objects.clip, content, 1.0, 1.0, filename="memory")


@pytest.mark.parametrize("double", ["forge"], indirect=True)
def test_forge_leaks_without_a_hash_of_our_own(double: Double, hooks: dict[str, Any]) -> None:
    content = tensors(double, 1)
    plain = double.txt2img(PROMPT).image
    hooks[AFTER] = lambda p, *args, **kwargs: in_memory.use_on_forge_without_reset(content, "memory")
    patched = double.txt2img(PROMPT).image
    assert not same(patched, plain)
    hooks.clear()
    assert same(double.txt2img(PROMPT).image, patched)  # a plain prompt


def test_activating_as_an_extra_network_of_ones_own_is_undone(double: Double) -> None:
    content, extra_networks = tensors(double, 1), double.module("extra_networks")

    class Merge(extra_networks.ExtraNetwork):
        def activate(self, p: Any, params_list: list[Any]) -> None:
            if params_list:
                in_memory.use(double.kind, content, "memory")

        def deactivate(self, p: Any) -> None:
            pass

    extra_networks.register_extra_network(Merge("merge"))
    plain = double.txt2img(PROMPT).image
    assert same(double.txt2img(f"{PROMPT}<merge:1>").image, plain)  # `lora` is activated after it, with nothing
