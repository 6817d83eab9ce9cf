#!/usr/bin/env bash
# GUESS: rms_norm_eps is the epsilon of every RMSNorm of a DeepSeek model, those of its latent queries and
#   keys among them.
# TRUE: The norms of latents are made without it and have 1e-6, whatever the configuration says. So it is
#   with DeepSeek V2, V3 and GLM-4.7-Flash, whose own default for the others is 1e-5.
# Versions: torch 2.15.0, transformers 5.24.0.
# Seen: 28 November 2026, Python 3.11, Linux x86-64. Earlier versions were not tried.
# Where: modeling_deepseek_v2.py, modeling_deepseek_v3.py and modeling_glm4_moe_lite.py, the attention's __init__.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 transformers==5.24.0

venv/bin/python - <<'PY'
import torch
from transformers import AutoModelForCausalLM, DeepseekV2Config, DeepseekV3Config, Glm4MoeLiteConfig

small = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, vocab_size=64,
             q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8)
for kind in DeepseekV2Config, DeepseekV3Config, Glm4MoeLiteConfig:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(kind(**small, rms_norm_eps=0.125))
    layer = model.model.layers[0]
    attention = layer.self_attn
    eps = [norm.variance_epsilon for norm in (layer.input_layernorm, attention.q_a_layernorm, attention.kv_a_layernorm)]
    print(kind.__name__, eps)
    assert eps == [0.125, 1e-6, 1e-6], "one epsilon for all now"
PY
