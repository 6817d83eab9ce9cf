#!/usr/bin/env bash
# GUESS: Names in a GGUF end in .weight or .bias as names of the checkpoint do that it was made of, but for vectors that have no
#   such ending there either.
# TRUE: A pattern of the package's table of names may itself end in .weight. It is found before endings are taken off, and its
#   name has none to put back: Falcon-H1's model.layers.0.pre_ff_layernorm.weight becomes blk.0.ffn_norm, and the same norm of
#   Granite 4, post_attention_layernorm, blk.0.ffn_norm.weight. llama.cpp's Falcon-H1 asks for the name without.
# Versions: gguf 0.19.0.
# Seen: 29 November 2026, Python 3.11, Linux x86-64. Earlier versions were not tried.
# Where: MODEL_TENSOR.FFN_PRE_NORM in tensor_mapping.py, and get_type_and_name there.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet gguf==0.19.0

venv/bin/python - <<'PY'
import gguf

def name(arch, norm):
    names = gguf.get_tensor_name_map(arch, 1)
    found = names.get_name(f"model.layers.0.{norm}.weight", try_suffixes=(".weight", ".bias"))
    print(gguf.MODEL_ARCH_NAMES[arch], norm, "->", found)
    return found

assert name(gguf.MODEL_ARCH.GRANITE_HYBRID, "post_attention_layernorm") == "blk.0.ffn_norm.weight"
assert name(gguf.MODEL_ARCH.FALCON_H1, "pre_ff_layernorm") == "blk.0.ffn_norm", "it has the ending now"
PY
