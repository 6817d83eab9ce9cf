#!/usr/bin/env bash
# GUESS: A repository's tokenizer.json is what AutoTokenizer runs.
# TRUE: The class named in tokenizer_config.json rebuilds the pre-tokenizer. With GPT2Tokenizer
#   a Digits step before ByteLevel is gone, and "12" becomes one token instead of two.
#   Vocabulary and merges are kept, so nothing looks wrong.
# Versions: transformers 5.24.0, tokenizers 0.23.3.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: transformers/models/gpt2/tokenization_gpt2.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.24.0 tokenizers==0.23.3

export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
venv/bin/python - <<'PY'
import json
from pathlib import Path
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
vocab = {letter: i for i, letter in enumerate(letters)}
vocab["12"] = len(vocab)
vocab["<|endoftext|>"] = len(vocab)
raw = Tokenizer(models.BPE(vocab=vocab, merges=[("1", "2")]))
raw.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
)
raw.decoder = decoders.ByteLevel()
folder = Path("model")
folder.mkdir()
raw.save(str(folder / "tokenizer.json"))
(folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))

expected = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a12", add_special_tokens=False).tokens
tok = AutoTokenizer.from_pretrained(folder)
found = tok.convert_ids_to_tokens(tok("a12", add_special_tokens=False)["input_ids"])
print("the file by itself:", expected)
print(type(tok).__name__ + ":", found)
print("pre-tokenizer after loading:", json.loads(tok.backend_tokenizer.to_str())["pre_tokenizer"]["type"])
assert expected == ["a", "1", "2"]
assert found == ["a", "12"], "the digits are split now"
PY
