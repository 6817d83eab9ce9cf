#!/usr/bin/env bash
# GUESS: A configuration of LFM2 with experts that leaves layer_types out means what one without experts does: all
#   layers attend.
# TRUE: It is accepted, layer_types stays None, and no model can be made of it, not even of the class's own defaults.
# Versions: torch 2.15.0, transformers 5.24.0.
# Seen: 28 November 2026, Python 3.11, Linux x86-64. Earlier versions were not tried.
# Where: configuration_lfm2_moe.py, __post_init__; configuration_lfm2.py has a default.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 transformers==5.24.0

venv/bin/python - <<'PY'
import torch
from transformers import AutoModelForCausalLM, Lfm2Config, Lfm2MoeConfig

small = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, vocab_size=64)
with torch.device("meta"):
    dense = AutoModelForCausalLM.from_config(Lfm2Config(**small))
print("Lfm2Config:", dense.config.layer_types)
assert dense.config.layer_types == ["full_attention"] * 2
try:
    AutoModelForCausalLM.from_config(Lfm2MoeConfig(**small))
except Exception as error:
    print("Lfm2MoeConfig:", type(error).__name__, error)
else:
    raise SystemExit("a model comes of it now")
PY
