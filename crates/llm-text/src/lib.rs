//! Tokenizers, chat templates and a streaming detokenizer.
