"""LTX-Video and LTX-2, whose names differ outside of the blocks only."""

from lib_pm.families.families import transformer

_EMBEDDER = "emb.timestep_embedder.linear"
_PREFIXES = {"original": "diffusion_model.", "diffusers": "transformer."}
_TABLE = """
transformer_blocks       | =                      | BLOCK
  attn1.to_q             | =                      | 1
  attn1.to_k             | =                      | 1
  attn1.to_v             | =                      | 1
  attn1.to_out.0         | =                      | 1
  attn2.to_q             | =                      | 1
  attn2.to_k             | =                      | 1
  attn2.to_v             | =                      | 1
  attn2.to_out.0         | =                      | 1
  ff.net.0.proj          | =                      | 4x1
  ff.net.2               | =                      | 1x4
before
  patchify_proj          | proj_in                | -
  adaln_single.emb.timestep_embedder.linear_1 | time_embed.emb.timestep_embedder.linear_1 | -
  adaln_single.emb.timestep_embedder.linear_2 | time_embed.emb.timestep_embedder.linear_2 | -
  adaln_single.linear    | time_embed.linear      | -
  caption_projection.linear_1 | =                 | -
  caption_projection.linear_2 | =                 | -
after
  proj_out               | =                      | -
"""

LTX = transformer(
    "ltx",
    "LTX-Video 2B",
    r"ltx(?!2|.*13b)",
    _TABLE,
    _PREFIXES,
    width=2048,
    counts={"transformer_blocks": "28"},
    model="LTXVideoTransformer3DModel",
)
LTX_13B = transformer(
    "ltx-13b",
    "LTX-Video 13B",
    r"ltx(?!2|.*2b)",
    _TABLE,
    _PREFIXES,
    width=4096,
    counts={"transformer_blocks": "48"},
    model="LTXVideoTransformer3DModel",
)
LTX2 = transformer(
    "ltx2",
    "LTX-2",
    r"ltx2",
    f"""
transformer_blocks              | =                      | 48 BLOCK
  attn1.to_q                    | =                      | 2
  attn1.to_k                    | =                      | 2
  attn1.to_v                    | =                      | 2
  attn1.to_out.0                | =                      | 2
  attn2.to_q                    | =                      | 2
  attn2.to_k                    | =                      | 2
  attn2.to_v                    | =                      | 2
  attn2.to_out.0                | =                      | 2
  ff.net.0.proj                 | =                      | 8x2
  ff.net.2                      | =                      | 2x8
  audio_attn1.to_q              | =                      | 1
  audio_attn1.to_k              | =                      | 1
  audio_attn1.to_v              | =                      | 1
  audio_attn1.to_out.0          | =                      | 1
  audio_attn2.to_q              | =                      | 1
  audio_attn2.to_k              | =                      | 1
  audio_attn2.to_v              | =                      | 1
  audio_attn2.to_out.0          | =                      | 1
  audio_ff.net.0.proj           | =                      | 4x1
  audio_ff.net.2                | =                      | 1x4
  audio_to_video_attn.to_q      | =                      | 1x2
  audio_to_video_attn.to_k      | =                      | 1
  audio_to_video_attn.to_v      | =                      | 1
  audio_to_video_attn.to_out.0  | =                      | 2x1
  video_to_audio_attn.to_q      | =                      | 1
  video_to_audio_attn.to_k      | =                      | 1x2
  video_to_audio_attn.to_v      | =                      | 1x2
  video_to_audio_attn.to_out.0  | =                      | 1
before
  patchify_proj                 | proj_in                | -
  audio_patchify_proj           | audio_proj_in          | -
  adaln_single.emb.timestep_embedder.linear_1 | time_embed.emb.timestep_embedder.linear_1 | -
  adaln_single.emb.timestep_embedder.linear_2 | time_embed.emb.timestep_embedder.linear_2 | -
  adaln_single.linear           | time_embed.linear      | -
  audio_adaln_single.emb.timestep_embedder.linear_1 | audio_time_embed.emb.timestep_embedder.linear_1 | -
  audio_adaln_single.emb.timestep_embedder.linear_2 | audio_time_embed.emb.timestep_embedder.linear_2 | -
  audio_adaln_single.linear     | audio_time_embed.linear | -
  av_ca_video_scale_shift_adaln_single.linear | av_cross_attn_video_scale_shift.linear | -
  av_ca_audio_scale_shift_adaln_single.linear | av_cross_attn_audio_scale_shift.linear | -
  av_ca_a2v_gate_adaln_single.linear | av_cross_attn_video_a2v_gate.linear | -
  av_ca_v2a_gate_adaln_single.linear | av_cross_attn_audio_v2a_gate.linear | -
  av_ca_video_scale_shift_adaln_single.{_EMBEDDER}_1 | av_cross_attn_video_scale_shift.{_EMBEDDER}_1 | -
  av_ca_video_scale_shift_adaln_single.{_EMBEDDER}_2 | av_cross_attn_video_scale_shift.{_EMBEDDER}_2 | -
  av_ca_audio_scale_shift_adaln_single.{_EMBEDDER}_1 | av_cross_attn_audio_scale_shift.{_EMBEDDER}_1 | -
  av_ca_audio_scale_shift_adaln_single.{_EMBEDDER}_2 | av_cross_attn_audio_scale_shift.{_EMBEDDER}_2 | -
  av_ca_a2v_gate_adaln_single.{_EMBEDDER}_1 | av_cross_attn_video_a2v_gate.{_EMBEDDER}_1 | -
  av_ca_a2v_gate_adaln_single.{_EMBEDDER}_2 | av_cross_attn_video_a2v_gate.{_EMBEDDER}_2 | -
  av_ca_v2a_gate_adaln_single.{_EMBEDDER}_1 | av_cross_attn_audio_v2a_gate.{_EMBEDDER}_1 | -
  av_ca_v2a_gate_adaln_single.{_EMBEDDER}_2 | av_cross_attn_audio_v2a_gate.{_EMBEDDER}_2 | -
  caption_projection.linear_1   | =                      | -
  caption_projection.linear_2   | =                      | -
  audio_caption_projection.linear_1 | =                  | -
  audio_caption_projection.linear_2 | =                  | -
after
  proj_out                      | =                      | -
  audio_proj_out                | =                      | -
""",
    _PREFIXES,
    width=2048,
    model="LTX2VideoTransformer3DModel",
)
