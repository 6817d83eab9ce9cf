//! A template as tokens, by the rules of Jinja2 with `trim_blocks` and `lstrip_blocks`.

use super::token::Token;
use super::{Fault, broken, literal};

/// All tokens with their lines, the last one [`Token::End`].
pub(super) fn tokens(source: &str) -> Result<Vec<(Token, u32)>, Fault> {
    // Jinja2 makes every line end of the source a line feed and drops the last one.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut lexer = Lexer {
        rest: source.strip_suffix('\n').unwrap_or(&source),
        line: 1,
        at_line_start: true,
        tokens: Vec::new(),
    };
    while !lexer.rest.is_empty() {
        lexer.data().map_err(|fault| fault.on_line(lexer.line))?;
    }
    let line = lexer.line;
    lexer.tokens.push((Token::End, line));
    Ok(lexer.tokens)
}

struct Lexer<'s> {
    rest: &'s str,
    line: u32,
    /// True if the last token ended with a line end, or there is none.
    at_line_start: bool,
    tokens: Vec<(Token, u32)>,
}

/// Kind of tag after a text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opening {
    Print,
    Block,
    Comment,
    Raw,
}

impl Lexer<'_> {
    /// Text up to the next tag, and that tag.
    fn data(&mut self) -> Result<(), Fault> {
        let Some((start, opening)) = opening(self.rest) else {
            let text = std::mem::take(&mut self.rest);
            self.push(Token::Data(text.to_owned()));
            return Ok(());
        };
        let text = &self.rest[..start];
        let tag = &self.rest[start + 2..];
        let sign = tag.chars().next().filter(|c| matches!(c, '-' | '+'));
        self.text_before(text, sign, opening);
        self.skip(start + 2 + sign.map_or(0, char::len_utf8));
        self.at_line_start = false;
        match opening {
            Opening::Comment => self.comment(),
            Opening::Raw => self.raw(),
            Opening::Print => {
                self.push(Token::PrintBegin);
                self.inside("}}", Token::PrintEnd)
            }
            Opening::Block => {
                self.push(Token::BlockBegin);
                self.inside("%}", Token::BlockEnd)
            }
        }
    }

    /// Keeps the text before a tag, less the white space that the tag takes off it.
    fn text_before(&mut self, text: &str, sign: Option<char>, opening: Opening) {
        let kept = match sign {
            Some('-') => text.trim_end_matches(literal::is_space),
            None if opening != Opening::Print => {
                let line_start = text.rfind('\n').map(|at| at + 1);
                let from = line_start.or(self.at_line_start.then_some(0));
                from.filter(|&from| text[from..].chars().all(literal::is_space))
                    .map_or(text, |from| &text[..from])
            }
            Some(_) | None => text,
        };
        if !kept.is_empty() {
            self.push(Token::Data(kept.to_owned()));
        }
    }

    fn comment(&mut self) -> Result<(), Fault> {
        let Some(end) = self.rest.find("#}") else {
            return broken("a comment does not end");
        };
        let sign = self.rest[..end].chars().next_back();
        self.close(end + 2, sign, Opening::Comment);
        Ok(())
    }

    /// The text of a raw block.
    fn raw(&mut self) -> Result<(), Fault> {
        let begin = literal::skip_spaces(self.rest).trim_start_matches("raw");
        let begin = literal::skip_spaces(begin);
        let sign = begin.starts_with('-').then_some('-');
        let end = self.rest.len() - begin.len() + usize::from(sign.is_some()) + 2;
        self.close(end, sign, Opening::Raw);
        let mut from = 0;
        while let Some(at) = self.rest[from..].find("{%") {
            let start = from + at;
            let tag = &self.rest[start + 2..];
            let sign = tag.chars().next().filter(|c| matches!(c, '-' | '+'));
            let after = &tag[sign.map_or(0, char::len_utf8)..];
            if let Some((len, end_sign)) = raw_end(after) {
                let text = &self.rest[..start];
                self.text_before(text, sign, Opening::Raw);
                let end = start + 2 + sign.map_or(0, char::len_utf8) + len;
                self.close(end, end_sign, Opening::Block);
                return Ok(());
            }
            from = start + 2;
        }
        broken("a raw block does not end")
    }

    /// Goes past a tag's end and the white space that it takes.
    fn close(&mut self, end: usize, sign: Option<char>, opening: Opening) {
        let mut at = end;
        let after = &self.rest[end..];
        if sign == Some('-') {
            at += after.len() - literal::skip_spaces(after).len();
        } else if sign != Some('+')
            && matches!(opening, Opening::Block | Opening::Comment)
            && after.starts_with('\n')
        {
            at += 1;
        }
        self.at_line_start = self.rest[..at].ends_with('\n');
        self.skip(at);
    }

    /// The tokens of a tag and its end.
    fn inside(&mut self, end: &'static str, end_token: Token) -> Result<(), Fault> {
        let mut open: Vec<char> = Vec::new();
        loop {
            let spaces = self.rest.len() - literal::skip_spaces(self.rest).len();
            self.skip(spaces);
            let Some(first) = self.rest.chars().next() else {
                return broken(format!("a tag does not end with {end}"));
            };
            if open.is_empty() && self.ends_tag(end) {
                self.push(end_token);
                let sign = Some(first).filter(|c| matches!(c, '-' | '+'));
                let len = end.len() + sign.map_or(0, char::len_utf8);
                let opening = match end {
                    "%}" => Opening::Block,
                    _ => Opening::Print,
                };
                self.close(len, sign, opening);
                return Ok(());
            }
            let (token, len) = match first {
                '"' | '\'' => {
                    let (text, len) = literal::string(self.rest)?;
                    (Token::Str(text), len)
                }
                // After a dot it is an index, and another dot may follow.
                '0'..='9'
                    if self
                        .tokens
                        .last()
                        .is_some_and(|(t, _)| *t == Token::Operator(".")) =>
                {
                    let digits = |c: char| c.is_ascii_digit();
                    let len = self.rest.find(|c| !digits(c)).unwrap_or(self.rest.len());
                    literal::number(&self.rest[..len])?
                }
                '0'..='9' => literal::number(self.rest)?,
                c if c == '_' || c.is_alphabetic() => {
                    let word = |c: char| c == '_' || c.is_alphanumeric();
                    let len = self.rest.find(|c| !word(c)).unwrap_or(self.rest.len());
                    (Token::Name(self.rest[..len].to_owned()), len)
                }
                _other => {
                    let op = OPERATORS.iter().find(|op| self.rest.starts_with(**op));
                    let Some(op) = op else {
                        return broken(format!("unexpected character {first:?}"));
                    };
                    balance(&mut open, first)?;
                    (Token::Operator(op), op.len())
                }
            };
            self.push(token);
            self.skip(len);
        }
    }

    fn ends_tag(&self, end: &str) -> bool {
        let signs: &[char] = match end {
            "%}" => &['-', '+'],
            _ => &['-'],
        };
        self.rest
            .strip_prefix(signs)
            .unwrap_or(self.rest)
            .starts_with(end)
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    fn skip(&mut self, len: usize) {
        let (skipped, rest) = self.rest.split_at(len);
        self.line += skipped.matches('\n').count() as u32;
        self.rest = rest;
    }
}

/// The first tag of a text.
fn opening(text: &str) -> Option<(usize, Opening)> {
    let bytes = text.as_bytes();
    let start = bytes
        .windows(2)
        .position(|pair| matches!(pair, b"{{" | b"{%" | b"{#"))?;
    let opening = match bytes[start + 1] {
        b'{' => Opening::Print,
        b'#' => Opening::Comment,
        _percent => {
            let tag = text[start + 2..].strip_prefix(['-', '+']);
            let tag = tag.unwrap_or(&text[start + 2..]);
            let after = literal::skip_spaces(tag).strip_prefix("raw");
            let end = after.map(literal::skip_spaces);
            match end.is_some_and(|end| end.starts_with("%}") || end.starts_with("-%}")) {
                true => Opening::Raw,
                false => Opening::Block,
            }
        }
    };
    Some((start, opening))
}

/// The length of `endraw` and its tag's end, with the end's sign.
fn raw_end(tag: &str) -> Option<(usize, Option<char>)> {
    let after = literal::skip_spaces(tag).strip_prefix("endraw")?;
    let after = literal::skip_spaces(after);
    let sign = after.chars().next().filter(|c| matches!(c, '-' | '+'));
    let end = after[sign.map_or(0, char::len_utf8)..].strip_prefix("%}")?;
    Some((tag.len() - end.len(), sign))
}

fn balance(open: &mut Vec<char>, c: char) -> Result<(), Fault> {
    match c {
        '{' => open.push('}'),
        '(' => open.push(')'),
        '[' => open.push(']'),
        '}' | ')' | ']' => match open.pop() {
            Some(expected) if expected == c => {}
            Some(expected) => return broken(format!("unexpected '{c}', expected '{expected}'")),
            None => return broken(format!("unexpected '{c}'")),
        },
        _other => {}
    }
    Ok(())
}

/// The longer ones first.
const OPERATORS: &[&str] = &[
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";",
];
