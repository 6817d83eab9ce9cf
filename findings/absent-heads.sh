#!/usr/bin/env bash
# GUESS: Leaving num_key_value_heads out and writing null mean the same: as many as
#   num_attention_heads.
# TRUE: It depends on the family. Llama does that. Mistral takes 8 for an absent key and refuses
#   null. Qwen2 takes 32 for an absent key and the number of heads for null.
# Versions: transformers 5.24.0, huggingface_hub 2.4.0.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: the configuration classes of the three families.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.24.0 huggingface_hub==2.4.0

export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
venv/bin/python - <<'PY'
from transformers import LlamaConfig, MistralConfig, Qwen2Config

def heads(config, **more):
    try:
        return config.from_dict({"num_attention_heads": 64} | more).num_key_value_heads
    except Exception as error:
        return type(error).__name__

seen = {}
for config in (LlamaConfig, MistralConfig, Qwen2Config):
    seen[config.model_type] = (heads(config), heads(config, num_key_value_heads=None))
    print(config.model_type + ": key absent", seen[config.model_type][0], "| key null", seen[config.model_type][1])
assert seen["llama"] == (64, 64)
assert seen["mistral"] == (8, "StrictDataclassFieldValidationError")
assert seen["qwen2"] == (32, 64)
PY
