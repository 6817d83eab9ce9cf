//! Examples at the end of each command's help.

pub(super) const GENERATE: &str = r#"Examples:
  llm-run generate MODEL "The three primary colours are"
  llm-run generate MODEL --chat "Why is the sky blue?" --temperature 0.7 --seed 1
  llm-run generate MODEL --prompts prompts.jsonl --batch 8
  llm-run generate MODEL --load-in-4bit --max-memory 'cpu=4GB' "Once upon a time""#;
pub(super) const CHAT: &str = r#"Examples:
  llm-run chat MODEL
  llm-run chat MODEL --system "You answer in one sentence.""#;
pub(super) const SERVE: &str = r#"Examples:
  llm-run serve MODEL
  llm-run serve MODEL --host 0.0.0.0 --port 8000 --api-key-file key.txt --batch 16"#;
pub(super) const SCORE: &str = r#"Examples:
  llm-run score MODEL --text book.txt
  llm-run score MODEL --text book.txt --load-in-4bit"#;
pub(super) const PLAN: &str = r#"Examples:
  llm-run plan MODEL
  llm-run plan org/name --max-memory '0=15GB,cpu=12.7GB'
  llm-run plan MODEL --load-in-4bit --context 8192 --verbose"#;
pub(super) const INSPECT: &str = r#"Examples:
  llm-run inspect MODEL
  llm-run inspect MODEL --load-in-4bit --json"#;
pub(super) const SHARD: &str = r#"Examples:
  llm-run shard pytorch_model.bin OUT --max-shard-size 2GB
  llm-run shard model.gguf OUT --to-hf"#;
pub(super) const QUANTIZE: &str = r#"Examples:
  llm-run quantize MODEL OUT --load-in-4bit
  llm-run quantize MODEL OUT --load-in-8bit"#;
pub(super) const VERIFY: &str = r#"Examples:
  llm-run verify MODEL --write-manifest
  llm-run verify MODEL --nan"#;
pub(super) const PULL: &str = r#"Examples:
  llm-run pull org/name
  llm-run pull org/name-GGUF:Q4_K_M"#;
pub(super) const REMOVE: &str = "Examples:\n  llm-run remove org/name";
pub(super) const DOCTOR: &str = r#"Examples:
  llm-run doctor
  llm-run doctor --json"#;
pub(super) const COMPLETIONS: &str = "Examples:
  llm-run completions bash > ~/.local/share/bash-completion/completions/llm-run
  llm-run completions zsh > \"${fpath[1]}/_llm-run\"";
pub(super) const MAN: &str = "Examples:
  llm-run man | man -l -
  llm-run man --out ~/.local/share/man/man1";
