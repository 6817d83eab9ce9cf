use std::collections::VecDeque;

use tokenizers::DecoderWrapper;

use crate::byte_level::bytes_of;
use crate::tokenizer::cleanup;
use crate::{SpecialText, TextError, Tokenizer};

/// Turns token ids into text one by one, never handing out half a character.
///
/// All pieces together are exactly what [`Tokenizer::decode`] makes of all ids at once, but for one case: where a
/// tokenizer spells characters in byte tokens, a byte that makes no character turns all bytes beside it into U+FFFD,
/// those before it too. A run of such tokens is held back by 16 bytes, and what is out by then stays out. The work per
/// token is constant, amortised: no more than the tokens since the last certain character are looked at again.
#[derive(Debug)]
pub struct StreamingDetokenizer<'t> {
    tokenizer: &'t Tokenizer,
    special: SpecialText,
    state: State,
    /// Cleanup after decoding, if there is any.
    cleanup: Option<Cleanup>,
}

impl Tokenizer {
    /// A decoder for ids that come one by one, which skips special tokens.
    pub fn detokenizer(&self) -> StreamingDetokenizer<'_> {
        self.detokenizer_with(SpecialText::Skip)
    }

    /// A decoder for ids that come one by one.
    pub fn detokenizer_with(&self, special: SpecialText) -> StreamingDetokenizer<'_> {
        StreamingDetokenizer::new(self, special)
    }
}

impl Tokenizer {
    /// The bytes that a token spells in the middle of a text; nothing where its neighbours have a say in that, or no token has
    /// that id.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let token = self.token(id).ok()?;
        match self.decoder()? {
            DecoderWrapper::ByteLevel(_) => Some(bytes_of(&token)),
            // SentencePiece's: bytes have tokens of their own, and a mark stands for a space.
            other if joins_bytes(other) => Some(match byte_token(&token) {
                Some(byte) => vec![byte],
                None => token.replace('\u{2581}', " ").into_bytes(),
            }),
            _ => None,
        }
    }
}

impl<'t> StreamingDetokenizer<'t> {
    fn new(tokenizer: &'t Tokenizer, special: SpecialText) -> Self {
        let state = match tokenizer.decoder() {
            Some(DecoderWrapper::ByteLevel(_)) => State::Bytes(Utf8Stream::default()),
            other => State::Window(Window {
                joins_bytes: other.is_some_and(joins_bytes),
                ..Window::default()
            }),
        };
        StreamingDetokenizer {
            tokenizer,
            special,
            state,
            cleanup: tokenizer.cleans_up().then(Cleanup::default),
        }
    }

    /// Takes the next id and returns the text that is now certain, which may be empty.
    ///
    /// # Errors
    ///
    /// An id outside the vocabulary is [`TextError::UnknownId`] and leaves the state as it was.
    pub fn push(&mut self, id: u32) -> Result<String, TextError> {
        let Some(token) = self.tokenizer.visible(id, self.special)? else {
            return Ok(String::new());
        };
        let text = match &mut self.state {
            State::Bytes(stream) => stream.push(&bytes_of(&token)),
            State::Window(window) => window.push(token, self.tokenizer)?,
        };
        Ok(match &mut self.cleanup {
            Some(cleanup) => cleanup.push(&text),
            None => text,
        })
    }

    /// The rest: an incomplete character comes out as U+FFFD, as in [`Tokenizer::decode`].
    ///
    /// # Errors
    ///
    /// [`TextError::NotDecodable`] if the tokenizer's decoder fails.
    pub fn finish(self) -> Result<String, TextError> {
        let text = match self.state {
            State::Bytes(stream) => stream.finish(),
            State::Window(window) => window.finish(self.tokenizer)?,
        };
        Ok(match self.cleanup {
            Some(cleanup) => cleanup.finish(&text),
            None => text,
        })
    }
}

#[derive(Debug)]
enum State {
    /// Byte-level tokenizers: each token is a few bytes, wherever it stands.
    Bytes(Utf8Stream),
    /// All others: what a token becomes depends on its neighbours.
    Window(Window),
}

/// Bytes to text as [`String::from_utf8_lossy`], but in pieces.
#[derive(Debug, Default)]
struct Utf8Stream {
    /// The beginning of a character: at most three bytes.
    pending: Vec<u8>,
}

impl Utf8Stream {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = Vec::new();
        let mut chunks = self.pending.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && is_incomplete(invalid) {
                rest = invalid.to_vec();
            } else if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.pending = rest;
        text
    }

    fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// True if more bytes could make a character of `bytes`.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// Text that loses spaces before punctuation. What is lost begins with a space, so that text is certain up to the last
/// one, unless an apostrophe stands before it, which may be lost with it.
#[derive(Debug, Default)]
struct Cleanup {
    held: String,
}

impl Cleanup {
    fn push(&mut self, text: &str) -> String {
        self.held.push_str(text);
        let spaces = self.held.rmatch_indices(' ').map(|(at, _)| at);
        let mut certain = spaces.filter(|&at| !self.held[..at].ends_with('\''));
        let Some(at) = certain.next() else {
            return String::new();
        };
        let rest = self.held.split_off(at);
        cleanup(&std::mem::replace(&mut self.held, rest))
    }

    fn finish(self, text: &str) -> String {
        cleanup(&(self.held + text))
    }
}

/// The tokens that the next ones' text depends on: the last of which all text was handed out, and those after it.
///
/// Decoders treat the first token in a special way (a leading space goes), so the window always begins with a token
/// whose text is already out, and what is new is what comes after that text.
#[derive(Debug, Default)]
struct Window {
    tokens: Vec<String>,
    /// Bytes of the tokens' text that are already handed out.
    printed: usize,
    /// True if the decoder makes characters of byte tokens.
    joins_bytes: bool,
    run: Run,
}

/// The byte tokens that follow each other at the window's end.
#[derive(Debug, Default)]
struct Run {
    /// Bytes whose characters are whole, by the characters' lengths; those that are out are not counted.
    whole: VecDeque<usize>,
    /// The beginning of a character: at most three bytes.
    partial: Vec<u8>,
    /// True if some of its text is out.
    is_cut: bool,
    /// True if a byte in it makes no character.
    is_bad: bool,
}

impl Run {
    /// Number of its tokens that are not out.
    fn n_held(&self) -> usize {
        self.whole.iter().sum::<usize>() + self.partial.len()
    }
}

impl Window {
    fn push(&mut self, token: String, tokenizer: &Tokenizer) -> Result<String, TextError> {
        match byte_token(&token).filter(|_| self.joins_bytes) {
            Some(byte) => self.push_byte(token, byte, tokenizer),
            None => {
                let mut text = self.end_run(tokenizer)?;
                text.push_str(&self.push_text(token, tokenizer)?);
                Ok(text)
            }
        }
    }

    fn push_text(&mut self, token: String, tokenizer: &Tokenizer) -> Result<String, TextError> {
        self.tokens.push(token.clone());
        let text = tokenizer.join(self.tokens.clone())?;
        // A last U+FFFD may be a character of which more is to come.
        let certain = text.strip_suffix(char::REPLACEMENT_CHARACTER);
        let certain = certain.unwrap_or(&text);
        let new = certain.get(self.printed..).unwrap_or_default().to_owned();
        self.printed = self.printed.max(certain.len());
        // An empty token would leave the special treatment of the first to the one after it.
        if certain.len() == text.len() && !token.is_empty() {
            self.restart(vec![token], tokenizer)?;
        }
        Ok(new)
    }

    /// One bad byte turns its whole run into U+FFFD, so a run is certain once it is bad, or has ended; of a long one the
    /// beginning is let go before.
    fn push_byte(
        &mut self,
        token: String,
        byte: u8,
        tokenizer: &Tokenizer,
    ) -> Result<String, TextError> {
        if self.run.is_bad {
            return Ok(char::REPLACEMENT_CHARACTER.into());
        }
        self.tokens.push(token);
        self.run.partial.push(byte);
        match std::str::from_utf8(&self.run.partial) {
            Ok(_) => {
                self.run.whole.push_back(self.run.partial.len());
                self.run.partial.clear();
                self.let_go(tokenizer)
            }
            Err(error) if error.error_len().is_none() => Ok(String::new()),
            Err(_) => self.spoil_run(tokenizer),
        }
    }

    /// Hands out the first characters of a run that has more than it may hold back.
    fn let_go(&mut self, tokenizer: &Tokenizer) -> Result<String, TextError> {
        let mut n_held = self.run.n_held();
        let first = self.tokens.len() - n_held;
        let (mut end, mut last) = (first, 0);
        while n_held > MAX_HELD_BYTES {
            let Some(length) = self.run.whole.pop_front() else {
                break;
            };
            (end, last, n_held) = (end + length, length, n_held - length);
        }
        if last == 0 {
            return Ok(String::new());
        }
        self.run.is_cut = true;
        let text = tokenizer.join(self.tokens[..end].to_vec())?;
        let new = text.get(self.printed..).unwrap_or_default().to_owned();
        let held = self.tokens.split_off(end);
        let out = self.tokens.split_off(end - last);
        self.restart(out, tokenizer)?;
        self.tokens.extend(held);
        Ok(new)
    }

    /// The run has a byte that makes no character: all of it that is not out is U+FFFD.
    fn spoil_run(&mut self, tokenizer: &Tokenizer) -> Result<String, TextError> {
        let new = match self.run.is_cut {
            true => char::REPLACEMENT_CHARACTER
                .to_string()
                .repeat(self.run.n_held()),
            false => {
                let text = tokenizer.join(self.tokens.clone())?;
                text.get(self.printed..).unwrap_or_default().to_owned()
            }
        };
        self.run = Run {
            is_bad: true,
            ..Run::default()
        };
        // Whatever else is in the run, this stands for it.
        self.restart(vec![BAD_BYTE.to_owned()], tokenizer)?;
        Ok(new)
    }

    /// A token of another kind follows.
    fn end_run(&mut self, tokenizer: &Tokenizer) -> Result<String, TextError> {
        let new = match self.run.is_cut && !self.run.partial.is_empty() {
            true => self.spoil_run(tokenizer)?,
            false => String::new(),
        };
        self.run = Run::default();
        Ok(new)
    }

    /// Begins anew with tokens whose text is out.
    fn restart(&mut self, tokens: Vec<String>, tokenizer: &Tokenizer) -> Result<(), TextError> {
        self.printed = tokenizer.join(tokens.clone())?.len();
        self.tokens = tokens;
        Ok(())
    }

    fn finish(mut self, tokenizer: &Tokenizer) -> Result<String, TextError> {
        let mut rest = self.end_run(tokenizer)?;
        let text = tokenizer.join(self.tokens)?;
        rest.push_str(text.get(self.printed..).unwrap_or_default());
        Ok(rest)
    }
}

/// True if a decoder makes characters of byte tokens.
fn joins_bytes(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteFallback(_) => true,
        DecoderWrapper::Sequence(steps) => steps.get_decoders().iter().any(joins_bytes),
        _ => false,
    }
}

/// The byte of a token that is spelled `<0xNN>`.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token
        .strip_prefix("<0x")
        .and_then(|t| t.strip_suffix('>'))?;
    let is_byte = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| is_byte)
}

/// A byte that no character has.
const BAD_BYTE: &str = "<0xFF>";

/// Four of the longest characters, so that text appears while it is made.
const MAX_HELD_BYTES: usize = 16;

#[cfg(test)]
mod tests;
