#!/usr/bin/env bash
# GUESS: In a template d['items'] looks a key up and finds nothing where there is none. Brackets
#   and dots do the same.
# TRUE: Brackets fall back to attributes, so d['items'] on a dict without that key is the dict's
#   method, and it is defined. Dots look for the attribute first: d.items is the method even
#   where the key exists. A JSON schema has such keys.
# Versions: jinja2 3.1.6.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: Environment.getitem and getattr in jinja2/environment.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet jinja2==3.1.6

venv/bin/python - <<'PY'
from jinja2.sandbox import ImmutableSandboxedEnvironment

env = ImmutableSandboxedEnvironment()

def render(source, **data):
    out = env.from_string(source).render(**data)
    print(source, data, "->", out)
    return out

assert render("{{ schema['type'] is defined }}", schema={"a": 1}) == "False"
assert render("{{ schema['items'] is defined }}", schema={"a": 1}) == "True", "a method is no longer found"
assert render("{{ schema.items is mapping }}", schema={"items": {}}) == "False"
assert render("{{ schema['items'] is mapping }}", schema={"items": {}}) == "True"
PY
