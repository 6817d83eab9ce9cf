//! Python's JSON made standard JSON.

/// A text that standard JSON's parser understands, and where it was changed.
pub(crate) struct Cleaned {
    pub(crate) text: Vec<u8>,
    edits: Vec<Edit>,
}

/// A word that became longer or shorter.
struct Edit {
    line: usize,
    /// The column of its first byte after the change.
    column: usize,
    /// Bytes before and after.
    len: usize,
    new_len: usize,
}

impl Cleaned {
    /// The line and column in the original of a place in the cleaned text.
    pub(crate) fn place(&self, line: usize, column: usize) -> (usize, usize) {
        let before = |edit: &&Edit| edit.line == line && edit.column < column;
        let mut original = column;
        for edit in self.edits.iter().filter(before) {
            // A place within the word is its beginning.
            let passed = (column - edit.column).min(edit.new_len);
            original = original + passed * edit.len / edit.new_len - passed;
        }
        (line, original)
    }
}

/// Replaces what Python's JSON has and the standard lacks, outside strings by strings: numbers that are not finite,
/// also by being too large. Inside strings, halves of surrogate pairs.
pub(crate) fn clean(text: &[u8]) -> Cleaned {
    let mut out = Cleaned {
        text: Vec::with_capacity(text.len()),
        edits: Vec::new(),
    };
    let (mut line, mut line_begin) = (1, 0);
    let mut rest = text;
    while let Some(&first) = rest.first() {
        let (len, new) = match first {
            b'"' => {
                let len = string_len(rest);
                out.text.extend(without_halves(&rest[..len]));
                rest = &rest[len..];
                continue;
            }
            b'-' | b'0'..=b'9' | b'I' | b'N' => word(rest),
            _ => (1, None),
        };
        match new {
            None => out.text.extend_from_slice(&rest[..len]),
            Some(new) => {
                let new = format!("\"{new}\"");
                out.edits.push(Edit {
                    line,
                    column: out.text.len() - line_begin + 1,
                    len,
                    new_len: new.len(),
                });
                out.text.extend_from_slice(new.as_bytes());
            }
        }
        if first == b'\n' {
            (line, line_begin) = (line + 1, out.text.len());
        }
        rest = &rest[len..];
    }
    out
}

/// Bytes of a number or name at the beginning of `text`, and what it is called where it is not finite.
fn word(text: &[u8]) -> (usize, Option<&'static str>) {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-._".contains(byte);
    let len = text.iter().take_while(|byte| is_part(byte)).count();
    let name = match &text[..len] {
        b"Infinity" => Some("Infinity"),
        b"-Infinity" => Some("-Infinity"),
        b"NaN" => Some("NaN"),
        number => too_large(number),
    };
    (len, name)
}

/// Name of a number that no `f64` holds.
fn too_large(number: &[u8]) -> Option<&'static str> {
    let x: f64 = std::str::from_utf8(number).ok()?.parse().ok()?;
    let name = if x > 0.0 { "Infinity" } else { "-Infinity" };
    (is_number(number) && x.is_infinite()).then_some(name)
}

/// True if these bytes are a number by JSON's grammar, which is narrower than Rust's.
fn is_number(text: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut rest = text.strip_prefix(b"-").unwrap_or(text);
    let n_whole = digits(rest);
    if n_whole == 0 || (n_whole > 1 && rest[0] == b'0') {
        return false;
    }
    rest = &rest[n_whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let n = digits(fraction);
        if n == 0 {
            return false;
        }
        rest = &fraction[n..];
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = match exponent {
            [b'+' | b'-', exponent @ ..] => exponent,
            exponent => exponent,
        };
        return !exponent.is_empty() && digits(exponent) == exponent.len();
    }
    rest.is_empty()
}

/// Bytes of the string at the beginning of `text`, to the end of a text that does not close it.
fn string_len(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

/// A string with U+FFFD for each half of a surrogate pair that stands alone.
fn without_halves(string: &[u8]) -> Vec<u8> {
    let mut out = string.to_vec();
    let mut at = 0;
    while at < out.len() {
        at += match (out[at], unit(&out[at..])) {
            (b'\\', Some(0xD800..=0xDBFF)) => match unit(&out[at + 6..]) {
                Some(0xDC00..=0xDFFF) => 12,
                _ => replace(&mut out, at),
            },
            (b'\\', Some(0xDC00..=0xDFFF)) => replace(&mut out, at),
            (b'\\', _) => 2,
            _ => 1,
        };
    }
    out
}

/// The UTF-16 unit of an escape `\uXXXX` at the beginning of `text`.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn replace(string: &mut [u8], at: usize) -> usize {
    let escape = b"\\ufffd";
    string[at..][..escape.len()].copy_from_slice(escape);
    escape.len()
}
