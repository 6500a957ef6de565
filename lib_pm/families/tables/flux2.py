"""Flux.2: all blocks share their modulations, and the mlp is gated."""

from lib_pm.families.families import transformer

_PREFIXES = {"original": "diffusion_model.", "diffusers": "transformer."}
_TABLE = """
double_blocks                        | transformer_blocks                                | D
  img_attn.qkv                       | attn.to_q + attn.to_k + attn.to_v                 | 3x1
  img_attn.proj                      | attn.to_out.0                                     | 1
  img_mlp.0                          | ff.linear_in                                      | 6x1
  img_mlp.2                          | ff.linear_out                                     | 1x3
  txt_attn.qkv                       | attn.add_q_proj + attn.add_k_proj + attn.add_v_proj | 3x1
  txt_attn.proj                      | attn.to_add_out                                   | 1
  txt_mlp.0                          | ff_context.linear_in                              | 6x1
  txt_mlp.2                          | ff_context.linear_out                             | 1x3
single_blocks                        | single_transformer_blocks                         | S
  linear1                            | attn.to_qkv_mlp_proj                              | 9x1
  linear2                            | attn.to_out                                       | 1x4
before
  img_in                             | x_embedder                                        | -
  txt_in                             | context_embedder                                  | -
  time_in.in_layer                   | time_guidance_embed.timestep_embedder.linear_1    | -
  time_in.out_layer                  | time_guidance_embed.timestep_embedder.linear_2    | -
  guidance_in.in_layer               | time_guidance_embed.guidance_embedder.linear_1    | -
  guidance_in.out_layer              | time_guidance_embed.guidance_embedder.linear_2    | -
  double_stream_modulation_img.lin   | double_stream_modulation_img.linear               | -
  double_stream_modulation_txt.lin   | double_stream_modulation_txt.linear               | -
  single_stream_modulation.lin       | single_stream_modulation.linear                   | -
after
  final_layer.linear                 | proj_out                                          | -
  final_layer.adaLN_modulation.1     | swap(norm_out.linear)                             | -
"""

FLUX2_DEV = transformer(
    "flux2-dev",
    "Flux.2 dev",
    r"flux2(dev|$)",
    _TABLE,
    _PREFIXES,
    width=6144,
    counts={"double_blocks": "8", "single_blocks": "48"},
    trainer="lora_flux_2",
    model="Flux2Transformer2DModel",
)
KLEIN_9B = transformer(
    "flux2-klein-9b",
    "Flux.2 klein 9B",
    r"flux2(klein9b|klein$|$)",
    _TABLE,
    _PREFIXES,
    width=4096,
    counts={"double_blocks": "8", "single_blocks": "24"},
    trainer="lora_flux_2",
    model="Flux2Transformer2DModel",
)
KLEIN_4B = transformer(
    "flux2-klein-4b",
    "Flux.2 klein 4B",
    r"flux2(klein4b|klein$|$)",
    _TABLE,
    _PREFIXES,
    width=3072,
    counts={"double_blocks": "5", "single_blocks": "20"},
    trainer="lora_flux_2",
    model="Flux2Transformer2DModel",
)
