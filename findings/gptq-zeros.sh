#!/usr/bin/env bash
# GUESS: A GPTQ checkpoint of the first format stores each zero less one, so that a reader adds one to
#   each 4-bit number.
# TRUE: gptqmodel subtracts 0x11111111 from the word of eight. A zero of 0 borrows from its neighbour,
#   whose number is then less by two. Only adding to the whole word gives the zeros back.
# Versions: gptqmodel 7.7.0 (its source distribution), torch 2.15.0, transformers 5.24.0.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: gptqmodel/utils/model.py, convert_gptq_v2_to_v1_format_module.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 numpy==2.4.6 transformers==5.24.0 accelerate==1.15.0 \
  pypcre logbar threadpoolctl device-smi kernels tokenicer defuser pillow
# Built it would want a CUDA compiler; its Python is enough.
venv/bin/pip download --quiet --no-deps --no-build-isolation gptqmodel==7.7.0
tar xzf gptqmodel-7.7.0.tar.gz

PYTHONPATH=gptqmodel-7.7.0 venv/bin/python - <<'PY'
import types
import torch
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

module = TorchLinear(bits=4, group_size=32, sym=False, desc_act=False, in_features=32, out_features=32,
                     bias=False, pack_dtype=torch.int32, register_buffers=True)
zeros = torch.tensor([0, 5, 9, 0, 0, 1, 15, 3])
module.qzeros[:] = sum(int(zero) << 4 * i for i, zero in enumerate(zeros))
convert_gptq_v2_to_v1_format_module(module, types.SimpleNamespace(bits=4, pack_dtype=torch.int32))
word = int(module.qzeros[0, 0]) & 0xFFFFFFFF

nibbles = lambda word: torch.tensor([word >> 4 * i & 15 for i in range(8)])
by_number = (nibbles(word) + 1) & 15
by_word = nibbles(word + 0x11111111 & 0xFFFFFFFF)
print("zeros       ", zeros.tolist())
print("stored      ", nibbles(word).tolist())
print("plus one    ", by_number.tolist())
print("plus 0x11…11", by_word.tolist())
assert by_word.equal(zeros), "the word does not give the zeros back"
assert not by_number.equal(zeros), "each number by itself does, too"
PY
