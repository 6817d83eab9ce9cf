#!/usr/bin/env bash
# GUESS: After a short warm-up, decoding has a steady speed: a step does the same work whether or not
#   its length occurred before.
# TRUE: On an H100, in bf16, the first pass over each length is about ten times slower than the
#   second. scaled_dot_product_attention takes cuDNN there, which prepares a plan for every new
#   length of the keys, and the plan costs more than the step. A benchmark that warms up with two
#   tokens and then times 64 measures that preparation. Without cuDNN's attention
#   (torch.backends.cuda.enable_cudnn_sdp(False)) new lengths are as fast as old ones.
# Versions: torch 2.11.0 (CUDA 13.0), transformers 5.17.0.
# Seen: 27 November 2026, NVIDIA H100 80GB HBM3, driver 580.159.04, Python 3.12. Other cards and
#   versions were not tried. It needs such a card; packages of these versions that are installed
#   are used.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python=python3
versions='import torch, transformers as t; assert torch.__version__.startswith("2.11.0") and t.__version__ == "5.17.0"'
if ! "$python" -c "$versions" 2>/dev/null; then
  python3 -m venv venv
  python=venv/bin/python
  "$python" -m pip install --quiet torch==2.11.0 transformers==5.17.0
fi

"$python" - <<'PY'
import time
import torch
from transformers import LlamaConfig, LlamaForCausalLM

assert torch.cuda.is_available(), "this needs an NVIDIA GPU"
print(torch.cuda.get_device_name(), "torch", torch.__version__)
torch.manual_seed(0)
config = LlamaConfig(hidden_size=2048, num_hidden_layers=8, num_attention_heads=32, num_key_value_heads=4,
                     intermediate_size=5632, vocab_size=32000)
model = LlamaForCausalLM(config).to("cuda", torch.bfloat16).eval()
model.generation_config.eos_token_id = None
prompts = torch.randint(5, 200, (1, 400), device="cuda")

def seconds_per_token(prompt_len, n=64):
    def run(k):
        ids = prompts[:, :prompt_len]
        torch.cuda.synchronize()
        begin = time.perf_counter()
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=k, min_new_tokens=k, do_sample=False)
        torch.cuda.synchronize()
        return time.perf_counter() - begin
    one = run(1)
    return (run(n + 1) - one) / n

seconds_per_token(16, 2)
new, again = seconds_per_token(16), seconds_per_token(16)
torch.backends.cuda.enable_cudnn_sdp(False)
seconds_per_token(300, 2)
without = seconds_per_token(300)
print(f"ms a token: new lengths {new * 1e3:.1f}, the same again {again * 1e3:.1f}, new lengths without cuDNN {without * 1e3:.1f}")
assert new > 1.8 * again, "new lengths cost no more"
assert without < 1.4 * again
PY
