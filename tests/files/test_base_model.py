"""LoRAs of different models never merge unless they are forced to, and those of one model do."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from safetensors import safe_open

from lib_pm.compare.analyse import analyse
from lib_pm.core.errors import MergeInputError
from lib_pm.files.base_model import FORCE
from lib_pm.files.reader import LoraFile, open_lora
from lib_pm.merging.cache import MergeCache
from lib_pm.merging.merge import merge, merge_to_file
from lib_pm.merging.plan import Plan, open_plan
from lib_pm.merging.recipe import LoraUse, Recipe, make_recipe
from lib_pm.merging.resize import NewRank, resize_to_file
from tests.layouts import Shapes
from tests.loras import KOHYA, PEFT, make_lora, write
from tests.messages import saying, says
from tests.models import spellings, whole, write_header

ARCHITECTURE, VERSION, MODULE = "modelspec.architecture", "ss_base_model_version", "ss_network_module"
# All layers of the first are layers of the second too, so nothing speaks against merging them.
PART_OF = {("ltx-13b", "ltx2"), ("cosmos", "anima")}


def planned(*paths: Path, force: bool = False) -> Plan:
    with open_plan(recipe(*paths), force=force) as plan:
        return plan


def recipe(*paths: Path) -> Recipe:
    return make_recipe([LoraUse(path) for path in paths], "concat")


def refusal(*paths: Path) -> str:
    with pytest.raises(MergeInputError) as caught:
        planned(*paths)
    message = str(caught.value)
    assert message.endswith(FORCE)
    assert "--force" in FORCE
    return message


def lora(folder: Path, name: str, shapes: Shapes, **metadata: str) -> Path:
    return write_header(folder / f"{name}.safetensors", shapes, metadata)


def small(folder: Path, name: str, *layers: str, width: int = 8, **metadata: str) -> Path:
    """A LoRA of a model that nobody knows."""
    shapes = {f"diffusion_model.{layer}": (width, width) for layer in layers}
    return write(folder / f"{name}.safetensors", make_lora(shapes, 2, seed=len(name), endings=PEFT), metadata)


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(str(path), "pt") as file:
        return dict(file.metadata())


def test_all_pairs_of_models(tmp_path: Path) -> None:
    """Every model under every spelling beside every other: merged if and only if they are one model."""
    files = {key: lora(tmp_path, "+".join(key), whole(*key)) for key in spellings()}
    opened: dict[Path, LoraFile] = {}

    def again(path: Path) -> LoraFile:
        if path not in opened:
            opened[path] = open_lora(path)
        return opened[path]

    wrong = []
    for one, other in itertools.combinations_with_replacement(files, 2):
        try:
            with open_plan(recipe(files[one], files[other]), again) as plan:
                merged = bool(plan.layers)
        except MergeInputError:
            merged = False
        together = one[0] == other[0] or (one[0], other[0]) in PART_OF or (other[0], one[0]) in PART_OF
        if merged != together:
            wrong.append((one, other))
    assert wrong == []


@pytest.mark.parametrize("spelling", ["kohya", "original", "diffusers"])
def test_a_flux_lora_of_double_blocks_goes_with_a_whole_one(tmp_path: Path, spelling: str) -> None:
    shapes = whole("flux1", spelling)
    double = {name: shape for name, shape in shapes.items() if "single" not in name}
    plan = planned(lora(tmp_path, "double", double), lora(tmp_path, "whole", shapes))
    assert plan.family.id == "flux1"
    assert len(plan.layers) == len(shapes)
    (note,) = plan.model.notes
    assert says(note, "double.safetensors … Flux.1 or HunyuanVideo … Flux.1")


def test_qwen_and_flux_with_double_blocks_only(tmp_path: Path) -> None:
    """They have layers of one name and shape, which were added up."""
    double = {n: s for n, s in whole("flux1", "diffusers").items() if "single" not in n}
    qwen = whole("qwen-image", "diffusers")
    assert set(double) & set(qwen)
    message = refusal(lora(tmp_path, "flux", double), lora(tmp_path, "qwen", qwen))
    assert says(message, "flux.safetensors may … Flux.1 … qwen.safetensors is … Qwen-Image")


class TestUnknown:
    def test_no_common_layer(self, tmp_path: Path) -> None:
        message = refusal(small(tmp_path, "a", "x.0.q"), small(tmp_path, "b", "y.0.q"))
        assert says(message, "b.safetensors … no layer")

    def test_every_lora_has_to_be_tied_to_the_others(self, tmp_path: Path) -> None:
        a, b = small(tmp_path, "a", "x.0.q", "x.1.q"), small(tmp_path, "b", "x.1.q", "x.2.q")
        c, d = small(tmp_path, "c", "x.2.q"), small(tmp_path, "d", "y.0.q", "y.1.q")
        assert len(planned(c, a, b).layers) == 3
        for message in (refusal(a, b, c, d), refusal(a, b, d, small(tmp_path, "e", "y.1.q"))):
            assert says(message, "d.safetensors … no layer … others")

    def test_common_layers_and_how_many(self, tmp_path: Path) -> None:
        a, b = small(tmp_path, "a", "x.0.q", "x.1.q"), small(tmp_path, "b", "x.1.q", "x.2.q")
        _, report = merge(recipe(a, b))
        assert any(says(note, "1 of 3 layers … more than one") for note in report.notes)
        _, report = merge(recipe(a, a))
        assert report.notes == []

    def test_other_shapes(self, tmp_path: Path) -> None:
        with pytest.raises(MergeInputError, match=saying("shapes … a.safetensors 8×8 … b.safetensors 4×4")):
            planned(small(tmp_path, "a", "x.0.q"), small(tmp_path, "b", "x.0.q", width=4))

    @pytest.mark.parametrize("key", [ARCHITECTURE, VERSION])
    def test_different_words(self, tmp_path: Path, key: str) -> None:
        a, b = (
            small(tmp_path, "a", "x.0.q", **{key: "wonder-1/lora"}),
            small(tmp_path, "b", "x.0.q", **{key: "miracle"}),
        )
        message = refusal(a, b)
        assert says(
            message, f"base model … a.safetensors … 'wonder-1/lora' ({key}) … b.safetensors … 'miracle' ({key})"
        )
        assert planned(a, small(tmp_path, "c", "x.0.q", **{key: "Wonder.1"})).model.notes == ()
        assert planned(a, small(tmp_path, "d", "x.0.q")).model.notes == ()

    def test_beside_a_known_one(self, tmp_path: Path) -> None:
        shapes = whole("wan-14b", "original")
        wan = lora(tmp_path, "wan", shapes)
        more = lora(tmp_path, "more", {**shapes, "diffusion_model.wonder.0.q": (8, 8)})
        assert len(planned(wan, more).layers) == len(shapes) + 1
        other = lora(tmp_path, "other", {"diffusion_model.wonder.0.q": (8, 8)})
        assert says(refusal(wan, other), "other.safetensors … no layer")

    def test_forced(self, tmp_path: Path) -> None:
        a, b = small(tmp_path, "a", "x.0.q", **{ARCHITECTURE: "wonder"}), small(tmp_path, "b", "y.0.q")
        report = merge_to_file(recipe(a, b), tmp_path / "out.safetensors", force=True)
        assert any(says(note, "forced … b.safetensors … no layer") for note in report.notes)
        assert ARCHITECTURE not in metadata_of(tmp_path / "out.safetensors")


SDXL: Shapes = {"lora_unet_middle_block_1_transformer_blocks_9_attn2_to_k": (16, 2048)}
SD1: Shapes = {"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k": (16, 768)}


class TestWords:
    """What files say of their base model, where the layers are known."""

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ({VERSION: "sdxl_base_v1-0"}, {VERSION: "sdxl_1.0"}),
            ({VERSION: "sdxl_base_v1-0"}, {VERSION: "pony"}),
            ({VERSION: "illustrious"}, {VERSION: "noobai-xl-vpred"}),
            ({ARCHITECTURE: "stable-diffusion-xl-v1-base/lora"}, {ARCHITECTURE: "stable-diffusion-xl-v1-base"}),
            ({VERSION: "sdxl_base_v0-9"}, {ARCHITECTURE: "stable-diffusion-xl-turbo/lora"}),
            ({VERSION: "sdxl_base_v1-0", "ss_v2": "False"}, {}),
        ],
    )
    def test_all_these_are_sdxl(self, tmp_path: Path, one: dict[str, str], other: dict[str, str]) -> None:
        plan = planned(lora(tmp_path, "a", SDXL, **one), lora(tmp_path, "b", SDXL, **other))
        assert (plan.family.id, plan.model.notes) == ("sdxl", ())

    @pytest.mark.parametrize("pair", [("flux-1-dev/lora", "flux-1-schnell/lora"), ("Flux.1-dev", "flux.1_kontext")])
    def test_all_these_are_flux(self, tmp_path: Path, pair: tuple[str, str]) -> None:
        shapes = whole("flux1", "kohya")
        files = [lora(tmp_path, f"{i}", shapes, **{ARCHITECTURE: said}) for i, said in enumerate(pair)]
        assert planned(*files).model.notes == ()

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ({VERSION: "sdxl_base_v1-0"}, {VERSION: "kolors"}),
            ({ARCHITECTURE: "stable-diffusion-xl-v1-base/lora"}, {ARCHITECTURE: "flux-1-dev/lora"}),
            ({VERSION: "sdxl_base_v1-0"}, {ARCHITECTURE: "wan2.1/lora"}),
            ({"ss_v2": "False"}, {"ss_v2": "True"}),
        ],
    )
    def test_contradictions(self, tmp_path: Path, one: dict[str, str], other: dict[str, str]) -> None:
        a, b = lora(tmp_path, "a", SDXL, **one), lora(tmp_path, "b", SDXL, **other)
        message = refusal(a, b)
        if "kolors" not in other.values():  # then the models are different, which is said
            for path, said in ((a, one), (b, other)):
                assert all(says(message, f"{path.name} … {value!r} ({key})") for key, value in said.items())
        report = merge_to_file(recipe(a, b), tmp_path / "out.safetensors", force=True)
        assert any(says(note, "forced") for note in report.notes)
        allowed = (None,) if "kolors" in other.values() else ("stable-diffusion-xl-v1-base/lora",)
        assert metadata_of(tmp_path / "out.safetensors").get(ARCHITECTURE) in allowed

    def test_layers_are_the_truth(self, tmp_path: Path) -> None:
        """Earlier versions called HunyuanVideo's, Chroma's and others' merges flux-1-dev."""
        shapes = whole("hunyuan-video", "kohya")
        wrong = lora(tmp_path, "wrong", shapes, **{ARCHITECTURE: "flux-1-dev/lora", VERSION: "flux1"})
        plan = planned(wrong, lora(tmp_path, "b", shapes))
        assert plan.family.id == "hunyuan-video"
        (note,) = plan.model.notes
        assert says(note, f"wrong.safetensors … 'flux-1-dev/lora' ({ARCHITECTURE}) … layers … HunyuanVideo")

    def test_a_wrong_word_is_not_written_again(self, tmp_path: Path) -> None:
        tensors = make_lora(SD1, 2)
        path = write(tmp_path / "a.safetensors", tensors, {ARCHITECTURE: "flux-1-dev/lora", VERSION: "flux1"})
        target = tmp_path / "out.safetensors"
        report = merge_to_file(recipe(path), target)
        assert metadata_of(target)[ARCHITECTURE] == "stable-diffusion-v1/lora"
        assert metadata_of(target)[VERSION] == "sd_v1"
        assert any("flux-1-dev/lora" in note for note in report.notes)
        report = resize_to_file(path, target, NewRank(1), overwrite=True)
        assert any("flux-1-dev/lora" in note for note in report.notes)

    def test_a_kept_word(self, tmp_path: Path) -> None:
        """Every word that the layers do not speak against stays as it was, known or not."""
        for said in ("sd_1.5_mine", "a dreamer's own"):
            write(tmp_path / "a.safetensors", make_lora(SD1, 2), {VERSION: said})
            merge_to_file(recipe(tmp_path / "a.safetensors"), tmp_path / "out.safetensors", overwrite=True)
            assert metadata_of(tmp_path / "out.safetensors")[VERSION] == said


def test_forced_models_are_not_labelled(tmp_path: Path) -> None:
    one = write(
        tmp_path / "a.safetensors", make_lora(SD1, 2), {ARCHITECTURE: "stable-diffusion-v1/lora", VERSION: "sd_v1"}
    )
    other = write(tmp_path / "b.safetensors", make_lora(SDXL, 2))
    target = tmp_path / "out.safetensors"
    report = merge_to_file(recipe(one, other), target, force=True)
    facts = "forced … different models … a.safetensors … Stable Diffusion 1 … b.safetensors … Stable Diffusion XL"
    assert says(report.notes[0], facts)
    written = metadata_of(target)
    assert not {ARCHITECTURE, VERSION, "ss_v2", "modelspec.implementation"} & written.keys()
    assert len(report.layers) == 2
    tensors, _ = merge(recipe(one, other), force=True)
    assert len(tensors) == 6


def test_the_way_out_is_that_of_the_place(tmp_path: Path) -> None:
    one, other = lora(tmp_path, "a", SD1), lora(tmp_path, "b", SDXL)
    with pytest.raises(MergeInputError) as caught:
        MergeCache(2**20).merge(recipe(one, other))
    assert "pm=off" in str(caught.value)
    assert "--force" not in str(caught.value)
    with pytest.raises(MergeInputError) as caught:
        analyse(make_recipe([LoraUse(one), LoraUse(other)], "concat"))
    assert "--force" not in str(caught.value)


@pytest.mark.parametrize(
    ("shapes", "said", "written"),
    [
        (SD1, {}, "networks.lora"),
        (SD1, {MODULE: "networks.lora_fa"}, "networks.lora"),
        (SD1, {MODULE: "lycoris.kohya"}, "networks.lora"),
        ({"lora_unet_double_blocks_0_img_mlp_0": (12288, 3072)}, {MODULE: "networks.lora_flux"}, "networks.lora_flux"),
        ({"lora_unet_double_blocks_0_img_mlp_0": (12288, 3072)}, {VERSION: "flux1"}, "networks.lora_flux"),
        ({"lora_unet_joint_blocks_0_x_block_attn_qkv": (4608, 1536)}, {}, "networks.lora_sd3"),
        ({"lora_unet_layers_29_attention_qkv": (3840, 2304)}, {MODULE: "networks.lora_lumina"}, "networks.lora_lumina"),
        ({"lora_unet_wonder_0_q": (8, 8)}, {}, "networks.lora"),
        ({"lora_unet_wonder_0_q": (8, 8)}, {MODULE: "networks.lora_wonder"}, "networks.lora_wonder"),
    ],
)
def test_the_network_module_stays_what_reads_it(
    tmp_path: Path, shapes: Shapes, said: dict[str, str], written: str
) -> None:
    path = write(tmp_path / "a.safetensors", make_lora(shapes, 2, endings=KOHYA), said)
    merge_to_file(recipe(path), tmp_path / "out.safetensors")
    assert metadata_of(tmp_path / "out.safetensors")[MODULE] == written


def test_flux_is_written_as_flux(tmp_path: Path) -> None:
    """Known by the trainer's word where few layers are trained."""
    shapes = {"lora_unet_double_blocks_0_img_mlp_0": (12288, 3072)}
    files = [write(tmp_path / f"{i}.safetensors", make_lora(shapes, 2, seed=i), {VERSION: "flux1"}) for i in range(2)]
    merge_to_file(recipe(*files), tmp_path / "out.safetensors")
    written = metadata_of(tmp_path / "out.safetensors")
    assert (written[VERSION], written[ARCHITECTURE], written["ss_v2"]) == ("flux1", "flux-1-dev/lora", "False")
    assert json.loads(written["power_merger_recipe"])["mode"] == "concat"
