#!/usr/bin/env bash
# GUESS: JSON has one number type, so 24 and 24.0 are the same value in a config.
# TRUE: The config classes check Python's types. Gemma2Config refuses 24.0 for
#   query_pre_attn_scalar (an int) and 30 for final_logit_softcapping (a float), and takes 0 for
#   attention_dropout.
# Versions: transformers 5.24.0, huggingface_hub 2.4.0.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: the fields of Gemma2Config, checked by huggingface_hub/dataclasses.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.24.0 huggingface_hub==2.4.0

export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
venv/bin/python - <<'PY'
from transformers import Gemma2Config

def taken(key, value):
    try:
        Gemma2Config.from_dict({key: value})
    except Exception as error:
        print(key, "=", value, "->", type(error).__name__ + ":", str(error).strip().splitlines()[-1].strip())
        return False
    print(key, "=", value, "-> taken")
    return True

assert taken("query_pre_attn_scalar", 24)
assert taken("final_logit_softcapping", 30.0)
assert taken("attention_dropout", 0)
assert not taken("query_pre_attn_scalar", 24.0), "a float is taken now"
assert not taken("final_logit_softcapping", 30), "a whole number is taken now"
PY
