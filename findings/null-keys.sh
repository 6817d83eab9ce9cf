#!/usr/bin/env bash
# GUESS: apply_chat_template passes messages on as they are, and render_jinja_template is the
#   same thing without the tokenizer.
# TRUE: apply_chat_template first drops the keys of a message whose value is null.
#   render_jinja_template does not. A template that asks 'name' in message sees the difference.
# Versions: transformers 5.24.0, tokenizers 0.23.3, jinja2 3.1.6.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: transformers/utils/chat_template_utils.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.24.0 tokenizers==0.23.3 jinja2==3.1.6

export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
venv/bin/python - <<'PY'
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

tok = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")))
template = "{% for m in messages %}{{ m.role }} has name: {{ 'name' in m }}{% endfor %}"
messages = [{"role": "user", "content": "hi", "name": None}]
applied = tok.apply_chat_template(messages, chat_template=template, tokenize=False)
rendered = render_jinja_template(conversations=[messages], chat_template=template)[0][0]
print("apply_chat_template:  ", applied)
print("render_jinja_template:", rendered)
assert applied == "user has name: False"
assert rendered == "user has name: True", "both drop the key now"
PY
