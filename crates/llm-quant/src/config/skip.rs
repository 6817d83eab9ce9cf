//! Names of modules that are not quantized: regular expressions, as Python's `re` reads them.
//!
//! The reference library asks whether the expression matches the beginning of a name up to a dot, or whether the name ends
//! with the expression as it is written. What counts is that there is a match at all, not which comes first: so an
//! expression is a map from the positions where it may begin to those where it may end, and time is bounded. Of Python's
//! expressions those are understood whose meaning is that; what looks around, back, or keeps what it took is refused.

use regex_syntax::ast::parse::ParserBuilder;
use regex_syntax::ast::{Ast, GroupKind};
use regex_syntax::hir::translate::TranslatorBuilder;
use regex_syntax::hir::{Class, Hir, HirKind, Look, Repetition};

/// Flaw of an expression, if any.
pub(crate) fn flaw(pattern: &str) -> Option<String> {
    if is_plain(pattern) {
        return (pattern.len() > MAX_LEN).then(too_long);
    }
    parse(pattern).err()
}

/// True if an expression names a module.
pub(crate) fn names(pattern: &str, module: &str) -> bool {
    if module.ends_with(pattern) {
        return true;
    }
    let name: Vec<char> = module.chars().collect();
    if is_plain(pattern) {
        let is_like = |(wanted, found): (char, &char)| match wanted {
            '.' => *found != '\n',
            _ => wanted == *found,
        };
        let len = pattern.len();
        return len <= name.len() && pattern.chars().zip(&name).all(is_like) && is_edge(&name, len);
    }
    // One that is no expression was refused when the configuration was read.
    let Ok(expression) = parse(pattern) else {
        return false;
    };
    let mut begin = vec![false; name.len() + 1];
    begin[0] = true;
    let ends = ends(&expression, &name, &begin);
    (0..=name.len()).any(|at| ends[at] && is_edge(&name, at))
}

/// True if one part of a name ends at a position, or the next begins there.
fn is_edge(name: &[char], at: usize) -> bool {
    is_end(name, at) || name[at] == '.' || (at > 0 && name[at - 1] == '.')
}

/// Match of `$`: at the end, and before a line's end there.
fn is_end(name: &[char], at: usize) -> bool {
    at == name.len() || (at + 1 == name.len() && name[at] == '\n')
}

/// True if it has no signs but dots.
fn is_plain(pattern: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    pattern.chars().all(is_plain)
}

/// Positions where a match of `node` may end that begins at one of `begins`.
fn ends(node: &Hir, name: &[char], begins: &[bool]) -> Vec<bool> {
    match node.kind() {
        HirKind::Empty => begins.to_vec(),
        HirKind::Literal(text) => {
            let text = str::from_utf8(&text.0).expect("expressions are of characters");
            let next = |begins: Vec<bool>, wanted| step(name, &begins, |c| c == wanted);
            text.chars().fold(begins.to_vec(), next)
        }
        HirKind::Class(Class::Unicode(set)) => step(name, begins, |c| {
            let ranges = set.ranges();
            let at = ranges.partition_point(|range| range.end() < c);
            ranges.get(at).is_some_and(|range| range.start() <= c)
        }),
        HirKind::Class(Class::Bytes(_)) => unreachable!("expressions are of characters"),
        HirKind::Look(look) => {
            let at = begins.iter().enumerate();
            at.map(|(at, begins)| *begins && is_place(*look, name, at))
                .collect()
        }
        HirKind::Repetition(repetition) => repeat(repetition, name, begins),
        HirKind::Capture(group) => ends(&group.sub, name, begins),
        HirKind::Concat(nodes) => {
            let next = |begins: Vec<bool>, node| ends(node, name, &begins);
            nodes.iter().fold(begins.to_vec(), next)
        }
        HirKind::Alternation(nodes) => {
            let mut all = vec![false; begins.len()];
            for node in nodes {
                join(&mut all, &ends(node, name, begins));
            }
            all
        }
    }
}

/// Positions after one character.
fn step(name: &[char], begins: &[bool], is_it: impl Fn(char) -> bool) -> Vec<bool> {
    let mut ends = vec![false; begins.len()];
    for (at, c) in name.iter().enumerate() {
        ends[at + 1] = begins[at] && is_it(*c);
    }
    ends
}

fn repeat(repetition: &Repetition, name: &[char], begins: &[bool]) -> Vec<bool> {
    let Repetition { min, max, sub, .. } = repetition;
    let mut now = begins.to_vec();
    // After as many turns as there are positions nothing changes any more: either each took a character, or the set of
    // positions has only grown.
    for _ in 0..(*min as usize).min(begins.len() + 1) {
        now = ends(sub, name, &now);
    }
    let mut all = now.clone();
    let more = max.map_or(begins.len(), |max| (max - min) as usize);
    for _ in 0..more.min(begins.len()) {
        if !now.contains(&true) {
            break;
        }
        now = ends(sub, name, &now);
        // What was there before leads to nothing new.
        for (now, all) in now.iter_mut().zip(&all) {
            *now &= !all;
        }
        join(&mut all, &now);
    }
    all
}

fn join(all: &mut [bool], more: &[bool]) {
    for (all, more) in all.iter_mut().zip(more) {
        *all |= more;
    }
}

fn is_place(look: Look, name: &[char], at: usize) -> bool {
    let is_word = |at: Option<usize>| {
        at.and_then(|at| name.get(at))
            .is_some_and(|&c| c.is_alphanumeric() || c == '_')
    };
    let is_word_edge = is_word(at.checked_sub(1)) != is_word(Some(at));
    match look {
        Look::Start | Look::StartLF => at == 0,
        Look::End => at == name.len(),
        Look::EndLF => is_end(name, at),
        Look::WordUnicode => is_word_edge,
        Look::WordUnicodeNegate => !is_word_edge,
        other => unreachable!("{other:?} has no sign in Python"),
    }
}

type Parsed<T> = Result<T, String>;

fn parse(pattern: &str) -> Parsed<Hir> {
    if pattern.len() > MAX_LEN {
        return Err(too_long());
    }
    let text = in_rust(pattern)?;
    let mut parser = ParserBuilder::new().nest_limit(MAX_DEPTH).build();
    let ast = parser
        .parse(&text)
        .map_err(|flaw| flaw.kind().to_string())?;
    check(&ast)?;
    // So that `$` is told from `\Z`.
    let mut translator = TranslatorBuilder::new().multi_line(true).build();
    let translated = translator.translate(&text, &ast);
    let expression = translated.map_err(|flaw| flaw.kind().to_string())?;
    match loops(&expression) <= MAX_LOOPS {
        true => Ok(expression),
        false => Err(format!("repetitions are in more than {MAX_LOOPS} others")),
    }
}

fn too_long() -> String {
    format!("it is longer than {MAX_LEN} bytes")
}

/// An expression of Python's as Rust writes it: what is a sign in but one of them is escaped.
fn in_rust(pattern: &str) -> Parsed<String> {
    let mut text = String::new();
    let mut rest = pattern.chars();
    // Characters of the set that is open.
    let mut n_in_set = None;
    while let Some(c) = rest.next() {
        let is_first = n_in_set == Some(0);
        n_in_set = n_in_set.map(|n| n + usize::from(c != '^' || n > 0));
        match c {
            '\\' => match rest.next() {
                None => return Err("it ends with a backslash".to_owned()),
                Some('Z') => text.push_str(r"\z"),
                Some(c) if !c.is_ascii_alphanumeric() => {
                    text += &regex_syntax::escape(&c.to_string())
                }
                Some(c) if "AbBdDsSwWntr".contains(c) => text.extend(['\\', c]),
                Some(c) => return Err(format!("`\\{c}` is not understood")),
            },
            '{' if n_in_set.is_none() => match times(rest.as_str()) {
                Some((times, after)) => {
                    text += &times;
                    rest = after.chars();
                }
                None => text.push_str(r"\{"),
            },
            '[' if n_in_set.is_none() => {
                n_in_set = Some(0);
                text.push(c);
            }
            ']' if n_in_set.is_some() && !is_first => {
                n_in_set = None;
                text.push(c);
            }
            '[' | '&' | '~' => text.extend(['\\', c]),
            _ => text.push(c),
        }
    }
    Ok(text)
}

/// Repetitions in braces, and what follows them; `None` where the brace is a character.
fn times(behind: &str) -> Option<(String, &str)> {
    let (inside, after) = behind.split_once('}')?;
    let (min, max) = inside.split_once(',').unwrap_or((inside, inside));
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if inside.is_empty() || !is_number(min) || !is_number(max) {
        return None;
    }
    let min = if min.is_empty() { "0" } else { min };
    Some((format!("{{{min},{max}}}"), after))
}

/// Refuses what Python does, or means otherwise.
fn check(node: &Ast) -> Parsed<()> {
    match node {
        Ast::Flags(_) => Err(GROUPS.to_owned()),
        Ast::Group(group) => match &group.kind {
            GroupKind::CaptureIndex(_) => check(&group.ast),
            GroupKind::NonCapturing(flags) if flags.items.is_empty() => check(&group.ast),
            GroupKind::CaptureName { .. } | GroupKind::NonCapturing(_) => Err(GROUPS.to_owned()),
        },
        Ast::Repetition(repetition) => match *repetition.ast {
            Ast::Repetition(_) => Err("a repetition is repeated".to_owned()),
            Ast::Assertion(_) => Err("a place is repeated".to_owned()),
            ref node => check(node),
        },
        Ast::Alternation(nodes) => nodes.asts.iter().try_for_each(check),
        Ast::Concat(nodes) => nodes.asts.iter().try_for_each(check),
        Ast::Empty(_) | Ast::Literal(_) | Ast::Dot(_) | Ast::Assertion(_) => Ok(()),
        Ast::ClassUnicode(_) | Ast::ClassPerl(_) | Ast::ClassBracketed(_) => Ok(()),
    }
}

const GROUPS: &str = "of groups that begin with `(?` only `(?:` is understood";

/// Repetitions within each other.
fn loops(node: &Hir) -> usize {
    let most = |nodes: &[Hir]| nodes.iter().map(loops).max().unwrap_or(0);
    match node.kind() {
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => 0,
        HirKind::Concat(nodes) | HirKind::Alternation(nodes) => most(nodes),
        HirKind::Capture(group) => loops(&group.sub),
        HirKind::Repetition(node) => loops(&node.sub) + usize::from(node.max != Some(1)),
    }
}

/// Of an expression, in bytes.
const MAX_LEN: usize = 512;
/// Parentheses within each other.
const MAX_DEPTH: u32 = 40;
/// Repetitions within each other: each takes as many turns as a name has characters, at most.
const MAX_LOOPS: usize = 3;
