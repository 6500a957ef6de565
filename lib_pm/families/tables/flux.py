"""Flux.1 (dev, schnell, Kontext), and Chroma, which is Flux.1 with one layer of guidance for all modulations."""

from lib_pm.families.families import transformer, twin

_PREFIXES = {"original": "lora_unet_", "diffusers": "transformer."}

FLUX1 = transformer(
    "flux1",
    "Flux.1",
    r"flux(1|dev|schnell|kontext|$)",
    """
double_blocks                        | transformer_blocks                                | 19 D
  img_mod.lin                        | norm1.linear                                      | 6x1
  img_attn.qkv                       | attn.to_q + attn.to_k + attn.to_v                 | 3x1
  img_attn.proj                      | attn.to_out.0                                     | 1
  img_mlp.0                          | ff.net.0.proj                                     | 4x1
  img_mlp.2                          | ff.net.2                                          | 1x4
  txt_mod.lin                        | norm1_context.linear                              | 6x1
  txt_attn.qkv                       | attn.add_q_proj + attn.add_k_proj + attn.add_v_proj | 3x1
  txt_attn.proj                      | attn.to_add_out                                   | 1
  txt_mlp.0                          | ff_context.net.0.proj                             | 4x1
  txt_mlp.2                          | ff_context.net.2                                  | 1x4
single_blocks                        | single_transformer_blocks                         | 38 S
  linear1                            | attn.to_q + attn.to_k + attn.to_v + proj_mlp*4    | 7x1
  linear2                            | proj_out                                          | 1x5
  modulation.lin                     | norm.linear                                       | 3x1
before
  img_in                             | x_embedder                                        | -
  txt_in                             | context_embedder                                  | -
  time_in.in_layer                   | time_text_embed.timestep_embedder.linear_1        | -
  time_in.out_layer                  | time_text_embed.timestep_embedder.linear_2        | -
  vector_in.in_layer                 | time_text_embed.text_embedder.linear_1            | -
  vector_in.out_layer                | time_text_embed.text_embedder.linear_2            | -
  guidance_in.in_layer               | time_text_embed.guidance_embedder.linear_1        | -
  guidance_in.out_layer              | time_text_embed.guidance_embedder.linear_2        | -
after
  final_layer.linear                 | proj_out                                          | -
  final_layer.adaLN_modulation.1     | swap(norm_out.linear)                             | -
""",
    _PREFIXES,
    width=3072,
    encoders={"clip_l": "te1", "t5xxl": "te3"},
    trainer="lora_flux",
    block_lists=(61,),
    base_version="flux1",
    architecture="flux-1-dev/lora",
    resolution="1024x1024",
    model="FluxTransformer2DModel",
)

CHROMA = transformer(
    "chroma",
    "Chroma",
    r"chroma(?!radiance)",
    """
double_blocks                        | transformer_blocks                                | 19 D
  img_attn.qkv                       | attn.to_q + attn.to_k + attn.to_v                 | 3x1
  img_attn.proj                      | attn.to_out.0                                     | 1
  img_mlp.0                          | ff.net.0.proj                                     | 4x1
  img_mlp.2                          | ff.net.2                                          | 1x4
  txt_attn.qkv                       | attn.add_q_proj + attn.add_k_proj + attn.add_v_proj | 3x1
  txt_attn.proj                      | attn.to_add_out                                   | 1
  txt_mlp.0                          | ff_context.net.0.proj                             | 4x1
  txt_mlp.2                          | ff_context.net.2                                  | 1x4
single_blocks                        | single_transformer_blocks                         | 38 S
  linear1                            | attn.to_q + attn.to_k + attn.to_v + proj_mlp*4    | 7x1
  linear2                            | proj_out                                          | 1x5
distilled_guidance_layer.layers      | =                                                 | 5? -
  in_layer                           | linear_1                                          | 5120
  out_layer                          | linear_2                                          | 5120
before
  distilled_guidance_layer.in_proj   | =                                                 | -
  distilled_guidance_layer.out_proj  | =                                                 | -
  img_in                             | x_embedder                                        | -
  txt_in                             | context_embedder                                  | -
after
  final_layer.linear                 | proj_out                                          | -
""",
    _PREFIXES,
    width=3072,
    encoders={"t5xxl": "te1"},
    trainer="lora_flux",
    block_lists=(61,),
    model="ChromaTransformer2DModel",
)

TWINS = (
    twin(FLUX1, "longcat", "LongCat-Image", r"longcat"),
    twin(FLUX1, "bria", "Bria 3", r"bria(?!fibo)"),
    twin(CHROMA, "chroma-radiance", "Chroma Radiance", r"chromaradiance"),
)
