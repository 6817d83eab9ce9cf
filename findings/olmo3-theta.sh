#!/usr/bin/env bash
# GUESS: rope_theta beside rope_scaling in an OLMo 3 configuration is the base of all layers; only the
#   scaling is for those that see everything.
# TRUE: It is the base of the layers that see everything. Those that slide get the class's default,
#   500000, whatever the configuration says: the key is gone when it is looked up for them.
# Versions: transformers 5.24.0.
# Seen: 28 November 2026, Python 3.11, Linux x86-64. Earlier versions were not tried.
# Where: transformers/models/olmo3/configuration_olmo3.py, convert_rope_params_to_dict.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.24.0

venv/bin/python - <<'PY'
from transformers import Olmo3Config

scaling = dict(rope_type="yarn", factor=8.0, original_max_position_embeddings=8192)
for keys in [dict(rope_theta=1e6), dict(rope_theta=1e6, rope_scaling=scaling)]:
    rope = Olmo3Config(**keys).rope_parameters
    print({kind: rope[kind]["rope_theta"] for kind in sorted(rope)})
    assert rope["full_attention"]["rope_theta"] == 1e6
    assert rope["sliding_attention"]["rope_theta"] == 500000.0, "one base for both now"
by_type = dict(full_attention=dict(rope_type="default", rope_theta=1e6),
               sliding_attention=dict(rope_type="default", rope_theta=1e6))
rope = Olmo3Config(rope_parameters=by_type).rope_parameters
print("by kind:", {kind: rope[kind]["rope_theta"] for kind in sorted(rope)})
assert rope["sliding_attention"]["rope_theta"] == 1e6
PY
