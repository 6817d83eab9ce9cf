#!/usr/bin/env bash
# GUESS: select, reject and map give lists: an empty one is false, and it can be read twice.
# TRUE: They give generators. One is always true, and the second reading finds nothing. A
#   template must say | list.
# Versions: jinja2 3.1.6.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: jinja2/filters.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet jinja2==3.1.6

venv/bin/python - <<'PY'
from jinja2 import Environment

env = Environment()

def render(source):
    out = env.from_string(source).render(calls=["a", "b"])
    print(source, "->", out)
    return out

some = "{% set found = calls | select('equalto', 'z') %}"
assert render(some + "{{ 'yes' if found else 'no' }}") == "yes", "an empty result is false now"
assert render(some + "{{ 'yes' if found | list else 'no' }}") == "no"
once = "{% set up = calls | map('upper') %}"
assert render(once + "{{ up | join }}, {{ up | join }}") == "AB, ", "a result can be read twice now"
PY
