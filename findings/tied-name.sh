#!/usr/bin/env bash
# GUESS: save_model keeps a shared weight under the name of the module that was made first.
# TRUE: It keeps the name that comes first in the alphabet and records the other in the
#   metadata. A head called classifier pushes out embed_tokens; one called output does not.
# Versions: torch 2.15.0, safetensors 0.8.0, numpy 2.4.6.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: _remove_duplicate_names in safetensors/torch.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 safetensors==0.8.0 numpy==2.4.6

venv/bin/python - <<'PY'
import torch
from safetensors import safe_open
from safetensors.torch import save_model

def kept(head):
    """Name under which the shared weight of an embedding and `head` is saved."""
    model = torch.nn.Module()
    model.embed_tokens = torch.nn.Embedding(8, 4)
    setattr(model, head, torch.nn.Linear(4, 8, bias=False))
    getattr(model, head).weight = model.embed_tokens.weight
    save_model(model, "tied.safetensors")
    with safe_open("tied.safetensors", "pt") as file:
        print("embed_tokens and", head + ": tensors", list(file.keys()), "metadata", file.metadata())
        return list(file.keys())

assert kept("output") == ["embed_tokens.weight"]
assert kept("classifier") == ["classifier.weight"], "the first module's name is kept now"
PY
