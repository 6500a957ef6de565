"""HunyuanVideo and its relatives, under Tencent's names, ComfyUI's and diffusers'; HunyuanDiT."""

from lib_pm.families.families import transformer

_PREFIXES = {"original": "diffusion_model.", "comfy": "diffusion_model.", "diffusers": "transformer."}
_QKV = "attn.to_q + attn.to_k + attn.to_v"
_ADDED = "attn.add_q_proj + attn.add_k_proj + attn.add_v_proj"
_TIME_TEXT = "context_embedder.time_text_embed"
_REFINER = f"""
txt_in.individual_token_refiner.blocks | = | context_embedder.token_refiner.refiner_blocks | 2? REFINER
  self_attn_qkv          | self_attn.qkv          | {_QKV}                   | 3x1
  self_attn_proj         | self_attn.proj         | attn.to_out.0            | 1
  mlp.fc1                | mlp.0                  | ff.net.0.proj            | 4x1
  mlp.fc2                | mlp.2                  | ff.net.2                 | 1x4
  adaLN_modulation.1     | =                      | norm_out.linear          | 2x1
before
  img_in.proj            | =                      | x_embedder.proj          | -
  txt_in.input_embedder  | =                      | context_embedder.proj_in | -
  txt_in.c_embedder.linear_1 | txt_in.c_embedder.in_layer  | {_TIME_TEXT}.text_embedder.linear_1 | -
  txt_in.c_embedder.linear_2 | txt_in.c_embedder.out_layer | {_TIME_TEXT}.text_embedder.linear_2 | -
  txt_in.t_embedder.mlp.0 | txt_in.t_embedder.in_layer  | {_TIME_TEXT}.timestep_embedder.linear_1 | -
  txt_in.t_embedder.mlp.2 | txt_in.t_embedder.out_layer | {_TIME_TEXT}.timestep_embedder.linear_2 | -
after
  final_layer.linear     | =                      | proj_out                 | -
  final_layer.adaLN_modulation.1 | =              | swap(norm_out.linear)    | -
"""
_DOUBLE = f"""
double_blocks            | =                      | transformer_blocks       | D
  img_mod.linear         | img_mod.lin            | norm1.linear             | 6x1
  img_attn_qkv           | img_attn.qkv           | {_QKV}                   | 3x1
  img_attn_proj          | img_attn.proj          | attn.to_out.0            | 1
  img_mlp.fc1            | img_mlp.0              | ff.net.0.proj            | 4x1
  img_mlp.fc2            | img_mlp.2              | ff.net.2                 | 1x4
  txt_mod.linear         | txt_mod.lin            | norm1_context.linear     | 6x1
  txt_attn_qkv           | txt_attn.qkv           | {_ADDED}                 | 3x1
  txt_attn_proj          | txt_attn.proj          | attn.to_add_out          | 1
  txt_mlp.fc1            | txt_mlp.0              | ff_context.net.0.proj    | 4x1
  txt_mlp.fc2            | txt_mlp.2              | ff_context.net.2         | 1x4
"""
_SINGLE = f"""
single_blocks            | =                      | single_transformer_blocks | S
  linear1                | =                      | {_QKV} + proj_mlp*4      | 7x1
  linear2                | =                      | proj_out                 | 1x5
  modulation.linear      | modulation.lin         | norm.linear              | 3x1
"""
_TIMES = """
before
  time_in.mlp.0          | time_in.in_layer       | {time}.timestep_embedder.linear_1 | -
  time_in.mlp.2          | time_in.out_layer      | {time}.timestep_embedder.linear_2 | -
  guidance_in.mlp.0      | guidance_in.in_layer   | {time}.guidance_embedder.linear_1 | -
  guidance_in.mlp.2      | guidance_in.out_layer  | {time}.guidance_embedder.linear_2 | -
"""

HUNYUAN_VIDEO = transformer(
    "hunyuan-video",
    "HunyuanVideo",
    r"hunyuanvideo(?!15)|framepack",
    _DOUBLE
    + _SINGLE
    + _REFINER
    + _TIMES.format(time="time_text_embed")
    + """
before
  vector_in.in_layer     | =                      | time_text_embed.text_embedder.linear_1 | -
  vector_in.out_layer    | =                      | time_text_embed.text_embedder.linear_2 | -
""",
    _PREFIXES,
    width=3072,
    counts={"double_blocks": "20", "single_blocks": "40"},
    encoders={"llama": "te1", "clip_l": "te2"},
    model="HunyuanVideoTransformer3DModel",
)
HUNYUAN_IMAGE = transformer(
    "hunyuan-image",
    "HunyuanImage 2.1",
    r"hunyuanimage",
    _DOUBLE + _SINGLE + _REFINER + _TIMES.format(time="time_guidance_embed"),
    _PREFIXES,
    width=3584,
    counts={"double_blocks": "20", "single_blocks": "40"},
    trainer="lora_hunyuan_image",
    model="HunyuanImageTransformer2DModel",
)
HUNYUAN_VIDEO_15 = transformer(
    "hunyuan-video-1.5",
    "HunyuanVideo 1.5",
    r"hunyuanvideo15",
    _DOUBLE.replace("img_attn_qkv ", "img_attn_q + img_attn_k + img_attn_v ").replace(
        "txt_attn_qkv ", "txt_attn_q + txt_attn_k + txt_attn_v "
    )
    + _REFINER
    + """
  time_in.mlp.0          | time_in.in_layer       | time_embed.timestep_embedder.linear_1 | -
  time_in.mlp.2          | time_in.out_layer      | time_embed.timestep_embedder.linear_2 | -
  vision_in.proj.1       | =                      | image_embedder.linear_1  | -
  vision_in.proj.3       | =                      | image_embedder.linear_2  | -
  byt5_in.fc1            | =                      | context_embedder_2.linear_1 | -
  byt5_in.fc2            | =                      | context_embedder_2.linear_2 | -
  byt5_in.fc3            | =                      | context_embedder_2.linear_3 | -
""",
    _PREFIXES,
    width=2048,
    counts={"double_blocks": "54"},
    trainer="lora_hv_1_5",
    main="comfy",
    model="HunyuanVideo15Transformer3DModel",
)
HUNYUAN_DIT = transformer(
    "hunyuan-dit",
    "HunyuanDiT",
    r"hunyuandit",
    """
blocks                   | 40 BLOCK
  norm1.linear           | 1408
  attn1.to_q             | 1408
  attn1.to_k             | 1408
  attn1.to_v             | 1408
  attn1.to_out.0         | 1408
  attn2.to_q             | 1408
  attn2.to_k             | 1408x1024
  attn2.to_v             | 1408x1024
  attn2.to_out.0         | 1408
  ff.net.0.proj          | 6144x1408
  ff.net.2               | 1408x6144
  skip_linear            | 1408x2816
before
  text_embedder.linear_1 | -
  text_embedder.linear_2 | -
  pos_embed.proj         | -
  time_extra_emb.timestep_embedder.linear_1 | -
  time_extra_emb.timestep_embedder.linear_2 | -
  time_extra_emb.pooler.k_proj | -
  time_extra_emb.pooler.q_proj | -
  time_extra_emb.pooler.v_proj | -
  time_extra_emb.pooler.c_proj | -
  time_extra_emb.extra_embedder.linear_1 | -
  time_extra_emb.extra_embedder.linear_2 | -
after
  norm_out.linear        | -
  proj_out               | -
""",
    {"diffusers": "transformer."},
    model="HunyuanDiT2DModel",
)
