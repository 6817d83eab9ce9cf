#!/usr/bin/env bash
# GUESS: Where minijinja differs from jinja2 it raises an error, so a template that renders,
#   renders the same.
# TRUE: Some differences pass without an error: large floats print differently, a string or a
#   mapping is no sequence, none is iterable, and tojson keeps the order of keys that jinja2
#   sorts.
# Versions: jinja2 3.1.6, minijinja 3.1.0.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: rendered output only.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet jinja2==3.1.6 minijinja==3.1.0

venv/bin/python - <<'PY'
import jinja2
import minijinja

def both(source, **data):
    out = jinja2.Environment().from_string(source).render(**data), minijinja.Environment().render_str(source, **data)
    print(source.ljust(26), "jinja2:", repr(out[0]), "minijinja:", repr(out[1]))
    return out

assert both("{{ 1e15 }}") == ("1000000000000000.0", "1000000000000000.0")
assert both("{{ 1e16 }}") == ("1e+16", "10000000000000000.0")
assert both("{{ 'text' is sequence }}") == ("True", "False")
assert both("{{ {} is sequence }}") == ("True", "False")
assert both("{{ none is iterable }}") == ("False", "True")
assert both("{{ {'b': 1, 'a': 2} | tojson }}") == ('{"a": 2, "b": 1}', '{"b": 1, "a": 2}')
PY
