//! Words, numbers and signs of PTX, with their lines.

/// A word or a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    pub(crate) line: u32,
}

/// Splits `source` into tokens; comments are left out, a string is one token with its quotes.
pub(crate) fn tokens(source: &str) -> Vec<Token<'_>> {
    let bytes = source.as_bytes();
    let mut out = Vec::with_capacity(source.len() / 4);
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let rest = &source[at..];
        let length = match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            byte if byte.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'/' if rest.starts_with("//") => {
                at += rest.find('\n').unwrap_or(rest.len());
                continue;
            }
            b'/' if rest.starts_with("/*") => {
                let end = rest.find("*/").map_or(rest.len(), |end| end + 2);
                line += lines_in(&rest[..end]);
                at += end;
                continue;
            }
            b'"' => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
            byte if is_word(byte) => word_length(&bytes[at..]),
            // Whatever stands here is one character, of any number of bytes.
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
        out.push(Token {
            text: &rest[..length],
            line,
        });
        line += lines_in(&rest[..length]);
        at += length;
    }
    out
}

fn lines_in(text: &str) -> u32 {
    text.bytes().filter(|byte| *byte == b'\n').count() as u32
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

/// Bytes of the word at the start; `::` inside of it belongs to it, as in `.L1::no_allocate`.
fn word_length(bytes: &[u8]) -> usize {
    let mut length = 0;
    loop {
        length += bytes[length..]
            .iter()
            .take_while(|byte| is_word(**byte))
            .count();
        let goes_on = bytes[length..].starts_with(b"::")
            && bytes.get(length + 2).is_some_and(|byte| is_word(*byte));
        if !goes_on {
            return length;
        }
        length += 2;
    }
}
