use tokenizers::DecoderWrapper;

use crate::{SpecialText, TextError, Tokenizer};

/// Turns token ids into text one by one, never handing out half a character.
///
/// All pieces together are exactly what [`Tokenizer::decode`] makes of all ids at once. The work per token is
/// constant, amortised: no more than the tokens since the last certain character are looked at again.
#[derive(Debug)]
pub struct StreamingDetokenizer<'t> {
    tokenizer: &'t Tokenizer,
    special: SpecialText,
    state: State,
}

impl<'t> StreamingDetokenizer<'t> {
    pub(crate) fn new(tokenizer: &'t Tokenizer, special: SpecialText) -> Self {
        let state = match tokenizer.decoder() {
            Some(DecoderWrapper::ByteLevel(_)) => State::Bytes(Utf8Stream::default()),
            _ => State::Window(Window::default()),
        };
        StreamingDetokenizer {
            tokenizer,
            special,
            state,
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
        match &mut self.state {
            State::Bytes(stream) => Ok(stream.push(&bytes_of(&token))),
            State::Window(window) => window.push(token, self.tokenizer),
        }
    }

    /// The rest: an incomplete character comes out as U+FFFD, as in [`Tokenizer::decode`].
    ///
    /// # Errors
    ///
    /// [`TextError::NotDecodable`] if the tokenizer's decoder fails.
    pub fn finish(self) -> Result<String, TextError> {
        match self.state {
            State::Bytes(stream) => Ok(stream.finish()),
            State::Window(window) => window.finish(self.tokenizer),
        }
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

/// Whether more bytes could make a character of `bytes`.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// The bytes of a byte-level token. One that is not in that spelling, as added tokens may be, stands for itself.
fn bytes_of(token: &str) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The byte that a character of the byte-level spelling stands for.
///
/// GPT-2 writes the printable bytes of Latin-1 as themselves, and the others, in order, as U+0100 and up.
fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// The tokens that the next ones' text depends on: the last of which all text was handed out, and those after it.
///
/// Decoders treat the first token in a special way (a leading space goes), so the window always begins with a token
/// whose text is already out, and what is new is what comes after that text.
#[derive(Debug, Default)]
struct Window {
    tokens: Vec<String>,
    /// How many bytes of the tokens' text are already handed out.
    printed: usize,
}

impl Window {
    fn push(&mut self, token: String, tokenizer: &Tokenizer) -> Result<String, TextError> {
        self.tokens.push(token.clone());
        // One bad byte turns its whole run of byte tokens into U+FFFD, so a run is certain only once it has ended.
        if is_byte_token(&token) {
            return Ok(String::new());
        }
        let text = tokenizer.join(self.tokens.clone())?;
        // A last U+FFFD may be a character of which more is to come.
        let certain = text.strip_suffix(char::REPLACEMENT_CHARACTER);
        let certain = certain.unwrap_or(&text);
        let new = certain.get(self.printed..).unwrap_or_default().to_owned();
        self.printed = self.printed.max(certain.len());
        // An empty token would leave the special treatment of the first to the one after it.
        if certain.len() == text.len() && !token.is_empty() {
            self.tokens = vec![token];
            self.printed = tokenizer.join(self.tokens.clone())?.len();
        }
        Ok(new)
    }

    fn finish(self, tokenizer: &Tokenizer) -> Result<String, TextError> {
        let text = tokenizer.join(self.tokens)?;
        Ok(text.get(self.printed..).unwrap_or_default().to_owned())
    }
}

/// Whether the token is spelled `<0xNN>`, a single byte to decoders with byte fallback.
fn is_byte_token(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
    digits.is_some_and(|d| d.len() == 2 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests;
