"""What the tab holds: text and controls to a request, prompts and recipes to text, and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_pm.core.errors import MergeInputError
from lib_pm.core.registry import MODES
from lib_pm.files.contents import inspect_file
from lib_pm.merging.merge import merge_to_file
from lib_pm.merging.recipe import LoraUse, make_recipe
from lib_pm.prompt.parse import LoraTag, Request, write_lora
from lib_pm.workspace.draft import DEFAULT_CHOICE, Draft, from_json, from_prompt, from_recipe
from tests.chosen import chosen
from tests.loras import make_lora, write
from tests.messages import saying, says

SHAPES = {"lora_unet_mid_block_attentions_0_proj_in": (8, 8)}


def same_name(name: str) -> str:
    return name


def options_of(request: Request) -> dict[str, Any]:
    return dict((request.choice or DEFAULT_CHOICE).values)


class TestRequest:
    def test_a_lora_a_line_and_the_mode_beside_it(self) -> None:
        draft = Draft("<lora:a:0.8>\n\n  <lora:sub/b:0.5:0.25:lbw=MIDD>  \n", chosen("ties_svd:density=0.3:rank=8"))
        request = draft.request()
        assert request.loras == (LoraTag("a", 0.8, 0.8), LoraTag("sub/b", 0.25, 0.5, "MIDD"))
        assert request.choice == chosen("ties_svd:density=0.3:rank=8")

    def test_a_line_that_is_off_is_not_read(self) -> None:
        text = "<lora:a:1>\n# <lora:b:1>\n  #<lora:c:nonsense>\n# <pm:no_such_mode>\n<lora:d:0>"
        request = Draft(text, chosen("add")).request()
        assert [tag.name for tag in request.loras] == ["a", "d"]
        assert request.choice == chosen("add")

    def test_a_tag_in_the_text_wins(self) -> None:
        request = Draft("<lora:a:1>\n<pm:ties:density=0.2>", chosen("add_svd:rank=4")).request()
        assert request.choice == chosen("ties:density=0.2")

    def test_all_that_is_wrong_is_named(self) -> None:
        with pytest.raises(MergeInputError) as error:
            Draft("<lora:a:x>\n<lora:b:y>\n<lora:c:1><pm:tie>\n<lora:d:1\n").request()
        for text in ("4 problems", "'x'", "'y'", "'tie'", "Line 4, column 1"):
            assert text in str(error.value)

    @pytest.mark.parametrize("line", ["heart:1", " sub/heart v2 : -0.5:lbw=MIDD", "<heart:.5>"])
    def test_a_lora_without_its_tag(self, line: str) -> None:
        with pytest.raises(MergeInputError, match=r"Line 2, column .* is not a tag; write '<lora:"):
            Draft(f"<lora:a:1>\n{line}\n# off:1").request()

    @pytest.mark.parametrize(
        "line",
        ["(red:1.2)", "a cat, aspect 16:9", "[a:b:0.5]", "{a|b:1}", "at 12 o'clock", "# heart:1", "<hypernet:x:1>"],
    )
    def test_what_is_only_a_prompt(self, line: str) -> None:
        assert len(Draft(f"<lora:a:1>\n{line}").request().loras) == 1

    @pytest.mark.parametrize(
        ("text", "pm", "facts"),
        [
            ("<lora:a:1:pm=off>\n<lora:b:1>\n<lora:c:1:pm=off>", "concat", "a, c … pm=off"),
            ("<lora:a:strong>", "concat", "strength 'strong' … '<lora:a:strong>'"),
            ("<lora:a:1:start=5>", "concat", "start=5 … '<lora:a:1:start=5>'"),
            ("<lora:a:1>\n<pm:ties>\n<pm:add>", "concat", "2 <pm:…> … one"),
            ("<lora:a:1><pm:tie>", "concat", f"mode 'tie' … {', '.join(MODES)} … ties?"),
        ],
    )
    def test_what_is_wrong_is_named(self, text: str, pm: str, facts: str) -> None:
        with pytest.raises(MergeInputError) as error:
            Draft(text, chosen(pm)).request()
        assert says(error.value, facts), error.value

    def test_a_recipe_of_it(self) -> None:
        draft = Draft(
            "<lora:a:0.8:0.5:lbw=HALF>\n# <lora:b:1>", chosen("dare_ties_svd:seed=3"), "model", "float64", "exact"
        )
        recipe = draft.recipe(lambda name: Path(f"/loras/{name}.safetensors"), lambda: {"HALF": "mlp=0.5"})
        expected = make_recipe(
            [LoraUse(Path("/loras/a.safetensors"), 0.5, 0.8, "mlp=0.5")],
            "dare_ties_svd",
            {"seed": 3},
            apply="model",
            dtype="float64",
            precision="exact",
        )
        assert recipe == expected
        with pytest.raises(MergeInputError, match=saying("no LoRAs to merge")):
            Draft("# <lora:b:1>").recipe(Path, dict)


class TestFromPrompt:
    def test_names_become_those_of_the_list_and_unknown_ones_stay(self) -> None:
        known = {"Alias": "sub/style", "char": "char"}
        draft = from_prompt(
            "a cat <lora:Alias:0.8> in <lora:char:1:0.5:lbw=MIDD>, <lyco:gone:1> <pm:ties:density=0.5>, red",
            lambda name: known.get(name, name),
        )
        assert draft.text == "<lora:sub/style:0.8>\n<lora:char:1:0.5:lbw=MIDD>\n<lora:gone:1>"
        assert draft.choice == chosen("ties:density=0.5")

    def test_without_a_mode_it_is_what_the_webui_would_do(self) -> None:
        assert from_prompt("<lora:a:1>", same_name).choice == chosen("concat")

    def test_what_is_left_out_of_the_merge_comes_switched_off(self) -> None:
        draft = from_prompt("<lora:a:1><lora:b:0.5:pm=off><lora:c:1: PM = Off :start=5>", same_name)
        assert draft.text == "<lora:a:1>\n# <lora:b:0.5>\n# <lora:c:1:start=5>"
        assert [tag.name for tag in draft.request().loras] == ["a"]

    @pytest.mark.parametrize(
        ("prompt", "facts"),
        [
            ("a cat", "no <lora:…>"),
            ("a cat <pm:ties>", "no <lora:…>"),
            ("<lora:a:1><pm:tie>", f"mode 'tie' … {', '.join(MODES)} … ties?"),
            ("<lora:a:1><pm:ties><pm:add>", "2 <pm:…>"),
            ("<lora:a:1>, <pm:ties", "Line 1, column 13 … '<pm:ties'"),
        ],
    )
    def test_what_is_wrong_is_named(self, prompt: str, facts: str) -> None:
        with pytest.raises(MergeInputError) as error:
            from_prompt(prompt, same_name)
        assert says(error.value, facts), error.value


class TestInsert:
    def test_the_tags_take_the_place_of_the_prompts_own(self) -> None:
        draft = Draft("<lora:b:0.5>\n# <lora:c:1>", chosen("add"))
        inserted = draft.insert_into("a cat <lora:a:1>, <pm:ties> red<lyco:d:1>")
        assert inserted == "a cat ,  red <lora:b:0.5> <pm:add:lambda=1>"
        assert draft.insert_into(inserted) == inserted

    def test_what_is_left_out_of_merges_stays(self) -> None:
        inserted = Draft("<lora:b:1>", chosen("concat")).insert_into("<lora:light:1:pm=off> a cat <lora:a:1>")
        assert inserted == "<lora:light:1:pm=off> a cat <lora:b:1> <pm:concat:lambda=1>"

    def test_into_an_empty_prompt(self) -> None:
        assert Draft("<lora:b:1>", chosen("concat")).insert_into("") == "<lora:b:1> <pm:concat:lambda=1>"

    @pytest.mark.parametrize(
        ("apply", "expected"),
        [("model + clip", "<lora:a:0.5:0.8>"), ("model", "<lora:a:0:0.8>"), ("clip", "<lora:a:0.5:0>")],
    )
    def test_the_part_that_it_is_applied_to_is_a_matter_of_strengths_there(self, apply: str, expected: str) -> None:
        assert Draft("<lora:a:0.5:0.8>", chosen("concat"), apply).insert_into("").startswith(f"{expected} ")

    def test_a_draft_that_is_wrong_is_not_inserted(self) -> None:
        with pytest.raises(MergeInputError, match="pm=off"):
            Draft("<lora:b:1:pm=off>").insert_into("a cat")


names = st.text("abc_ /-.", min_size=1).map(str.strip).filter(bool)
strengths = st.floats(-2, 2, width=16)
tags = st.builds(LoraTag, names, strengths, strengths, st.sampled_from(["", "MIDD", "1,0,0.5", "IN04=0.5"]))
modes = st.sampled_from(list(MODES.values()))


@given(
    st.lists(tags, min_size=1, max_size=4),
    st.lists(names.map(lambda name: f"# <lora:{name}:1>"), max_size=2),
    modes,
    st.text("a cat,(:1.2)"),
)
def test_what_was_inserted_comes_back(loras: list[LoraTag], off: list[str], mode: Any, prompt: str) -> None:
    draft = Draft("\n".join([*map(write_lora, loras), *off]), mode.choice())
    inserted = draft.insert_into(prompt)
    assert inserted.startswith(prompt.strip())
    back = from_prompt(inserted, same_name)
    assert back.request().loras == draft.request().loras == tuple(loras)
    assert back.request().choice == draft.request().choice == mode.choice()


class TestRecipes:
    def test_a_merged_file_gives_the_draft_that_it_was_made_with(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            write(tmp_path / f"{name}.safetensors", make_lora(SHAPES, 2, seed=ord(name)))

        def find(name: str) -> Path:
            return tmp_path / f"{name}.safetensors"

        draft = Draft(
            "<lora:a:0.5:0.8>\n<lora:b:-1:lbw=mlp=0.5>", chosen("ties_svd:density=0.3:rank=2"), "model", "float64"
        )
        merge_to_file(draft.recipe(find, dict), tmp_path / "out.safetensors")
        recipe = inspect_file(tmp_path / "out.safetensors").recipe
        assert recipe
        back = from_recipe(recipe)
        assert back.text == draft.text
        assert back.recipe(find, dict) == draft.recipe(find, dict)

    @pytest.mark.parametrize(
        "change",
        [
            lambda recipe: recipe.pop("loras"),
            lambda recipe: recipe.pop("apply"),
            lambda recipe: recipe.update(loras=None),
            lambda recipe: recipe.update(loras=["a"]),
            lambda recipe: recipe.update(options="density"),
            lambda recipe: recipe.update(mode=["ties"]),
            lambda recipe: recipe["loras"][0].pop("clip"),
            lambda recipe: recipe["loras"][0].update(model="strong"),
            lambda recipe: recipe["loras"][0].update(name=7),
            lambda recipe: recipe["loras"][0].update(name="a:5>\n<lora:other:9"),
            lambda recipe: recipe["loras"][0].update(name="a\ud800"),
            lambda recipe: recipe["loras"][0].update(lbw="1,0>\n<lora:other:9"),
            lambda recipe: recipe.update(apply=7),
            lambda recipe: recipe.update(layers=["attn"]),
        ],
    )
    def test_what_is_no_recipe_is_refused(self, change: Callable[[dict[str, Any]], Any]) -> None:
        recipe = make_recipe([LoraUse(Path("a.safetensors"))], "ties").to_json(["hash"])
        assert from_recipe(recipe).text == "<lora:a:1>"
        change(recipe)
        with pytest.raises(MergeInputError):
            from_recipe(recipe)


class TestJson:
    @given(st.builds(Draft, st.text(), st.sampled_from([mode.choice() for mode in MODES.values()]), *[st.text()] * 3))
    def test_it_comes_back(self, draft: Draft) -> None:
        assert from_json(json.dumps(draft.to_json()), "It") == draft

    def test_parts_of_other_versions_are_passed_over(self) -> None:
        assert from_json('{"text": "<lora:a:1>", "new": 7}', "It") == Draft("<lora:a:1>")

    @pytest.mark.parametrize("pm", ["no_such_mode", "ties:density=2", ""])
    def test_a_mode_of_another_version_is_refused(self, pm: str) -> None:
        with pytest.raises(MergeInputError, match=r"'no_such_mode'|density is '2'|There is no mode ''"):
            from_json(json.dumps({"text": "<lora:a:1>", "pm": pm}), "It")

    @pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '"text"', '{"text": 7}', '{"text": null}'])
    def test_what_is_none_is_refused(self, text: str) -> None:
        with pytest.raises(MergeInputError, match=saying("recipe 'x' … no recipe")):
            from_json(text, "The recipe 'x'")
