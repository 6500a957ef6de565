"""The layouts of the models as published, by family, each under every spelling that trainers use.

A layer that no layout of a family has rules that family out, so a layout has to be complete. To add one, hold it
against the model's own code: names with `_` between the words, numbers of blocks, weights as out x in.
"""

from __future__ import annotations

from collections.abc import Mapping

from lib_pm.families.layouts import Layout, layout

# Under diffusers' names: attention over image and text together, attention to itself (1) and to the text (2), the mlp.
_JOINT = r"attn_(to_[qkv]|to_out_0|add_[qkv]_proj|to_add_out)"
_CROSS = r"attn[12]_(to_[qkv]|to_out_0)"
_FEED = r"ff(_context)?_net_(0_proj|2)"
_AROUND = (
    r"(time_text_embed|time_guidance_embed|time_embed|context_embedder|image_embedder|adaln_single|patch_embed"
    r"|caption_projection|norm_out|text_embedder|time_extra_emb|time_step_proj|time_embedding|[xtp]_embedder)_.*"
    r"|context_embedder|x_embedder|(image_|clean_x_)\w+|pos_embed_proj|proj_(in|out)|patchify_proj|(img|txt)_in"
)
# Under Black Forest Labs' and Tencent's.
_ENDS = r"(img|txt|time|vector|guidance|byt5|vision|cond_type)_in(_.*)?|final_layer_.*"


def _flux(double: int, single: int, width: int = 3072) -> tuple[Layout, Layout]:
    return (
        layout(
            f"double_blocks {double}, single_blocks {single}",
            _ENDS,
            (r"(img|txt)_(mod_lin|attn_(qkv|proj)|mlp_[02])", "6x1 3x1 1 4x1 1x4"),
            (r"linear[12]|modulation_lin", "7x1 1x5 3x1"),
            width=width,
        ),
        layout(
            f"transformer_blocks {double}, single_transformer_blocks {single}",
            _AROUND,
            (rf"{_JOINT}|{_FEED}", "1 4x1 1x4"),
            (r"norm1(_context)?_linear|norm_linear|proj_mlp|proj_out", "6x1 3x1 4x1 1x5"),
            width=width,
        ),
    )


def _chroma() -> tuple[Layout, Layout]:
    """Return Chroma's layouts: Flux.1's without modulations, with layers of guidance in their place."""
    guidance = "distilled_guidance_layer_layers 5?"
    projections = "|distilled_guidance_layer_(in|out)_proj"
    return (
        layout(
            f"double_blocks 19, single_blocks 38, {guidance}",
            _ENDS + projections,
            (
                r"(img|txt)_(attn_(qkv|proj)|mlp_[02])|linear[12]",
                "9216x3072 3072 12288x3072 3072x12288 21504x3072 3072x15360",
            ),
            (r"(in|out)_layer", "5120"),
        ),
        layout(
            f"transformer_blocks 19, single_transformer_blocks 38, {guidance}",
            _AROUND + projections,
            (rf"{_JOINT}|{_FEED}|proj_mlp|proj_out", "3072 12288x3072 3072x12288 3072x15360"),
            (r"linear_[12]", "5120"),
        ),
    )


def _flux2(width: int, double: int, single: int) -> tuple[Layout, Layout]:
    """Return the layouts of a Flux.2: all blocks share their modulations, and the mlp is gated."""
    shared = r"|(double_stream_modulation_(img|txt)|single_stream_modulation)_lin(ear)?"
    return (
        layout(
            f"double_blocks {double}, single_blocks {single}",
            _ENDS + shared,
            (r"(img|txt)_(attn_(qkv|proj)|mlp_[02])|linear[12]", "3x1 1 6x1 1x3 9x1 1x4"),
            width=width,
        ),
        layout(
            f"transformer_blocks {double}, single_transformer_blocks {single}",
            _AROUND + shared,
            (rf"{_JOINT}|attn_to_qkv_mlp_proj|ff(_context)?_linear_(in|out)", "1 9x1 1x4 6x1 1x3"),
            width=width,
        ),
    )


def _hunyuan(width: int, double: int, single: int = 0) -> tuple[Layout, Layout]:
    """Return the first with ComfyUI's variant of Tencent's names."""
    singles = f", single_blocks {single}" if single else ""
    diffusers_singles = f", single_transformer_blocks {single}" if single else ""
    return (
        layout(
            f"double_blocks {double}{singles}, txt_in_individual_token_refiner_blocks 2?",
            _ENDS,
            (r"(img|txt)_(mod_lin(ear)?|attn_(qkv|[qkv]|proj)|mlp_(fc[12]|[02]))", "6x1 3x1 1 4x1 1x4"),
            (r"linear[12]|modulation_lin(ear)?", "7x1 1x5 3x1"),
            (r"self_attn_(qkv|proj)|mlp_(fc[12]|[02])|adaLN_modulation_1", "3x1 1 4x1 1x4 2x1"),
            width=width,
        ),
        layout(
            f"transformer_blocks {double}{diffusers_singles}, context_embedder_token_refiner_refiner_blocks 2?",
            _AROUND,
            (rf"{_JOINT}|{_FEED}", "1 4x1 1x4"),
            (r"norm1(_context)?_linear|norm(_out)?_linear|proj_mlp|proj_out", "6x1 3x1 2x1 4x1 1x5"),
            width=width,
        ),
    )


def _sd3(width: int, depth: int) -> tuple[Layout, Layout]:
    return (
        layout(
            f"joint_blocks {depth}",
            r"context_embedder|[xty]_embedder_.*|final_layer_.*",
            (r"(x|context)_block_(attn2?_(qkv|proj)|mlp_fc[12]|adaLN_modulation_1)", "3x1 1 4x1 1x4 6x1 9x1 2x1"),
            width=width,
        ),
        layout(
            f"transformer_blocks {depth}",
            _AROUND,
            (rf"{_JOINT}|attn2_(to_[qkv]|to_out_0)|{_FEED}", "1 4x1 1x4"),
            (r"norm1(_context)?_linear", "6x1 9x1 2x1"),
            width=width,
        ),
    )


def _wan(width: int, ffn: int, depth: int, vace: int) -> tuple[Layout, Layout]:
    """Return the layouts of a Wan. vace: how many blocks the variant with VACE has besides."""
    stacks = f"blocks {depth}, vace_blocks {vace}?"
    feed = f"{ffn}x{width} {width}x{ffn}"
    around = r"(vace_)?patch_embedding|proj_out|condition_embedder_.*|(text|time)_embedding_.*|time_projection_1"
    around += r"|head_head|img_emb_.*"
    return (
        layout(
            stacks,
            around,
            (r"(self|cross)_attn_([qkvo]|[kv]_img)|(before|after)_proj", f"{width}"),
            (r"ffn_[02]", feed),
        ),
        layout(
            stacks,
            around,
            (rf"{_CROSS}|attn2_add_[kv]_proj|proj_(in|out)", f"{width}"),
            (r"ffn_net_(0_proj|2)", feed),
        ),
    )


def _next_dit(depth: int, around: str, *spellings: tuple[tuple[str, str], ...]) -> tuple[Layout, ...]:
    """Return the layouts of Z-Image or Lumina 2."""
    stacks = f"layers {depth}, noise_refiner 2?, context_refiner 2?"
    return tuple(layout(stacks, around, *layers) for layers in spellings)


def _cross(width: int, depth: int) -> tuple[Layout, ...]:
    """Return the layout of blocks of attention to itself, to the text, and an mlp, and nothing else."""
    return (layout(f"transformer_blocks {depth}", _AROUND, (rf"{_CROSS}|{_FEED}", "1 4x1 1x4"), width=width),)


def _cogvideox(width: int, depth: int) -> tuple[Layout, ...]:
    attention = (rf"attn1_(to_[qkv]|to_out_0)|{_FEED}", f"{width} {4 * width}x{width} {width}x{4 * width}")
    return (layout(f"transformer_blocks {depth}", _AROUND, attention, (r"norm[12]_linear", f"{6 * width}x512")),)


_NEXT_DIT_AROUND = r"(all_)?(x_embedder|final_layer)(_.*)?|(t|cap)_embedder_.*|time_caption_embed_.*|norm_out_.*"
_Z_IMAGE_FEED = (r"feed_forward_w[123]|adaLN_modulation_0", "10240x3840 3840x10240 15360x256")
_LUMINA_FEED = "9216x2304 2304x9216 9216x1024"
_COSMOS_LAYERS = (
    (r"self_attn_([qkv]|output)_proj|cross_attn_(q|output)_proj", "2048"),
    (r"cross_attn_[kv]_proj", "2048x1024"),
    (r"mlp_layer[12]", "8192x2048 2048x8192"),
    (r"adaln_modulation_(self_attn|cross_attn|mlp)_[12]", "256x2048 6144x256"),
)
_COSMOS_AROUND = r"[xt]_embedder_.*|final_layer_.*"
_COSMOS_DIFFUSERS = layout(
    "transformer_blocks 28",
    _AROUND,
    (r"attn1_(to_[qkv]|to_out_0)|attn2_(to_q|to_out_0)", "2048"),
    (r"attn2_to_[kv]", "2048x1024"),
    (_FEED, "8192x2048 2048x8192"),
    (r"norm[123]_linear_[12]", "256x2048 6144x256"),
)

LAYOUTS: Mapping[str, tuple[Layout, ...]] = {
    "flux1": _flux(19, 38),
    "chroma": _chroma(),
    "flux2-dev": _flux2(6144, 8, 48),
    "flux2-klein-9b": _flux2(4096, 8, 24),
    "flux2-klein-4b": _flux2(3072, 5, 20),
    "hunyuan-video": _hunyuan(3072, 20, 40),
    "hunyuan-video-1.5": _hunyuan(2048, 54),
    "hunyuan-image": _hunyuan(3584, 20, 40),
    "hunyuan-dit": (
        layout(
            "blocks 40",
            _AROUND,
            (rf"{_CROSS}|norm1_linear|skip_linear", "1408 1408x1024 1408x2816"),
            (_FEED, "6144x1408 1408x6144"),
        ),
    ),
    "auraflow": (
        layout(
            "double_layers 4, single_layers 32",
            r"init_x_linear|cond_seq_linear|t_embedder_.*|modF_1|final_linear",
            (r"attn_w[12][qkvo]", "3072"),
            (r"mlp[XC]?_(c_fc[12]|c_proj)|mod(X|C|CX)_1", "8192x3072 3072x8192 18432x3072"),
        ),
        layout(
            "joint_transformer_blocks 4, single_transformer_blocks 32",
            _AROUND,
            (_JOINT, "3072"),
            (r"norm1(_context)?_linear|ff(_context)?_(linear_[12]|out_projection)", "18432x3072 8192x3072 3072x8192"),
        ),
    ),
    "qwen-image": (
        layout(
            "transformer_blocks 60",
            _AROUND,
            (rf"{_JOINT}|(img|txt)_(mod_1|mlp_net_(0_proj|2))", "1 6x1 4x1 1x4"),
            width=3072,
        ),
    ),
    "wan-14b": _wan(5120, 13824, 40, 8),
    "wan-5b": _wan(3072, 14336, 30, 0),
    "wan-1.3b": _wan(1536, 8960, 30, 15),
    "ltx": _cross(2048, 28),
    "ltx-13b": _cross(4096, 48),
    "ltx2": (
        layout(
            "transformer_blocks 48",
            rf"{_AROUND}|(audio|av)_.*",
            (rf"{_CROSS}|{_FEED}", "4096 16384x4096 4096x16384"),
            (rf"audio_({_CROSS}|{_FEED})", "2048 8192x2048 2048x8192"),
            (r"(audio_to_video|video_to_audio)_attn_(to_[qkv]|to_out_0)", "2048 2048x4096 4096x2048"),
        ),
    ),
    "z-image": _next_dit(
        30,
        _NEXT_DIT_AROUND,
        ((r"attention_(qkv|out)", "11520x3840 3840"), _Z_IMAGE_FEED),
        ((r"attention_(to_[qkv]|to_out_0)", "3840"), _Z_IMAGE_FEED),
    ),
    "lumina2": _next_dit(
        26,
        _NEXT_DIT_AROUND,
        ((r"attention_(qkv|out)", "3840x2304 2304"), (r"feed_forward_w[123]|adaLN_modulation_1", _LUMINA_FEED)),
        ((r"attn_(to_[qkv]|to_out_0)", "768x2304 2304"), (r"feed_forward_linear_[123]|norm1_linear", _LUMINA_FEED)),
    ),
    "sd3": _sd3(1536, 24),
    "sd3.5-large": _sd3(2432, 38),
    "hidream": (
        layout(
            "double_stream_blocks 16, single_stream_blocks 32",
            rf"{_AROUND}|final_layer_.*",
            (r"block_attn1_to_([qkv]|out)(_t|_0)?", "2560"),
            (r"block_ff_[it]_((shared_experts|experts_\d)_)?w[123]", "3584x2560 2560x3584 6912x2560 2560x6912"),
            (r"block_adaLN_modulation_1", "30720x2560 15360x2560"),
        ),
    ),
    "pixart": _cross(1152, 28),
    "sana": (
        layout(
            "transformer_blocks 20",
            _AROUND,
            (rf"{_CROSS}|ff_conv_(inverted|depth|point)", "2240 11200x2240 11200x1 2240x5600"),
        ),
    ),
    "cosmos": (layout("blocks 28", _COSMOS_AROUND, *_COSMOS_LAYERS), _COSMOS_DIFFUSERS),
    "anima": (
        layout(
            "blocks 28, llm_adapter_blocks 6?",
            rf"{_COSMOS_AROUND}|llm_adapter_.*",
            *_COSMOS_LAYERS,
            (r"(self|cross)_attn_[qkvo]_proj|mlp_[02]", "1024 4096x1024 1024x4096"),
        ),
        _COSMOS_DIFFUSERS,
    ),
    "cogvideox-2b": _cogvideox(1920, 30),
    "cogvideox-5b": _cogvideox(3072, 42),
    "mochi": (
        layout(
            "transformer_blocks 48",
            _AROUND,
            (r"attn1_(to_[qkv]|to_out_0|add_[qkv]_proj|to_add_out)", "3072 3072x1536 1536x3072"),
            (_FEED, "16384x3072 3072x8192 8192x1536 1536x4096"),
            (r"norm1(_context)?_linear(_1)?", "12288x3072 6144x3072 1536x3072"),
        ),
    ),
    "ovis": (
        layout(
            "transformer_blocks 6, single_transformer_blocks 27",
            _AROUND,
            (rf"{_JOINT}|{_FEED}", "1 8x1 1x4"),
            (r"norm1(_context)?_linear|norm_linear|proj_mlp|proj_out", "6x1 3x1 8x1 1x5"),
            width=3072,
        ),
    ),
}
