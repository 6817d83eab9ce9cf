#!/usr/bin/env bash
# GUESS: use_bias of ERNIE 4.5 means the same in the dense models and in those with experts.
# TRUE: With experts the matrix that makes the logits has a bias too, and the experts have none, but the one
#   for all tokens has. A loader that shares code between both drops lm_head.bias without a word.
# Versions: torch 2.15.0, transformers 5.24.0.
# Seen: 28 November 2026, Python 3.11, Linux x86-64. Earlier versions were not tried.
# Where: modeling_ernie4_5.py and modeling_ernie4_5_moe.py, __init__ of the model with a head.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 transformers==5.24.0

venv/bin/python - <<'PY'
import torch
from transformers import AutoModelForCausalLM, Ernie4_5Config, Ernie4_5_MoeConfig

small = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, vocab_size=64,
             use_bias=True, tie_word_embeddings=False)
seen = {}
for kind, more in (Ernie4_5Config, {}), (Ernie4_5_MoeConfig, dict(moe_intermediate_size=16, moe_num_experts=4, moe_k=2)):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(kind(**small, **more))
    names = [name for name, _ in model.named_parameters() if name.endswith("bias") and "layers.0" not in name]
    seen[kind.__name__] = "lm_head.bias" in names, any("experts.bias" in n or "proj_bias" in n for n in names)
    print(kind.__name__, names)
assert seen == {"Ernie4_5Config": (False, False), "Ernie4_5_MoeConfig": (True, False)}, "biases in other places now"
PY
