#!/usr/bin/env bash
# GUESS: Gemma reads hidden_activation like Gemma 2, and "gelu" in hidden_act means the exact
#   GELU.
# TRUE: Gemma 1 reads only hidden_act, takes "gelu" there as the tanh approximation, and never
#   looks at hidden_activation. Gemma 2 does the reverse and takes "gelu" as the exact one.
# Versions: torch 2.15.0, transformers 5.24.0.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: transformers/models/gemma/configuration_gemma.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 transformers==5.24.0

export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
venv/bin/python - <<'PY'
from transformers import Gemma2Config, GemmaConfig
from transformers.models.gemma2.modeling_gemma2 import Gemma2MLP
from transformers.models.gemma.modeling_gemma import GemmaMLP

def activation(mlp, config, **keys):
    name = type(mlp(config(hidden_size=8, intermediate_size=16, **keys)).act_fn).__name__
    print(config.model_type, keys, "->", name)
    return name

assert activation(GemmaMLP, GemmaConfig, hidden_act="gelu") == "GELUTanh"
assert activation(GemmaMLP, GemmaConfig, hidden_act="relu", hidden_activation="gelu") == "ReLU"
assert activation(GemmaMLP, GemmaConfig, hidden_activation="gelu") == "GELUTanh"
assert activation(Gemma2MLP, Gemma2Config, hidden_act="relu", hidden_activation="gelu") == "GELUActivation"
PY
