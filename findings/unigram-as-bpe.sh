#!/usr/bin/env bash
# GUESS: LlamaTokenizer reads a SentencePiece tokenizer.model as what it is, unigram or BPE.
# TRUE: It always makes a BPE tokenizer, with merges worked out from the pieces. A unigram model
#   loads without a word and gives other ids than sentencepiece itself.
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
import random
from pathlib import Path
import sentencepiece as spm
from transformers import LlamaTokenizer

random.seed(0)
words = ["lower", "lowest", "newer", "newest", "wider", "widest", "low", "new", "wide", "slow", "slower", "slowest"]
lines = [" ".join(random.choices(words, k=8)) for _ in range(500)]
model = io.BytesIO()
spm.SentencePieceTrainer.train(
    sentence_iterator=iter(lines), model_writer=model, model_type="unigram", vocab_size=45,
    byte_fallback=False, hard_vocab_limit=False, minloglevel=2,
)
folder = Path("model")
folder.mkdir()
(folder / "tokenizer.model").write_bytes(model.getvalue())
sp = spm.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
tok = LlamaTokenizer.from_pretrained(folder)
print("model behind LlamaTokenizer:", type(tok.backend_tokenizer.model).__name__)
others = 0
for text in words + lines[:20]:
    expected = sp.encode(text)
    found = tok(text, add_special_tokens=False)["input_ids"]
    if expected != found:
        others += 1
        if others <= 3:
            print(repr(text)[:40], [sp.id_to_piece(i) for i in expected][:8], tok.convert_ids_to_tokens(found)[:8])
print("texts with other ids:", others, "of", len(words) + 20)
assert type(tok.backend_tokenizer.model).__name__ == "BPE"
assert others > 0, "the ids agree now"
PY
