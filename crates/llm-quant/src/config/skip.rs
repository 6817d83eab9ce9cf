//! Names of modules that are not quantized: regular expressions, as Python's `re` reads them.
//!
//! The reference library asks whether the expression matches the beginning of a name up to a dot, or whether the name ends
//! with the expression as it is written. What counts is that there is a match at all, not which comes first: so an
//! expression is a map from the positions where it may begin to those where it may end, and time is bounded. Of Python's
//! expressions those are understood whose meaning is that; what looks around, back, or keeps what it took is refused.

use std::iter::Peekable;
use std::str::Chars;

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
    let ends = expression.ends(&name, &begin);
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

/// A regular expression.
enum Node {
    /// One character of a set.
    One(Set),
    All(Vec<Node>),
    Any(Vec<Node>),
    Repeat {
        node: Box<Node>,
        min: usize,
        max: Option<usize>,
    },
    Place(Place),
}

#[derive(Clone, Copy)]
enum Place {
    Begin,
    /// The end, or before a line's end there.
    LineEnd,
    End,
    WordEdge,
    NoWordEdge,
}

struct Set {
    is_negated: bool,
    items: Vec<Item>,
}

enum Item {
    Range(char, char),
    Class { kind: Kind, is_negated: bool },
    NoLineEnd,
}

#[derive(Clone, Copy)]
enum Kind {
    Digit,
    Space,
    Word,
}

impl Node {
    /// Positions where a match may end that begins at one of `begins`.
    fn ends(&self, name: &[char], begins: &[bool]) -> Vec<bool> {
        match self {
            Node::One(set) => {
                let mut ends = vec![false; begins.len()];
                for (at, c) in name.iter().enumerate() {
                    ends[at + 1] = begins[at] && set.has(*c);
                }
                ends
            }
            Node::All(nodes) => nodes
                .iter()
                .fold(begins.to_vec(), |ends, node| node.ends(name, &ends)),
            Node::Any(nodes) => {
                let mut all = vec![false; begins.len()];
                for node in nodes {
                    join(&mut all, &node.ends(name, begins));
                }
                all
            }
            Node::Repeat { node, min, max } => repeat(node, *min, *max, name, begins),
            Node::Place(place) => {
                let at = begins.iter().enumerate();
                at.map(|(at, begins)| *begins && place.is_at(name, at))
                    .collect()
            }
        }
    }
}

fn repeat(
    node: &Node,
    min: usize,
    max: Option<usize>,
    name: &[char],
    begins: &[bool],
) -> Vec<bool> {
    let mut now = begins.to_vec();
    // After as many turns as there are positions nothing changes any more: either each took a character, or the set of
    // positions has only grown.
    for _ in 0..min.min(begins.len() + 1) {
        now = node.ends(name, &now);
    }
    let mut all = now.clone();
    let more = max.map_or(begins.len(), |max| max.saturating_sub(min));
    for _ in 0..more.min(begins.len()) {
        if !now.contains(&true) {
            break;
        }
        now = node.ends(name, &now);
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

impl Place {
    fn is_at(self, name: &[char], at: usize) -> bool {
        let is_word = |at: Option<usize>| {
            at.and_then(|at| name.get(at))
                .is_some_and(|&c| Kind::Word.has(c))
        };
        let is_word_edge = is_word(at.checked_sub(1)) != is_word(Some(at));
        match self {
            Place::Begin => at == 0,
            Place::LineEnd => is_end(name, at),
            Place::End => at == name.len(),
            Place::WordEdge => is_word_edge,
            Place::NoWordEdge => !is_word_edge,
        }
    }
}

impl Set {
    fn has(&self, c: char) -> bool {
        let has = |item: &Item| match item {
            Item::Range(from, to) => (*from..=*to).contains(&c),
            Item::Class { kind, is_negated } => kind.has(c) != *is_negated,
            Item::NoLineEnd => c != '\n',
        };
        self.items.iter().any(has) != self.is_negated
    }
}

impl Kind {
    fn has(self, c: char) -> bool {
        match self {
            Kind::Digit => c.is_ascii_digit(),
            Kind::Space => c.is_whitespace() || ('\x1c'..='\x1f').contains(&c),
            Kind::Word => c.is_alphanumeric() || c == '_',
        }
    }
}

type Text<'p> = Peekable<Chars<'p>>;
type Parsed<T> = Result<T, String>;

fn parse(pattern: &str) -> Parsed<Node> {
    if pattern.len() > MAX_LEN {
        return Err(too_long());
    }
    let mut text = pattern.chars().peekable();
    let node = alternatives(&mut text, 0)?;
    match text.next() {
        None if loops(&node) <= MAX_LOOPS => Ok(node),
        None => Err(format!("repetitions are in more than {MAX_LOOPS} others")),
        Some(_) => Err("a parenthesis is closed that was not opened".to_owned()),
    }
}

fn too_long() -> String {
    format!("it is longer than {MAX_LEN} bytes")
}

/// Repetitions within each other.
fn loops(node: &Node) -> usize {
    let most = |nodes: &[Node]| nodes.iter().map(loops).max().unwrap_or(0);
    match node {
        Node::One(_) | Node::Place(_) => 0,
        Node::All(nodes) | Node::Any(nodes) => most(nodes),
        Node::Repeat { node, max, .. } => loops(node) + usize::from(*max != Some(1)),
    }
}

fn alternatives(text: &mut Text<'_>, depth: usize) -> Parsed<Node> {
    if depth > MAX_DEPTH {
        return Err(format!("parentheses are in more than {MAX_DEPTH} others"));
    }
    let mut branches = vec![sequence(text, depth)?];
    while text.next_if_eq(&'|').is_some() {
        branches.push(sequence(text, depth)?);
    }
    Ok(Node::Any(branches))
}

fn sequence(text: &mut Text<'_>, depth: usize) -> Parsed<Node> {
    let mut nodes = Vec::new();
    while let Some(&next) = text.peek() {
        if next == '|' || next == ')' {
            break;
        }
        text.next();
        let node = match next {
            '(' => group(text, depth)?,
            '[' => Node::One(set(text)?),
            '.' => Node::One(Set {
                is_negated: false,
                items: vec![Item::NoLineEnd],
            }),
            '^' => Node::Place(Place::Begin),
            '$' => Node::Place(Place::LineEnd),
            '\\' => escape(text)?,
            '*' | '+' | '?' => return Err(format!("there is nothing that `{next}` repeats")),
            '{' if times(text).is_some() => {
                return Err("there is nothing that `{` repeats".to_owned());
            }
            _ => one(next),
        };
        nodes.push(repeated(node, text)?);
    }
    Ok(Node::All(nodes))
}

fn one(c: char) -> Node {
    Node::One(Set {
        is_negated: false,
        items: vec![Item::Range(c, c)],
    })
}

fn group(text: &mut Text<'_>, depth: usize) -> Parsed<Node> {
    if text.next_if_eq(&'?').is_some() && text.next_if_eq(&':').is_none() {
        return Err("of groups that begin with `(?` only `(?:` is understood".to_owned());
    }
    let node = alternatives(text, depth + 1)?;
    match text.next() {
        Some(_) => Ok(node),
        None => Err("a parenthesis is not closed".to_owned()),
    }
}

/// A node with the repetition that follows it.
fn repeated(node: Node, text: &mut Text<'_>) -> Parsed<Node> {
    let Some((min, max)) = repetition(text) else {
        return Ok(node);
    };
    if let Node::Place(_) = node {
        return Err("a place is repeated".to_owned());
    }
    if max.is_some_and(|max| max < min) {
        return Err("a repetition has a maximum below its minimum".to_owned());
    }
    // A repetition that takes as little as it can finds matches of the same lengths.
    if text.next_if_eq(&'?').is_none() && text.peek() == Some(&'+') {
        return Err("a repetition that gives nothing back (`+` behind it)".to_owned());
    }
    if repetition(text).is_some() {
        return Err("a repetition is repeated".to_owned());
    }
    let node = Box::new(node);
    Ok(Node::Repeat { node, min, max })
}

fn repetition(text: &mut Text<'_>) -> Option<(usize, Option<usize>)> {
    let (min, max) = match text.peek()? {
        '*' => (0, None),
        '+' => (1, None),
        '?' => (0, Some(1)),
        '{' => {
            let mut behind = text.clone();
            behind.next();
            let times = times(&behind)?;
            while text.next() != Some('}') {}
            return Some(times);
        }
        _ => return None,
    };
    text.next();
    Some((min, max))
}

/// Repetitions in braces, least and most; `None` where the brace is a character.
fn times(behind: &Text<'_>) -> Option<(usize, Option<usize>)> {
    let inside: String = behind.clone().take_while(|c| *c != '}').collect();
    let is_closed = behind.clone().any(|c| c == '}');
    let number = |digits: &str, default| match digits {
        "" => Some(default),
        _ if digits.bytes().all(|b| b.is_ascii_digit()) => {
            // More times than there are characters is as often as can be.
            Some(Some(digits.parse().unwrap_or(usize::MAX)))
        }
        _ => None,
    };
    if !is_closed || inside.is_empty() {
        return None;
    }
    match inside.split_once(',') {
        None => {
            let n = number(&inside, None)??;
            Some((n, Some(n)))
        }
        Some((min, max)) => Some((number(min, Some(0))??, number(max, None)?)),
    }
}

fn escape(text: &mut Text<'_>) -> Parsed<Node> {
    let c = text.next().ok_or("it ends with a backslash")?;
    if let Some(item) = class(c) {
        return Ok(Node::One(Set {
            is_negated: false,
            items: vec![item],
        }));
    }
    let place = match c {
        'A' => Place::Begin,
        'Z' => Place::End,
        'b' => Place::WordEdge,
        'B' => Place::NoWordEdge,
        _ => return Ok(one(literal(c)?)),
    };
    Ok(Node::Place(place))
}

fn class(c: char) -> Option<Item> {
    let kind = match c {
        'd' | 'D' => Kind::Digit,
        's' | 'S' => Kind::Space,
        'w' | 'W' => Kind::Word,
        _ => return None,
    };
    Some(Item::Class {
        kind,
        is_negated: c.is_ascii_uppercase(),
    })
}

/// The character that stands behind a backslash.
fn literal(c: char) -> Parsed<char> {
    match c {
        'n' => Ok('\n'),
        't' => Ok('\t'),
        'r' => Ok('\r'),
        _ if c.is_ascii_alphanumeric() => Err(format!("`\\{c}` is not understood")),
        _ => Ok(c),
    }
}

fn set(text: &mut Text<'_>) -> Parsed<Set> {
    let is_negated = text.next_if_eq(&'^').is_some();
    let mut items = Vec::new();
    loop {
        let c = text.next().ok_or("a bracket is not closed")?;
        if c == ']' && !items.is_empty() {
            return Ok(Set { is_negated, items });
        }
        let first = item(c, text)?;
        let mut behind = text.clone();
        let is_range = behind.next() == Some('-') && behind.next().is_some_and(|c| c != ']');
        if !is_range {
            items.push(first);
            continue;
        }
        text.next();
        let last = text.next().ok_or("a bracket is not closed")?;
        match (first, item(last, text)?) {
            (Item::Range(from, _), Item::Range(to, _)) if from <= to => {
                items.push(Item::Range(from, to));
            }
            _ => return Err("a range in brackets is none".to_owned()),
        }
    }
}

fn item(c: char, text: &mut Text<'_>) -> Parsed<Item> {
    if c != '\\' {
        return Ok(Item::Range(c, c));
    }
    let c = text.next().ok_or("a bracket is not closed")?;
    if let Some(item) = class(c) {
        return Ok(item);
    }
    let c = literal(c)?;
    Ok(Item::Range(c, c))
}

/// Of an expression, in bytes.
const MAX_LEN: usize = 512;
/// Parentheses within each other.
const MAX_DEPTH: usize = 20;
/// Repetitions within each other: each takes as many turns as a name has characters, at most.
const MAX_LOOPS: usize = 3;
