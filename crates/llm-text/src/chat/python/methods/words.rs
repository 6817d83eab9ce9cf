//! Words, lines and letters as Python tells them apart.

use super::super::super::source::is_space;

pub(super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => title_case(first) + &chars.as_str().to_lowercase(),
        None => String::new(),
    }
}

/// Each run of letters begins with a large one.
pub(super) fn title(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut word = String::new();
    let flush = |word: &mut String, result: &mut String| {
        result.push_str(&capitalize(word));
        word.clear();
    };
    for c in text.chars() {
        match has_case(c) {
            true => word.push(c),
            false => {
                flush(&mut word, &mut result);
                result.push(c);
            }
        }
    }
    flush(&mut word, &mut result);
    result
}

pub(super) fn swapcase(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_uppercase() {
            true => result.extend(c.to_lowercase()),
            false => result.extend(c.to_uppercase()),
        }
    }
    result
}

/// Text by which two that differ in case only are alike.
pub(super) fn casefold(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            'ẞ' => result.push_str("ss"),
            'ı' => result.push(c),
            // Cherokee is folded to its large letters.
            '\u{13a0}'..='\u{13f5}' => result.push(c),
            '\u{13f8}'..='\u{13fd}' | '\u{ab70}'..='\u{abbf}' => result.extend(c.to_uppercase()),
            other => {
                for upper in other.to_uppercase() {
                    result.extend(upper.to_lowercase());
                }
            }
        }
    }
    result
}

/// A letter as a word begins with it.
fn title_case(c: char) -> String {
    match c {
        '\u{1c4}'..='\u{1c6}' => "\u{1c5}".to_owned(),
        '\u{1c7}'..='\u{1c9}' => "\u{1c8}".to_owned(),
        '\u{1ca}'..='\u{1cc}' => "\u{1cb}".to_owned(),
        '\u{1f1}'..='\u{1f3}' => "\u{1f2}".to_owned(),
        'ŉ' => "ʼN".to_owned(),
        // Georgian words begin with no other letters.
        '\u{10d0}'..='\u{10ff}' => c.to_string(),
        other => {
            let mut upper = other.to_uppercase();
            let first = upper.next().into_iter();
            first.chain(upper.flat_map(char::to_lowercase)).collect()
        }
    }
}

fn has_case(c: char) -> bool {
    c.is_uppercase() || c.is_lowercase() || is_title_letter(c)
}

fn is_title_letter(c: char) -> bool {
    matches!(c, '\u{1c5}' | '\u{1c8}' | '\u{1cb}' | '\u{1f2}' | '\u{1f88}'..='\u{1f8f}'
        | '\u{1f98}'..='\u{1f9f}' | '\u{1fa8}'..='\u{1faf}' | '\u{1fbc}' | '\u{1fcc}' | '\u{1ffc}')
}

/// True if a text has letters of one case and none of the other.
pub(super) fn has_only(text: &str, wanted: fn(char) -> bool, other: fn(char) -> bool) -> bool {
    let is_other = |c: char| other(c) || is_title_letter(c);
    text.chars().any(wanted) && !text.chars().any(is_other)
}

pub(super) fn is_title(text: &str) -> bool {
    let (mut is_any, mut was_cased) = (false, false);
    for c in text.chars() {
        if c.is_uppercase() || is_title_letter(c) {
            if was_cased {
                return false;
            }
            (is_any, was_cased) = (true, true);
        } else if c.is_lowercase() {
            if !was_cased {
                return false;
            }
            is_any = true;
        } else {
            was_cased = false;
        }
    }
    is_any
}

pub(super) fn is_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    let begins = chars.next().is_some_and(|c| c == '_' || c.is_alphabetic());
    begins && chars.all(|c| c == '_' || c.is_alphanumeric())
}

/// Digits that numbers are written with, in any script.
pub(super) fn is_decimal(c: char) -> bool {
    c.is_ascii_digit() || (c.is_numeric() && DECIMALS.iter().any(|zero| in_ten(c, *zero)))
}

/// Decimals and those that are set above, below or in circles.
pub(super) fn is_digit(c: char) -> bool {
    is_decimal(c)
        || matches!(c, '²' | '³' | '¹' | '\u{1369}'..='\u{1371}' | '\u{19da}'
            | '\u{2070}' | '\u{2074}'..='\u{2079}' | '\u{2080}'..='\u{2089}'
            | '\u{2460}'..='\u{2468}' | '\u{2474}'..='\u{247c}' | '\u{2488}'..='\u{2490}'
            | '\u{24ea}' | '\u{24f5}'..='\u{24fd}' | '\u{24ff}' | '\u{2776}'..='\u{277e}'
            | '\u{2780}'..='\u{2788}' | '\u{278a}'..='\u{2792}')
}

fn in_ten(c: char, zero: u32) -> bool {
    (zero..zero + 10).contains(&u32::from(c))
}

/// The zeros of the scripts' decimals.
const DECIMALS: &[u32] = &[
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6,
    0xe50, 0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50,
    0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
    0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6,
];

/// Splits at white space, at most so many times; what is left is the last part.
pub(super) fn split(text: &str, max: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = match parts.len() < max {
            true => rest.find(is_space).unwrap_or(rest.len()),
            false => rest.len(),
        };
        parts.push(match parts.len() < max {
            true => &rest[..end],
            false => rest.trim_end_matches(is_space),
        });
        rest = rest[end..].trim_start_matches(is_space);
    }
    parts
}

/// The same from the end.
pub(super) fn rsplit(text: &str, max: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        if parts.len() == max {
            parts.push(rest.trim_start_matches(is_space));
            break;
        }
        let start = rest.char_indices().rev().find(|(_, c)| is_space(*c));
        let start = start.map_or(0, |(at, c)| at + c.len_utf8());
        parts.push(&rest[start..]);
        rest = rest[..start].trim_end_matches(is_space);
    }
    parts.reverse();
    parts
}

/// The lines of a text by every line end that Python knows.
pub(in super::super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let ends = [
        '\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}',
        '\u{2029}',
    ];
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (line, after) = match rest.find(ends) {
            Some(at) if rest[at..].starts_with("\r\n") => (at, at + 2),
            Some(at) => (at, at + rest[at..].chars().next().map_or(1, char::len_utf8)),
            None => (rest.len(), rest.len()),
        };
        lines.push(&rest[..if keep_ends { after } else { line }]);
        rest = &rest[after..];
    }
    lines
}
