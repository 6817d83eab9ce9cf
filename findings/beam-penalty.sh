#!/usr/bin/env bash
# GUESS: The repetition penalty is one formula: divide positive logits, multiply negative ones,
#   whatever the number of beams.
# TRUE: Beam search hands log-probabilities to the processors. They are never positive, so the
#   penalty always multiplies, and the same setting is another penalty with two beams than with
#   one.
# Versions: torch 2.15.0, transformers 5.24.0.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: _beam_search in transformers/generation/utils.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 transformers==5.24.0

export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
venv/bin/python - <<'PY'
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessor, LogitsProcessorList

class Keep(LogitsProcessor):
    def __call__(self, input_ids, scores):
        self.scores = scores.clone()
        return scores

torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, bos_token_id=1, eos_token_id=None, pad_token_id=0, initializer_range=0.3,
)).eval()
prompt = torch.arange(2, 12)[None]

def seen(beams, penalty):
    keep = Keep()
    model.generate(prompt, max_new_tokens=1, do_sample=False, num_beams=beams, repetition_penalty=penalty,
                   logits_processor=LogitsProcessorList([keep]))
    return keep.scores[0, 2:12]

factors = {}
for beams in (1, 2):
    before, after = seen(beams, 1.0), seen(beams, 1.5)
    factors[beams] = sorted({round(x, 3) for x in (after / before).tolist()})
    print(beams, "beams: scores from %.2f to %.2f," % (before.min(), before.max()), "factors", factors[beams])
assert factors[1] == [0.667, 1.5]
assert factors[2] == [1.5], "beams penalize raw logits now"
PY
