//! Names in the text of one file: items that it defines, imports, and paths in code.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A module as it is written, without what only tests see.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// Names of the items that are defined here.
    pub(super) items: BTreeSet<String>,
    /// Modules declared here; those written inline with their body.
    pub(super) children: BTreeMap<String, Option<Source>>,
    pub(super) imports: Vec<Import>,
    /// Paths of two names or more, outside `use`.
    pub(super) paths: Vec<NamedPath>,
    /// All names outside `use`.
    pub(super) names: BTreeSet<String>,
}

/// A path where it stands.
#[derive(Debug, Clone)]
pub(super) struct NamedPath {
    pub(super) names: Vec<String>,
    /// Counted from 1.
    pub(super) line: usize,
}

/// One leaf of a `use`.
#[derive(Debug)]
pub(super) struct Import {
    pub(super) path: NamedPath,
    /// The name that it gets here; `None` where it brings all (`*`).
    pub(super) name: Option<String>,
    /// True of a re-export, in whatever bounds.
    pub(super) is_public: bool,
}

impl Source {
    /// The file's module. Tokens are read, not a syntax tree, so that the arguments of macros count as well.
    pub(super) fn parse(text: &str) -> Option<Source> {
        let mut source = Source::default();
        source.add_items(TokenStream::from_str(text).ok()?);
        Some(source)
    }

    /// The names that neither an item nor an import explains.
    pub(super) fn unexplained(&self) -> impl Iterator<Item = &String> {
        let is_imported = |name| {
            self.imports
                .iter()
                .any(|import| import.name.as_ref() == Some(name))
        };
        (self.names.iter()).filter(move |name| !self.items.contains(*name) && !is_imported(name))
    }

    fn add_items(&mut self, tokens: TokenStream) {
        let tokens = without_tests(tokens);
        let mut rest = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            let named = |n| tokens.get(at + n).and_then(name_of);
            match named(0).as_deref() {
                Some("use") if !is_punct(tokens.get(at + 1), '<') => {
                    let end = end_of_statement(&tokens, at);
                    self.add_import(&tokens[at + 1..end], is_public(&tokens[..at]));
                    at = end;
                }
                Some("mod") if named(1).is_some() => {
                    let body = match tokens.get(at + 2) {
                        Some(TokenTree::Group(group)) => {
                            let mut source = Source::default();
                            source.add_items(group.stream());
                            Some(source)
                        }
                        _ => None,
                    };
                    self.children.extend(named(1).map(|name| (name, body)));
                    at += 3;
                }
                Some("macro_rules") => {
                    self.items.extend(named(2));
                    at += 3;
                }
                Some(keyword) if DEFINING.contains(&keyword) => {
                    self.items.extend(named(1));
                    // Not the name itself: it may be a keyword again, as in `const fn`.
                    at += 1;
                }
                _ => {
                    rest.push(tokens[at].clone());
                    at += 1;
                }
            }
        }
        self.add_paths(&rest);
    }

    /// The paths of code, which may hold imports of its own.
    fn add_paths(&mut self, tokens: &[TokenTree]) {
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) => {
                    self.add_paths(&without_tests(group.stream()));
                    at += 1;
                }
                TokenTree::Ident(ident) if ident == "use" && !is_punct(tokens.get(at + 1), '<') => {
                    let end = end_of_statement(tokens, at);
                    self.add_import(&tokens[at + 1..end], false);
                    at = end;
                }
                TokenTree::Ident(_) => {
                    let is_continued = at >= 2 && is_path_separator(tokens, at - 2)
                        || at >= 1 && is_punct(tokens.get(at - 1), '.');
                    let names = path_at(tokens, at);
                    let line = tokens[at].span().start().line;
                    at += 3 * names.len() - 2;
                    if !is_continued {
                        self.names.insert(names[0].clone());
                        if names.len() > 1 {
                            self.paths.push(NamedPath { names, line });
                        }
                    }
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => at += 1,
            }
        }
    }

    fn add_import(&mut self, tree: &[TokenTree], is_public: bool) {
        let line = tree.first().map_or(1, |token| token.span().start().line);
        add_leaves(tree, &[], &mut |names, name| {
            self.imports.push(Import {
                path: NamedPath { names, line },
                name,
                is_public,
            });
        });
    }
}

const DEFINING: [&str; 9] = [
    "struct", "enum", "union", "trait", "type", "fn", "static", "const", "macro",
];

/// Calls `add` with each path and name of a tree as it stands after `use`, up to its end or a comma.
fn add_leaves(
    tree: &[TokenTree],
    before: &[String],
    add: &mut impl FnMut(Vec<String>, Option<String>),
) {
    for branch in tree.split(|token| is_punct(Some(token), ',')) {
        let mut path = before.to_vec();
        let mut tokens = branch.iter();
        let mut alias = None;
        let mut is_done = false;
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Ident(ident) if ident == "as" => {
                    alias = tokens.next().and_then(name_of);
                }
                TokenTree::Ident(_) => path.extend(name_of(token)),
                TokenTree::Group(group) => {
                    let tree: Vec<_> = group.stream().into_iter().collect();
                    add_leaves(&tree, &path, add);
                    is_done = true;
                }
                TokenTree::Punct(punct) if punct.as_char() == '*' => {
                    add(std::mem::take(&mut path), None);
                    is_done = true;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
        if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
            path.pop();
        }
        if !is_done && !path.is_empty() {
            let name = alias.or_else(|| path.last().cloned());
            add(path, name);
        }
    }
}

/// Names that `::` joins, from one of them on.
fn path_at(tokens: &[TokenTree], at: usize) -> Vec<String> {
    let mut path: Vec<String> = tokens.get(at).and_then(name_of).into_iter().collect();
    let mut next = at + 1;
    while is_path_separator(tokens, next)
        && let Some(name) = tokens.get(next + 2).and_then(name_of)
    {
        path.push(name);
        next += 3;
    }
    path
}

/// The tokens without items, statements, fields and arms that only tests see.
fn without_tests(tokens: TokenStream) -> Vec<TokenTree> {
    let mut kept = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let is_attribute = is_punct(Some(&token), '#');
        match tokens.peek() {
            Some(TokenTree::Group(group)) if is_attribute && is_test_only(group.stream()) => {
                skip_item(&mut tokens);
            }
            _ => kept.push(token),
        }
    }
    kept
}

fn skip_item(tokens: &mut impl Iterator<Item = TokenTree>) {
    let (mut is_item, mut is_statement) = (false, false);
    for token in tokens {
        match &token {
            TokenTree::Ident(ident) => {
                is_item |= ["impl", "mod"].iter().any(|word| ident == word)
                    || DEFINING.iter().any(|word| ident == word);
                // These end with a semicolon, whatever braces they have.
                is_statement |= ["use", "let"].iter().any(|word| ident == word);
            }
            TokenTree::Group(group) => {
                if group.delimiter() == Delimiter::Brace && !is_statement {
                    return;
                }
            }
            TokenTree::Punct(punct) => {
                if punct.as_char() == ';' || punct.as_char() == ',' && !is_item && !is_statement {
                    return;
                }
            }
            TokenTree::Literal(_) => {}
        }
    }
}

/// True of a `cfg` that holds in tests only.
fn is_test_only(attribute: TokenStream) -> bool {
    let words = attribute.to_string();
    let words: Vec<_> = words
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .collect();
    words.first() == Some(&"cfg") && words.contains(&"test") && !words.contains(&"not")
}

/// True where `before` ends in a `pub`, in whatever bounds.
fn is_public(before: &[TokenTree]) -> bool {
    match before {
        [.., TokenTree::Ident(ident)] => ident == "pub",
        [.., TokenTree::Ident(ident), TokenTree::Group(_)] => ident == "pub",
        _ => false,
    }
}

/// The place of the semicolon that ends a statement.
fn end_of_statement(tokens: &[TokenTree], at: usize) -> usize {
    let len = tokens[at..]
        .iter()
        .position(|token| is_punct(Some(token), ';'));
    len.map_or(tokens.len(), |len| at + len)
}

fn is_path_separator(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')
}

fn is_punct(token: Option<&TokenTree>, c: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == c)
}

fn name_of(token: &TokenTree) -> Option<String> {
    match token {
        TokenTree::Ident(ident) => Some(ident.to_string().trim_start_matches("r#").to_owned()),
        TokenTree::Group(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => None,
    }
}
