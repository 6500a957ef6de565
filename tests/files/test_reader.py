"""LoRA files as the trainers write them: what is read, and under which name."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lib_pm.core.errors import MergeInputError
from lib_pm.files.reader import LoraFile, open_lora
from tests.loras import KOHYA, PEFT, delta, make_lora, relative_error, write

ATTENTION = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
DOTTED = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
FLUX = "transformer.transformer_blocks.0.attn.to_q"

# up factor's name in the file, down factor's, the layer's name in kohya's scheme, the scheme
SCHEMES = [
    (f"{ATTENTION}.lora_up.weight", f"{ATTENTION}.lora_down.weight", ATTENTION, "kohya"),
    (f"unet.{DOTTED}.to_q.lora_B.weight", f"unet.{DOTTED}.to_q.lora_A.weight", ATTENTION, "peft"),
    (f"unet.{DOTTED}.to_q.lora_B.default.weight", f"unet.{DOTTED}.to_q.lora_A.default.weight", ATTENTION, "peft"),
    (
        f"base_model.model.{DOTTED}.to_q.lora_B.weight",
        f"base_model.model.{DOTTED}.to_q.lora_A.weight",
        ATTENTION,
        "peft",
    ),
    (f"unet.{DOTTED}.to_q.lora.up.weight", f"unet.{DOTTED}.to_q.lora.down.weight", ATTENTION, "peft"),
    (
        f"unet.{DOTTED}.processor.to_q_lora.up.weight",
        f"unet.{DOTTED}.processor.to_q_lora.down.weight",
        ATTENTION,
        "peft",
    ),
    (f"{DOTTED}.processor.to_q_lora.up.weight", f"{DOTTED}.processor.to_q_lora.down.weight", ATTENTION, "peft"),
    (
        f"unet.{DOTTED}.processor.to_out_lora.up.weight",
        f"unet.{DOTTED}.processor.to_out_lora.down.weight",
        ATTENTION.replace("to_q", "to_out_0"),
        "peft",
    ),
    (f"{TEXT}.lora_up.weight", f"{TEXT}.lora_down.weight", TEXT, "kohya"),
    (
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight",
        TEXT,
        "peft",
    ),
    (
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
        TEXT,
        "peft",
    ),
    (
        "base_model.model.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight",
        "base_model.model.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
        TEXT,
        "peft",
    ),
    (f"{FLUX}.lora_B.weight", f"{FLUX}.lora_A.weight", FLUX, "peft"),
    (f"{FLUX}.lora_B", f"{FLUX}.lora_A", FLUX, "peft"),
]


def opened(tmp_path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> LoraFile:
    return open_lora(write(tmp_path / "style.safetensors", tensors, metadata))


@pytest.mark.parametrize(("up", "down", "name", "naming"), SCHEMES, ids=[scheme[0] for scheme in SCHEMES])
def test_every_scheme_gives_the_layer_its_one_name(tmp_path: Path, up: str, down: str, name: str, naming: str) -> None:
    factors = {up: torch.randn(24, 4), down: torch.randn(4, 16)}
    with opened(tmp_path, factors) as file:
        (written,) = file.layers
        assert file.family.name(written) == name
        assert file.naming == naming
        layer = file.read(written)
    assert torch.equal(layer.up, factors[up])
    assert torch.equal(layer.down, factors[down])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("alpha", [None, 1.0, 6.0, 0.0])
@pytest.mark.parametrize("endings", [KOHYA, PEFT], ids=["kohya", "peft"])
@pytest.mark.parametrize(
    "shape", [(24, 16), (24, 16, 1, 1), (24, 16, 3, 3), (24, 16, 3, 3, "cp")], ids=["linear", "1x1", "3x3", "cp"]
)
def test_delta_is_that_of_the_formula(
    tmp_path: Path, shape: tuple, endings: tuple[str, str], alpha: float | None, dtype: torch.dtype
) -> None:
    name, cp = "lora_unet_mid_block_resnets_0_conv1", "cp" in shape
    shapes = {name: tuple(size for size in shape if size != "cp")}
    tensors = make_lora(shapes, 4, alpha, dtype=dtype, endings=endings, cp=[name] if cp else [])
    with opened(tmp_path, tensors) as file:
        layer = file.read(name)
        assert str(layer.shape) == "×".join(str(size) for size in shapes[name])
        assert layer.up.dtype == dtype
        got = layer.to(torch.device("cpu"), torch.float64).delta()
    # a CP layer's down factor is rounded once, to float32; all else is float64
    assert relative_error(got, delta(tensors, name, endings)) < (2**-24 if cp else 1e-12)


def test_a_cp_layers_down_factor_is_rounded_once(tmp_path: Path) -> None:
    """So that no processor's order of adding up is in it, not even where most of the sum cancels."""
    name = "lora_unet_mid_block_resnets_0_conv1"
    tensors = make_lora({name: (24, 16, 3, 3)}, 32, cp=[name])
    with opened(tmp_path, tensors) as file:
        got = file.read(name).down.reshape(32, 16, 3, 3)
    mid, down = (tensors[f"{name}.lora_{part}.weight"].double() for part in ("mid", "down"))
    terms = mid.unsqueeze(2) * down.reshape(1, 32, 16, 1, 1)
    exact = terms.sum(1)
    assert bool(((got - exact).abs() <= 2**-24 * exact.abs() + 2**-48 * terms.abs().sum(1)).all())


def test_alpha_of_one_entry(tmp_path: Path) -> None:
    tensors = make_lora({ATTENTION: (24, 16)}, 4) | {f"{ATTENTION}.alpha": torch.tensor([2.0])}
    with opened(tmp_path, tensors) as file:
        assert file.read(ATTENTION).scale == 0.5


def test_float8_factors_are_read(tmp_path: Path) -> None:
    tensors = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in make_lora({ATTENTION: (24, 16)}, 4).items()}
    with opened(tmp_path, tensors) as file:
        layer = file.read(ATTENTION)
    assert layer.up.dtype == torch.float32  # float8 can be neither summed nor concatenated with another dtype
    assert torch.equal(layer.up, tensors[ATTENTION + KOHYA[0]].float())


def test_reads_one_layer_at_a_time(tmp_path: Path) -> None:
    """A damaged layer is not looked at before its turn."""
    tensors = make_lora({ATTENTION: (24, 16), TEXT: (24, 16)}, 4)
    tensors[TEXT + KOHYA[0]][0, 0] = float("nan")
    with opened(tmp_path, tensors) as file:
        assert file.read(ATTENTION).rank == 4
        with pytest.raises(MergeInputError, match=TEXT):
            file.read(TEXT)


def test_content_is_of_the_tensors_alone(tmp_path: Path) -> None:
    tensors = make_lora({ATTENTION: (24, 16)}, 4)
    other = make_lora({ATTENTION: (24, 16)}, 4, seed=1)
    contents = []
    for name, stored, metadata in (("a", tensors, {"x": "1"}), ("b", tensors, None), ("c", other, {"x": "1"})):
        with open_lora(write(tmp_path / f"{name}.safetensors", stored, metadata)) as file:
            contents.append(file.content)
    assert contents[0] == contents[1] != contents[2]


def test_content_tells_alphas_apart_that_only_the_header_has(tmp_path: Path) -> None:
    contents = set()
    for alpha in (4, 8):
        tensors = {f"unet.{DOTTED}.to_q{ending}": torch.ones(4, 4) for ending in PEFT}
        settings = {"lora_adapter_metadata": f'{{"unet.lora_alpha": {alpha}, "unet.r": 4}}'}
        with open_lora(write(tmp_path / f"{alpha}.safetensors", tensors, settings)) as file:
            contents.add(file.content)
    assert len(contents) == 2


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.bfloat16])
def test_an_alpha_is_of_any_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = make_lora({ATTENTION: (24, 16)}, 4) | {f"{ATTENTION}.alpha": torch.tensor(6, dtype=dtype)}
    with opened(tmp_path, tensors) as file:
        assert file.read(ATTENTION).scale == 1.5


def test_what_is_read_is_no_part_of_the_file(tmp_path: Path) -> None:
    """A mapped file would count as this process's memory, and could not be replaced on Windows."""
    tensors = make_lora({ATTENTION: (24, 16)}, 4)
    with opened(tmp_path, tensors) as file:
        file.read(ATTENTION).up.zero_()
        assert torch.equal(file.read(ATTENTION).up, tensors[ATTENTION + KOHYA[0]])


def test_layers_are_read_side_by_side(tmp_path: Path) -> None:
    shapes = {ATTENTION.replace("blocks_0", f"blocks_{index}"): (64, 48) for index in range(40)}
    tensors = make_lora(shapes, 4)
    with opened(tmp_path, tensors) as file, ThreadPoolExecutor(8) as pool:
        for name, layer in zip(shapes, pool.map(file.read, shapes), strict=True):
            assert torch.equal(layer.down, tensors[name + KOHYA[1]])


def test_a_file_that_is_cut_off_while_it_is_read(tmp_path: Path) -> None:
    with opened(tmp_path, make_lora({ATTENTION: (24, 16)}, 4)) as file:
        with file.path.open("r+b") as same:
            same.truncate(file.path.stat().st_size - 8)
        with pytest.raises(MergeInputError, match=f"^{file.path.name} .*cut off"):
            file.read(ATTENTION)
