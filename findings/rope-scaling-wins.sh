#!/usr/bin/env bash
# GUESS: With both rope_parameters (new) and rope_scaling (old) in a config, the new key wins,
#   or the two are merged.
# TRUE: The old key wins whole. The rope_theta inside rope_parameters is lost, and the default
#   base 10000 takes its place.
# Versions: transformers 5.24.0, huggingface_hub 2.4.0.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: transformers/modeling_rope_utils.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.24.0 huggingface_hub==2.4.0

export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
venv/bin/python - <<'PY'
from transformers import LlamaConfig

new = {"rope_type": "default", "rope_theta": 500000.0}
old = {"rope_type": "linear", "factor": 4.0}
alone = LlamaConfig.from_dict({"rope_parameters": dict(new)}).rope_parameters
both = LlamaConfig.from_dict({"rope_parameters": dict(new), "rope_scaling": dict(old)}).rope_parameters
print("rope_parameters alone:", alone)
print("with rope_scaling too:", both)
assert alone["rope_theta"] == 500000.0
assert both["rope_type"] == "linear", "rope_parameters wins now"
assert both["rope_theta"] == 10000.0, "the base is kept now"
PY
