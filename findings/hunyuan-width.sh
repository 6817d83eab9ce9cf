#!/usr/bin/env bash
# GUESS: HunYuan's experts are as wide as moe_intermediate_size, and its shared one as num_shared_expert of them, as these keys of
#   published configurations say and as DeepSeek's and Qwen's are.
# TRUE: Neither key is read. Every expert, and the one that all tokens take, is intermediate_size wide, whatever they say.
# Versions: torch 2.15.0, transformers 5.24.0.
# Seen: 28 November 2026, Python 3.11, Linux x86-64. Earlier versions were not tried.
# Where: modeling_hunyuan_v1_moe.py, HunYuanMoEV1Experts and HunYuanMoEV1MLP.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 transformers==5.24.0

venv/bin/python - <<'PY'
import warnings
import torch
from transformers import HunYuanMoEV1Config, HunYuanMoEV1ForCausalLM

warnings.filterwarnings("ignore")
small = dict(hidden_size=32, num_hidden_layers=1, vocab_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
             intermediate_size=48, num_experts=4, moe_topk=2)
shapes = {}
for told in {}, dict(moe_intermediate_size=24, num_shared_expert=2), dict(moe_intermediate_size=[24], num_shared_expert=[2]):
    with torch.device("meta"):
        model = HunYuanMoEV1ForCausalLM(HunYuanMoEV1Config(**small, **told))
    names = {name: tuple(p.shape) for name, p in model.named_parameters() if ".mlp." in name and "gate.wg" not in name}
    shapes[str(told)] = names
    print("told", told or "nothing:", names)
assert len({str(names) for names in shapes.values()}) == 1, "the keys change shapes now"
PY
