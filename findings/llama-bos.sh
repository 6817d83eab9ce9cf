#!/usr/bin/env bash
# GUESS: LlamaTokenizer puts BOS in front, as its documentation says (add_bos_token, default
#   True).
# TRUE: Loaded from tokenizer.model without add_bos_token in the config, it adds none. The key
#   has to be written out.
# Versions: transformers 5.24.0, tokenizers 0.23.3, sentencepiece 0.2.3, protobuf 7.36.2.
# Seen: 27 November 2026, Python 3.11, Linux x86-64, CPU. Earlier versions were not tried.
# Where: transformers/models/llama/tokenization_llama.py.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.24.0 tokenizers==0.23.3 sentencepiece==0.2.3 protobuf==7.36.2

export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
venv/bin/python - <<'PY'
import io
import json
from pathlib import Path
import sentencepiece as spm
from transformers import LlamaTokenizer

model = io.BytesIO()
spm.SentencePieceTrainer.train(
    sentence_iterator=iter(["the cat sat on the mat", "a dog lay on a log"] * 50), model_writer=model,
    model_type="bpe", vocab_size=40, hard_vocab_limit=False, minloglevel=2,
)
print("docs:", [l.strip() for l in (LlamaTokenizer.__doc__ or "").splitlines() if "add_bos_token" in l])
ids = {}
for name, config in {"absent": {}, "true": {"add_bos_token": True}}.items():
    folder = Path(name)
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"} | config))
    tok = LlamaTokenizer.from_pretrained(folder)
    ids[name] = tok("the cat")["input_ids"]
    print("add_bos_token", name + ":", tok.convert_ids_to_tokens(ids[name]), "bos id", tok.bos_token_id)
assert ids["true"][0] == 1
assert ids["absent"] == ids["true"][1:], "the default adds BOS now"
PY
