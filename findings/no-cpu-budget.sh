#!/usr/bin/env bash
# GUESS: max_memory={0: "10GB"} limits GPU 0. What does not fit there goes to RAM, whose free memory
#   is the default where "cpu" is not named, as it is without max_memory.
# TRUE: A memory that is not named does not exist. What does not fit goes to disk, however much RAM is
#   free. Defaults are taken only where max_memory is missing altogether.
# Versions: accelerate 1.15.0, torch 2.15.0, numpy 2.4.6.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: accelerate/utils/modeling.py, get_max_memory and infer_auto_device_map.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet accelerate==1.15.0 torch==2.15.0 numpy==2.4.6

venv/bin/python - <<'PY'
from accelerate import infer_auto_device_map, init_empty_weights
from torch import nn

with init_empty_weights():
    model = nn.Sequential(*[nn.Linear(100, 100, bias=False) for _ in range(10)])
layer = 4 * 100 * 100

def homes(max_memory):
    device_map = infer_auto_device_map(model, max_memory=max_memory)
    found = sorted({str(home) for home in device_map.values()})
    print(max_memory, found)
    return found

assert homes({0: 4 * layer}) == ["0", "disk"], "the rest goes elsewhere now"
assert homes({0: 4 * layer, "cpu": 100 * layer}) == ["0", "cpu"]
PY
