#!/usr/bin/env bash
# GUESS: max_window_layers means in Qwen2's mixture of experts what it means in Qwen2: layers from that number
#   on have a sliding window.
# TRUE: There every other layer below that number has one, and those from it on have none. Without a window its
#   configuration says sliding_window 0, where Qwen2's says null.
# Versions: transformers 5.24.0.
# Seen: 28 November 2026, Python 3.11, Linux x86-64. Earlier versions were not tried.
# Where: configuration_qwen2.py and configuration_qwen2_moe.py, __post_init__.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.24.0

venv/bin/python - <<'PY'
from transformers import Qwen2Config, Qwen2MoeConfig

def sliding(kind):
    config = kind(num_hidden_layers=8, use_sliding_window=True, sliding_window=64, max_window_layers=4)
    return [i for i, name in enumerate(config.layer_types) if name == "sliding_attention"]

print("qwen2", sliding(Qwen2Config), Qwen2Config().sliding_window)
print("qwen2_moe", sliding(Qwen2MoeConfig), Qwen2MoeConfig().sliding_window)
assert sliding(Qwen2Config) == [4, 5, 6, 7] and Qwen2Config().sliding_window is None
assert sliding(Qwen2MoeConfig) == [0, 2] and Qwen2MoeConfig().sliding_window == 0
PY
