#!/usr/bin/env bash
# GUESS: generate gives the same logits with and without a cache, for every model that takes
#   longrope.
# TRUE: When the text grows past original_max_position_embeddings, the long factors hold for all
#   positions, but cached keys keep the short ones. Phi-3 drops its cache there and agrees with
#   itself. Llama with longrope does not.
# Versions: torch 2.15.0, transformers 5.24.0.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: prepare_inputs_for_generation in transformers/models/phi3/modeling_phi3.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 transformers==5.24.0

export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
venv/bin/python - <<'PY'
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

rope = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
    "factor": 4.0, "original_max_position_embeddings": 16,
}
size = dict(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, max_position_embeddings=64, original_max_position_embeddings=16,
    initializer_range=0.3, bos_token_id=1, eos_token_id=None, pad_token_id=0,
)

def logits(model, use_cache):
    out = model.generate(
        torch.arange(3, 15)[None], max_new_tokens=6, do_sample=False, use_cache=use_cache, output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.cat(out.logits)

worst = {}
for kind, config in ((LlamaForCausalLM, LlamaConfig), (Phi3ForCausalLM, Phi3Config)):
    torch.manual_seed(0)
    model = kind(config(**size, rope_parameters=dict(rope))).eval()
    apart = (logits(model, True) - logits(model, False)).abs().amax(-1).tolist()
    worst[kind] = max(apart)
    print(kind.__name__, "with and without cache, largest difference by step:", [round(x, 4) for x in apart])
assert worst[LlamaForCausalLM] > 0.01, "the cache is computed anew now"
assert worst[Phi3ForCausalLM] < 1e-3
PY
