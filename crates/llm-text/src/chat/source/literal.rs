//! Literals as Python reads them.

use super::token::Token;
use super::{Fault, broken};

/// Python's white space.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

pub(super) fn skip_spaces(text: &str) -> &str {
    text.trim_start_matches(is_space)
}

/// The string that a text begins with, and how long it is there.
pub(super) fn string(text: &str) -> Result<(String, usize), Fault> {
    let quote = text.chars().next().unwrap_or('"');
    let mut result = String::new();
    let mut rest = &text[1..];
    loop {
        let Some(at) = rest.find([quote, '\\']) else {
            return broken("a string does not end");
        };
        result.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix(quote) {
            return Ok((result, text.len() - after.len()));
        }
        rest = escape(&rest[1..], &mut result)?;
    }
}

/// Reads what follows a backslash; what is left after it.
fn escape<'t>(text: &'t str, result: &mut String) -> Result<&'t str, Fault> {
    let Some(c) = text.chars().next() else {
        return broken("a string does not end");
    };
    let rest = &text[c.len_utf8()..];
    let plain = match c {
        '\n' => return Ok(rest),
        '\\' | '\'' | '"' => c,
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        '0'..='7' => {
            let len = text.len().min(3);
            let n = text.as_bytes()[..len]
                .iter()
                .take_while(|b| matches!(b, b'0'..=b'7'))
                .count();
            let code = u32::from_str_radix(&text[..n], 8).unwrap_or_default();
            result.extend(char::from_u32(code));
            return Ok(&text[n..]);
        }
        'x' => return hexadecimal(rest, 2, result),
        'u' => return hexadecimal(rest, 4, result),
        'U' => return hexadecimal(rest, 8, result),
        'N' => return broken(r"\N{…} is not supported; write the character itself"),
        other => {
            result.push('\\');
            other
        }
    };
    result.push(plain);
    Ok(rest)
}

fn hexadecimal<'t>(text: &'t str, len: usize, result: &mut String) -> Result<&'t str, Fault> {
    let digits = text.get(..len);
    let digits = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    let Some(digits) = digits else {
        return broken("a string has an escape that is cut short");
    };
    let code = u32::from_str_radix(digits, 16).unwrap_or(u32::MAX);
    match char::from_u32(code) {
        Some(c) => result.push(c),
        // Python keeps it in the string, which then cannot be encoded.
        None => return broken(format!("\\u{code:04x} is no character")),
    }
    Ok(&text[len..])
}

/// The number that a text begins with, and how long it is there.
pub(super) fn number(text: &str) -> Result<(Token, usize), Fault> {
    for (prefix, radix) in [("0b", 2), ("0o", 8), ("0x", 16)] {
        let head = text.get(..2).map(str::to_ascii_lowercase);
        if head.as_deref() == Some(prefix) {
            let digits = run(&text[2..], |c| c.is_digit(radix));
            if digits > 0 {
                let number = text[2..2 + digits].replace('_', "");
                return integer(&number, radix).map(|i| (Token::Int(i), 2 + digits));
            }
        }
    }
    let whole = run(text, |c| c.is_ascii_digit());
    let mut len = whole;
    if let Some(fraction) = text[len..].strip_prefix('.') {
        let digits = run(fraction, |c| c.is_ascii_digit());
        if digits > 0 {
            len += 1 + digits;
        }
    }
    if let Some(exponent) = text[len..].strip_prefix(['e', 'E']) {
        let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let digits = run(unsigned, |c| c.is_ascii_digit());
        if digits > 0 {
            len += 1 + exponent.len() - unsigned.len() + digits;
        }
    }
    let number = text[..len].replace('_', "");
    if len > whole {
        return match number.parse() {
            Ok(float) => Ok((Token::Float(float), len)),
            Err(_) => broken(format!("{number} is no number")),
        };
    }
    // A zero ends there: 07 is two numbers for Jinja2, which is an error soon after.
    let zeros = number.starts_with('0') && number.bytes().any(|b| b != b'0');
    match zeros {
        true => broken(format!("{number} is no number")),
        false => integer(&number, 10).map(|i| (Token::Int(i), len)),
    }
}

/// The length of digits, each with an underscore before it at most.
fn run(text: &str, is_digit: impl Fn(char) -> bool) -> usize {
    let mut len = 0;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let joins = c == '_' && len > 0 && chars.peek().is_some_and(|next| is_digit(*next));
        if !(is_digit(c) || joins) {
            break;
        }
        len += 1;
    }
    len
}

fn integer(digits: &str, radix: u32) -> Result<i128, Fault> {
    match i128::from_str_radix(digits, radix) {
        Ok(i) => Ok(i),
        Err(_) => broken(format!("the number {digits} is too large")),
    }
}

/// A text as the engine reads it from quotes.
pub(super) fn quoted(text: &str) -> String {
    let mut result = String::with_capacity(text.len() + 2);
    result.push('"');
    for c in text.chars() {
        match c {
            '"' => result.push_str("\\\""),
            '\\' => result.push_str("\\\\"),
            '\n' => result.push_str("\\n"),
            '\r' => result.push_str("\\r"),
            '\t' => result.push_str("\\t"),
            c if c.is_control() => result.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => result.push(c),
        }
    }
    result.push('"');
    result
}
