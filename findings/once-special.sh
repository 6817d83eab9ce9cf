#!/usr/bin/env bash
# GUESS: A token's special flag, as saved, decides whether decode skips it.
# TRUE: A token that was once special stays in the set of special ones after it is added again
#   with special=False. The saved flag says False, decode still skips the token, and saving and
#   reloading changes the decoded text.
# Versions: tokenizers 0.23.3.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: AddedVocabulary in the Rust crate tokenizers.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet tokenizers==0.23.3

venv/bin/python - <<'PY'
import json
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

tok = Tokenizer(models.WordLevel({"[UNK]": 0, "hello": 1, "world": 2}, unk_token="[UNK]"))
tok.pre_tokenizer = pre_tokenizers.Whitespace()
tok.add_special_tokens([AddedToken("<x>", special=True)])
tok.add_tokens([AddedToken("<x>", special=False)])
ids = tok.encode("hello <x> world").ids
flag = {t["content"]: t["special"] for t in json.loads(tok.to_str())["added_tokens"]}["<x>"]
before = tok.decode(ids, skip_special_tokens=True)
after = Tokenizer.from_str(tok.to_str()).decode(ids, skip_special_tokens=True)
print("flag as saved:", flag)
print("decoded before saving:", repr(before))
print("decoded after reloading:", repr(after))
assert flag is False
assert before == "hello world" and after == "hello <x> world", "saving changes nothing now"
PY
