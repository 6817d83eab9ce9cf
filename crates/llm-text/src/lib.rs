//! Tokenizers, chat templates and a streaming detokenizer.
//!
//! Everything between a person's text and a model's token ids, and nothing else: this crate knows neither devices
//! nor weights. A [`Tokenizer`] comes from a model's folder, from bytes in memory or from the metadata of a GGUF
//! file. It encodes and decodes, hands out a [`StreamingDetokenizer`] for text that is printed while it is being
//! generated, and holds the model's [`ChatTemplate`], if it has one. [`StopStrings`] watches the printed text.
//!
//! The reference for ids and text alike is what the Python package `transformers` does with the same files.

mod byte_level;
mod chat;
mod detokenizer;
mod error;
mod file;
mod gguf;
mod shield;
mod splits;
mod stop;
mod tokenizer;

pub use chat::{ChatTemplate, Conversation, GenerationPrompt, Message, Role};
pub use detokenizer::StreamingDetokenizer;
pub use error::TextError;
pub use gguf::GgufTokenizer;
pub use stop::{StopOutcome, StopStrings};
pub use tokenizer::{SpecialText, SpecialTokens, Tokenizer};
