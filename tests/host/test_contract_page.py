"""What a WebUI says of a live merge: infotext, the accordion's arguments, comments, refusals. See test_contract.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.host.chosen import by_double_only
from tests.host.double import Double
from tests.host.lora_files import PREFIX, put, tensors
from tests.host.merging import PLAIN, TIES, A, B, drawn_first, make_ab
from tests.host.server import HIRES, Result, Server, ServerError, difference, same
from tests.layouts import sdxl
from tests.loras import make_lora

pytest_plugins = ("tests.host.fixtures",)

STACK = f"<lora:{A}:0.8><lora:{B}:0.6>"
KEY = "Power Merger: "


@pytest.fixture(autouse=True)
def loras(server: Server) -> None:
    make_ab(server)


def arguments(*values: Any) -> dict[str, Any]:
    return {"alwayson_scripts": {"Power Merger": {"args": list(values)}}}


def without_key(infotext: str) -> str:
    """The infotext without our own key's value, which is quoted if it has a comma or a colon."""
    start, _, rest = infotext.partition(f", {KEY}")
    value = rest.partition('"' if rest.startswith('"') else ",")
    end = rest[1:].partition('"')[2] if rest.startswith('"') else value[1] + value[2]
    return start + end


class TestAccordion:
    def test_its_arguments_over_the_api_equal_the_tag(self, server: Server) -> None:
        tagged = server.txt2img(f"{PLAIN}{STACK}{TIES}")
        given = server.txt2img(PLAIN + STACK, **arguments(True, "ties_svd:density=0.5:rank=4"))
        assert same(given.image, tagged.image)
        assert not same(given.image, server.txt2img(PLAIN + STACK).image)

    def test_prompts_are_encoded_anew_when_it_changes(self, server: Server) -> None:
        """The prompt with its tags stays the same, which is what the host keeps the text encoder's word by."""
        for name, seed in (("one", 3), ("two", 4)):
            put(server, f"{PREFIX}{name}", tensors(server, seed, part="lora_te_"))
        prompt = f"{PLAIN}<lora:{PREFIX}one:0.8><lora:{PREFIX}two:0.6>"
        modes = "ties_svd:density=0.5:rank=4", "dare_ties_svd:density=0.5:rank=4:seed=7"
        tagged = [server.txt2img(f"{prompt}<pm:{mode}>").image for mode in modes]
        stacked = server.txt2img(prompt).image
        assert len({image.tobytes() for image in (*tagged, stacked)}) == 3
        for mode, image in zip(modes, tagged, strict=True):
            assert same(server.txt2img(prompt, **arguments(True, mode)).image, image)
        assert same(server.txt2img(prompt).image, stacked)

    def test_a_mode_alone_has_its_defaults(self, server: Server) -> None:
        given = server.txt2img(PLAIN + STACK, **arguments(True, "add_svd"))
        assert same(given.image, server.txt2img(f"{PLAIN}{STACK}<pm:add_svd>").image)

    def test_in_img2img_too(self, server: Server) -> None:
        image = server.txt2img("a green field").image
        given = server.img2img(PLAIN + STACK, image, **arguments(True, "ties_svd:density=0.5:rank=4"))
        assert same(given.image, server.img2img(f"{PLAIN}{STACK}{TIES}", image).image)

    def test_a_tag_wins_over_it(self, server: Server) -> None:
        tagged = server.txt2img(f"{PLAIN}{STACK}{TIES}")
        both = server.txt2img(f"{PLAIN}{STACK}{TIES}", **arguments(True, "concat"))
        assert same(both.image, tagged.image)
        assert both.infotexts == tagged.infotexts

    @pytest.mark.parametrize("payload", [{}, HIRES], ids=["txt2img", "hires"])
    def test_off_changes_neither_image_nor_infotext(self, server: Server, payload: dict[str, Any]) -> None:
        before = server.txt2img(PLAIN + STACK, **payload)
        server.txt2img(f"{PLAIN}{STACK}{TIES}", **payload)
        for off in ({}, arguments(False, "ties_svd")):
            again = server.txt2img(PLAIN + STACK, **payload, **off)
            assert same(again.images[0], before.images[0])
            assert (again.infotexts, again.comments) == (before.infotexts, before.comments)
        assert KEY not in before.infotexts[0]

    @pytest.mark.parametrize(
        ("args", "texts"),
        [
            (["yes", "concat"], ("first", "'yes'", "true", "false")),
            (["false"], ("first", "'false'", "true or false")),
            ([{}], ("first", "{}", "true", "false")),
            ([True, {"a": 1}], ("second", "{'a': 1}", "mode")),
            ([True, ["concat"]], ("second", "['concat']", "mode")),
            ([True, 5], ("second", "5", "mode")),
            ([True, None], ("''", "concat")),
            ([True, "ties_svd", {"density": 0.5}], ("density", "{'density': 0.5}", "0", "1")),
        ],
        ids=str,
    )
    def test_arguments_of_another_kind_are_refused(
        self, server: Server, args: list[Any], texts: tuple[str, ...]
    ) -> None:
        refused(server, PLAIN + STACK, *texts, **arguments(*args))

    def test_a_bad_argument_is_refused_as_in_a_tag(self, server: Server) -> None:
        with pytest.raises(ServerError, match="ties_svdd"):
            server.txt2img(PLAIN + STACK, **arguments(True, "ties_svdd"))


class TestInfotext:
    def test_key_tags_and_hashes(self, server: Server) -> None:
        merged, stacked = (server.txt2img(f"{PLAIN}{STACK}{tag}").infotexts[0] for tag in (TIES, ""))
        assert f"{PLAIN}{STACK}{TIES}\n" in merged
        assert "density=0.5" in merged.partition(KEY)[2]
        assert "ties_svd" in merged.partition(KEY)[2]
        assert without_key(merged).replace(TIES, "") == stacked  # so the hashes of the LoRAs are the host's own

    @pytest.mark.parametrize("payload", [HIRES, {"batch_size": 2, "n_iter": 2}], ids=["hires", "batches"])
    def test_in_every_image(self, server: Server, payload: dict[str, Any]) -> None:
        result = server.txt2img(f"{PLAIN}{STACK}{TIES}", **payload)
        assert len(result.infotexts) == len(result.images)
        assert all(text.count(KEY) == 1 for text in result.infotexts)

    def test_of_two_passes(self, server: Server) -> None:
        """One text for both passes if they have one merge, else what each has."""
        other, ties = "<pm:add_svd:rank=4>", "ties_svd:density=0.5:svd_rank=4:lambda=1"
        added = "add_svd:svd_rank=4:lambda=1"
        for first, second, expected in (
            (TIES, TIES, ties),
            ("", other, f"off; hires: {added}"),
            (TIES, other, f"{ties}; hires: {added}"),
            (TIES, "", f"{ties}; hires: off"),
        ):
            stack = f"{PLAIN}{STACK}"
            text = server.txt2img(stack + first, hr_prompt=stack + second, **HIRES).infotexts[0]
            assert f'{KEY}"{expected}"' in text

    @by_double_only
    def test_of_the_hires_pass_alone_leaves_the_accordion_off(self, server: Server) -> None:
        assert isinstance(server, Double)
        hires = server.txt2img(PLAIN + STACK, hr_prompt=f"{PLAIN}{STACK}{TIES}", **HIRES)
        assert server.paste(hires.infotexts[0])["Power Merger"] is False
        both = server.txt2img(
            PLAIN + STACK, hr_prompt=f"{PLAIN}{STACK}{TIES}", **HIRES, **arguments(True, "dare_ties_svd:seed=9")
        )
        pasted = server.paste(both.infotexts[0])
        assert (pasted["Power Merger"], pasted["Mode"], pasted["Seed"]) == (True, "dare_ties_svd", 9)

    def test_only_when_applied(self, server: Server) -> None:
        for prompt in (PLAIN, PLAIN + STACK, PLAIN + TIES):
            assert KEY not in server.txt2img(prompt).infotexts[0]

    @pytest.mark.parametrize("prompt", [f"{PLAIN}{STACK}{TIES}", PLAIN + STACK], ids=["tag", "accordion"])
    def test_makes_the_same_image_again(self, server: Server, prompt: str) -> None:
        """As "Send to txt2img" does; through the API with its own field for it."""
        if server.kind == "forge" and not isinstance(server, Double):
            pytest.skip("Forge's API answers 500 to any infotext: it compares a value with list[str] by isinstance")
        payload = {} if TIES in prompt else arguments(True, "ties_svd:density=0.5:rank=4")
        first = server.txt2img(prompt, **payload)
        again = server.txt2img(prompt, infotext=first.infotexts[0])
        assert same(again.image, first.image)
        assert again.infotexts == first.infotexts

    @by_double_only
    def test_sets_the_accordions_controls(self, server: Server) -> None:
        assert isinstance(server, Double)
        result = server.txt2img(PLAIN + STACK, **arguments(True, "dare_ties_svd:density=0.25:rank=4:seed=9"))
        pasted = server.paste(result.infotexts[0])
        assert pasted["Power Merger"] is True
        assert pasted["Mode"] == "dare_ties_svd"
        assert pasted["Seed"] == 9
        assert pasted["Density"] == 0.25
        assert server.paste(server.txt2img(PLAIN).infotexts[0])["Power Merger"] is False


def refused(server: Server, prompt: str, *texts: str, **payload: Any) -> None:
    """With a message that has these texts; and what comes next is as if nothing had been, though a merge was before."""
    before = {text: drawn_first(server, text) for text in (PLAIN, f"{PLAIN}{STACK}{TIES}")}
    server.txt2img(f"{PLAIN}{STACK}{TIES}")
    with pytest.raises(ServerError) as error:
        server.txt2img(prompt, **payload)
    for text in texts:
        assert text in str(error.value)
    for text, first in before.items():
        after = server.txt2img(text)
        assert same(after.image, first.image)
        assert after.infotexts == first.infotexts


class TestRefusals:
    @pytest.mark.parametrize(
        ("tag", "texts"),
        [
            ("<pm:tiess>", ("tiess", "ties_svd", "concat")),
            ("<pm:ties_svd:densty=0.5>", ("densty", "density", "svd_rank")),
            ("<pm:ties_svd:density=2>", ("density", "2", "0", "1")),
            ("<pm:ties_svd:density>", ("density", "option=value")),
            ("<pm:concat><pm:ties_svd>", ("2 <pm:",)),
        ],
        ids=["mode", "option", "value", "no value", "two"],
    )
    @pytest.mark.parametrize("payload", [{}, HIRES], ids=["txt2img", "hires"])
    def test_a_typing_error_in_the_tag(
        self, server: Server, tag: str, texts: tuple[str, ...], payload: dict[str, Any]
    ) -> None:
        refused(server, f"{PLAIN}{STACK}{tag}", *texts, **payload)

    @pytest.mark.parametrize("tag", ["<pm:concat", "<pm>", "<pm:>", "<pm=concat>", "<PM:concat>", "<pm:concat <b>"])
    def test_what_looks_like_a_mode_and_is_none(self, server: Server, tag: str) -> None:
        """The WebUI makes words of it, or drops it without one."""
        refused(server, f"{PLAIN}{STACK} {tag}", "Line 1, column", "<pm:MODE:option=value>")

    @pytest.mark.parametrize("tag", [f"<lora:{A}:0.5", f"<LORA:{A}:0.5>", "<lora:>", f"<lora:{A}:0.5\n>"])
    def test_what_looks_like_a_lora_and_is_none(self, server: Server, tag: str) -> None:
        """Where nothing is merged that is the WebUI's affair."""
        refused(server, f"{PLAIN}{STACK}{TIES}, {tag}", "Line 1, column", "<lora:NAME:STRENGTH>")
        refused(server, f"{PLAIN}{STACK}, {tag}", "Line 1, column", **arguments(True, "concat"))
        assert KEY not in server.txt2img(f"{PLAIN}{STACK}, {tag}").infotexts[0]

    def test_it_is_found_in_each_prompt_of_an_image(self, server: Server) -> None:
        refused(server, f"{PLAIN}{STACK}{TIES}", "Line 1", hr_prompt=f"{PLAIN}{STACK} <pm:ties_svd", **HIRES)
        refused(server, f"{PLAIN}{STACK}", "Line 2, column 3", hr_prompt=f"{PLAIN}\n  <pm>", **HIRES)

    @pytest.mark.parametrize("words", ["a <b> c", "<3", "1 < 2 > 0", "<lora_x>", "<pm-style>", "<hypernet:x:1>", "a:1"])
    def test_other_words_are_left_alone(self, server: Server, words: str) -> None:
        assert KEY in server.txt2img(f"{PLAIN} {words} {STACK}{TIES}").infotexts[0]

    def test_all_that_is_wrong_is_told(self, server: Server) -> None:
        prompt = f"{PLAIN}<lora:{A}:x><lora:{B}:1:start=5><pm:ties:densty=1> <lora:{A}:1"
        refused(server, prompt, "4 problems", "'x'", "start=5", "'densty'", "density, lambda", ">")

    @pytest.mark.parametrize("items", ["TE=0.5", "te =0.5", "1:MIDD", "1:lbw=IN04=0.5"])
    def test_what_the_webui_would_stack_otherwise(self, server: Server, items: str) -> None:
        refused(server, f"{PLAIN}<lora:{A}:1><lora:{B}:{items}:pm=off>{TIES}", "pm=off", items)

    def test_a_lora_that_the_webui_does_not_stack(self, server: Server) -> None:
        """A1111 stacks none at all when it cannot read one of them; Forge's are stacked here, each by itself."""
        prompt = f"{PLAIN}<lora:{A}:0.8:lbw=IN04=0.5><lora:{B}:0.6:pm=off>{TIES}"
        if server.kind == "a1111":
            refused(server, prompt, B, "load", "pm=off")
        else:
            assert KEY in server.txt2img(prompt).infotexts[0]

    def test_an_error_in_the_hires_prompt(self, server: Server) -> None:
        refused(server, f"{PLAIN}{STACK}{TIES}", "tiess", hr_prompt=f"{PLAIN}{STACK}<pm:tiess>", **HIRES)

    def test_an_error_in_img2img(self, server: Server) -> None:
        image = server.txt2img(PLAIN).image
        with pytest.raises(ServerError, match="tiess"):
            server.img2img(f"{PLAIN}{STACK}<pm:tiess>", image)

    @pytest.mark.parametrize("payload", [{}, HIRES], ids=["txt2img", "hires"])
    def test_a_tag_in_the_negative_prompt(self, server: Server, payload: dict[str, Any]) -> None:
        """It would be words there."""
        refused(server, PLAIN + STACK, TIES, "negative prompt", negative_prompt=f"dog{TIES}", **payload)

    def test_a_tag_in_the_negative_prompt_of_the_hires_pass(self, server: Server) -> None:
        refused(server, PLAIN + STACK, TIES, "negative prompt", hr_negative_prompt=f"dog{TIES}", **HIRES)

    @by_double_only
    @pytest.mark.parametrize(
        "tags",
        [("", TIES), (TIES, ""), (TIES, "<pm:concat>"), (TIES, f"<lora:{A}:0.1>{TIES}")],
        ids=["second", "first", "both", "another LoRA"],
    )
    def test_prompts_of_a_batch_with_different_tags(self, server: Server, tags: tuple[str, str]) -> None:
        """As a prompt matrix makes them: the WebUI reads the tags of the first alone."""
        prompts = [f"{PLAIN}{STACK}{tag}" for tag in tags]
        refused(server, prompts, "first", "batch size", batch_size=2)
        alone = [server.txt2img(prompt, seed=seed).image for seed, prompt in enumerate(prompts, 5)]
        together = server.txt2img(prompts, n_iter=2).images
        assert all(same(*pair) for pair in zip(alone, together, strict=True))

    @by_double_only
    def test_without_a_merge_they_are_the_webuis_own_affair(self, server: Server) -> None:
        prompts = [PLAIN + STACK, f"{PLAIN}<lora:{A}:0.1>"]
        assert len(server.txt2img(prompts, batch_size=2).images) == 2

    def test_an_unknown_lora_and_what_it_may_have_been(self, server: Server) -> None:
        refused(server, f"{PLAIN}<lora:{A}x:0.8><lora:{B}:0.6>{TIES}", f"{A}x", A)

    @pytest.mark.parametrize(
        ("lbw", "text"), [("1,2,3", "3 block weights"), ("NOSUCH", "NOSUCH"), ("IN99=1", "IN99"), ("IN04=x", "'x'")]
    )
    def test_bad_block_weights(self, server: Server, lbw: str, text: str) -> None:
        refused(server, f"{PLAIN}<lora:{A}:0.8:lbw={lbw}><lora:{B}:0.6>{TIES}", text, A)

    def test_a_lora_of_another_family(self, server: Server) -> None:
        names = [
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k",
            "lora_unet_input_blocks_7_1_transformer_blocks_9_attn1_to_q",
            *(f"lora_te2_text_model_encoder_layers_{index}_mlp_fc1" for index in range(8)),
        ]
        put(server, f"{PREFIX}xl", make_lora({name: sdxl()[name] for name in names}, dtype=torch.float16))
        refused(server, f"{PLAIN}<lora:{PREFIX}xl:0.8>{TIES}", "Stable Diffusion XL")
        refused(server, f"{PLAIN}<lora:{A}:0.8><lora:{PREFIX}xl:0.8>{TIES}", f"{PREFIX}xl")

    def test_a_lora_with_a_nan(self, server: Server) -> None:
        content = tensors(server, 3)
        name = sorted(content)[1]
        content[name] = torch.full_like(content[name], float("nan"))
        put(server, f"{PREFIX}nan", content)
        refused(server, f"{PLAIN}<lora:{A}:0.8><lora:{PREFIX}nan:0.6>{TIES}", f"{PREFIX}nan", name.partition(".")[0])

    def test_a_damaged_file(self, server: Server) -> None:
        path = put(server, f"{PREFIX}damaged", tensors(server, 3))
        path.write_bytes(path.read_bytes()[:1000])
        refused(server, f"{PLAIN}<lora:{A}:0.8><lora:{PREFIX}damaged:0.6>{TIES}", f"{PREFIX}damaged")

    @pytest.mark.parametrize("option", ["start=5", "stop=10", "step=2-8", "dyn=4"])
    def test_what_a_merge_cannot_do_for_a_lora(self, server: Server, option: str) -> None:
        refused(server, f"{PLAIN}<lora:{A}:0.8:{option}><lora:{B}:0.6>{TIES}", option)

    def test_a_shape_that_is_not_the_models(self, server: Server) -> None:
        path = put(server, f"{PREFIX}odd", tensors(server, 3))
        content = {
            key: tensor[:, :-1].contiguous() if "lora_down" in key else tensor
            for key, tensor in load_file(path).items()
        }
        put(server, f"{PREFIX}odd", content)
        refused(server, f"{PLAIN}<lora:{PREFIX}odd:0.6>{TIES}", f"{PREFIX}odd")


def told(result: Result, *texts: str) -> None:
    """In the infotext, which programs read too, and in the comments, where they can be read."""
    for text in texts:
        assert text in result.infotexts[0].partition("Power Merger note: ")[2]
        assert result.comments is None or text in result.comments


class TestComments:
    def test_no_lora_to_merge_is_a_comment_and_the_plain_image(self, server: Server) -> None:
        plain, result = server.txt2img(PLAIN), server.txt2img(PLAIN + TIES)
        assert same(result.image, plain.image)
        told(result, "<lora:")

    def test_only_loras_that_stay_stacked(self, server: Server) -> None:
        stacked = server.txt2img(f"{PLAIN}<lora:{A}:0.8>")
        result = server.txt2img(f"{PLAIN}<lora:{A}:0.8:pm=off>{TIES}")
        assert same(result.image, stacked.image)
        told(result, "<lora:")

    def test_layers_that_the_model_does_not_have(self, server: Server) -> None:
        """Some of a LoRA's: applied without them, and said how many of how many, of which LoRA, and the first names."""
        content, strange = tensors(server, 3), "lora_unet_mid_block_attentions_0_no_such_layer"
        extra = make_lora({strange: (8, 8, 1, 1)}, dtype=torch.float16)
        put(server, f"{PREFIX}without", content)
        put(server, f"{PREFIX}more", content | extra)
        images = []
        for name in ("without", "more"):
            result = server.txt2img(f"{PLAIN}<lora:{PREFIX}{name}:0.8><pm:concat>")
            images.append(result.image)
        assert difference(*images) <= 1
        told(result, f"{PREFIX}more", "1 of", strange)

    def test_nothing_is_said_when_all_is_well(self, server: Server) -> None:
        result = server.txt2img(f"{PLAIN}{STACK}{TIES}")
        assert result.comments in ("", None)
        assert "note" not in result.infotexts[0]

    def test_what_is_said_of_one_image_is_not_said_of_the_next(self, server: Server) -> None:
        result = server.txt2img(f"{PLAIN}{STACK}<pm:concat:density=0.5>")
        told(result, "density", "concat")
        for prompt in (f"{PLAIN}{STACK}<pm:concat>", PLAIN):
            assert "note" not in server.txt2img(prompt).infotexts[0]
