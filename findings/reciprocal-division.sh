#!/usr/bin/env bash
# GUESS: 127.0 / x divides, and is the same as torch.tensor(127.0) / x.
# TRUE: A Python number over a tensor is computed as x.reciprocal() * number, which rounds
#   twice. About a quarter of float32 results differ from true division in the last bits. A
#   tensor over a tensor divides. So an int8 scale depends on which of the two was written.
# Versions: torch 2.15.0, numpy 2.4.6.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: Tensor.__rdiv__ in torch/_tensor.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.15.0 numpy==2.4.6

venv/bin/python - <<'PY'
import numpy as np
import torch

torch.manual_seed(0)
x = torch.rand(100_000) * 3 + 0.01
by_number = (127.0 / x).numpy()
by_tensor = (torch.tensor(127.0) / x).numpy()
true = np.float32(127) / x.numpy()
product = np.float32(127) * (np.float32(1) / x.numpy())
print("127.0 / x:        differs from division in", (by_number != true).sum(), "of 100000, from 127 * (1 / x) in",
      (by_number != product).sum())
print("tensor(127) / x:  differs from division in", (by_tensor != true).sum())
assert (by_number != true).sum() > 1000, "a number is divided truly now"
assert (by_number == product).all()
assert (by_tensor == true).all()
PY
