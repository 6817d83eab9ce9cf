#!/usr/bin/env bash
# GUESS: tie_word_embeddings = false gives T5 a head of its own, as in other families.
# TRUE: The config sets the key back to true and only stops scaling the decoder's output. A new
#   model is tied and saved without a head. On loading the values decide: a head equal to the
#   embedding is tied, another one is kept.
# Versions: torch 2.15.0, transformers 5.24.0, safetensors 0.8.0.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: transformers/models/t5/configuration_t5.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 transformers==5.24.0 safetensors==0.8.0

export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
venv/bin/python - <<'PY'
import json
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration
from transformers.utils import logging

logging.disable_progress_bar()
torch.manual_seed(0)
config = T5Config(
    vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, tie_word_embeddings=False
)
new = T5ForConditionalGeneration(config)
tied = new.lm_head.weight is new.shared.weight
print("asked for false: config says", config.tie_word_embeddings, "| head is the embedding:", tied,
      "| output is scaled:", config.scale_decoder_outputs)
new.save_pretrained("model")
weights = load_file("model/model.safetensors")
print("head in the saved file:", "lm_head.weight" in weights)

def tied_on_loading(head):
    save_file(weights | {"lm_head.weight": head}, "model/model.safetensors", metadata={"format": "pt"})
    saved = json.loads(Path("model/config.json").read_text()) | {"tie_word_embeddings": False}
    Path("model/config.json").write_text(json.dumps(saved))
    loaded = T5ForConditionalGeneration.from_pretrained("model")
    return loaded.lm_head.weight is loaded.shared.weight

same = tied_on_loading(weights["shared.weight"].clone())
other = tied_on_loading(torch.randn(32, 16))
print("file with an equal head: tied", same, "| file with another head: tied", other)
assert tied and config.tie_word_embeddings and not config.scale_decoder_outputs, "the key is obeyed now"
assert "lm_head.weight" not in weights
assert same and not other
PY
