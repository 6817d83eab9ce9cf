//! Rules for a file's words and its length.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Result;
use proc_macro2::{TokenStream, TokenTree};

use super::{Problem, read};

/// Lines that a Rust file may have without its tests.
const MAX_LINES: usize = 800;

/// Lines that this program may have without its tests: 1300 for chores, 1750 for measuring what models take, 300 for the
/// bundle for GPUs, 200 for what is handed out, the rest for what files use of each other.
const MAX_XTASK_LINES: usize = 5250;

/// Paths that may hold `unsafe`.
const UNSAFE: [&str; 6] = [
    "crates/llm-cpu/src",
    "crates/llm-cuda/src/driver",
    "crates/llm-cuda/src/driver.rs",
    "crates/llm-cuda/src/steps.rs",
    "crates/llm-checkpoint/src/map.rs",
    "tests/cuda-emulator",
];

// Put together from parts, so that this file does not contain what it looks for.
const UNFINISHED: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("todo", "!"),
    concat!("unimplemented", "!"),
    concat!("dbg", "!"),
];
const PRIVATE_PATHS: [&str; 2] = [concat!("../", "shared"), concat!("/", "work")];

pub(super) fn check(root: &Path, files: &[PathBuf]) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let mut n_xtask_lines = 0;
    for path in files {
        // What is not text has no lines to look at.
        let Ok(text) = String::from_utf8(read(root, path)?) else {
            continue;
        };
        let mut found = find_words(&text, &PRIVATE_PATHS, "is a place that others do not have");
        if path.extension().is_some_and(|extension| extension == "rs") {
            let n_lines = lines_without_tests(path, &text);
            found.extend(check_rust(path, &text, n_lines));
            if path.starts_with("xtask") {
                n_xtask_lines += n_lines;
            }
        }
        for (line, message) in found {
            problems.push(Problem::new(path, line, message));
        }
    }
    if n_xtask_lines > MAX_XTASK_LINES {
        let message =
            format!("{n_xtask_lines} lines without tests, {MAX_XTASK_LINES} are allowed in all");
        problems.push(Problem::new("xtask", 1, message));
    }
    Ok(problems)
}

/// A line, counted from 1, and what is wrong there.
type Found = Vec<(usize, String)>;

fn check_rust(path: &Path, text: &str, n_lines: usize) -> Found {
    let mut found = find_words(text, &UNFINISHED, "has no place in finished code");
    if path.ends_with("mod.rs") {
        found.push((1, "name the file after its module".to_owned()));
    }
    if n_lines > MAX_LINES {
        let message = format!("{n_lines} lines without tests, {MAX_LINES} are allowed");
        found.push((MAX_LINES, message));
    }
    match TokenStream::from_str(text) {
        Err(_) => found.push((1, "the file is not Rust".to_owned())),
        Ok(_) if UNSAFE.iter().any(|allowed| path.starts_with(allowed)) => {}
        Ok(tokens) => find_unsafe(tokens, &mut found),
    }
    found
}

/// Looks at tokens, so that neither comments nor strings count.
fn find_unsafe(tokens: TokenStream, found: &mut Found) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => find_unsafe(group.stream(), found),
            TokenTree::Ident(ident) if ident == "unsafe" => {
                let message = format!("`unsafe` outside {}", UNSAFE.join(", "));
                found.push((ident.span().start().line, message));
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

/// The lines that contain one of `words`, not as a part of a longer word or path.
fn find_words(text: &str, words: &[&str], reproach: &str) -> Found {
    let continues_left = |c: char| c.is_alphanumeric() || "_-.}".contains(c);
    let continues_right = |c: char| c.is_alphanumeric() || "_-".contains(c);
    let mut found = Found::new();
    for (idx, line) in text.lines().enumerate() {
        for word in words {
            let is_whole = |(at, _): (usize, &str)| {
                !line[..at].ends_with(continues_left)
                    && !line[at + word.len()..].starts_with(continues_right)
            };
            if line.match_indices(word).any(is_whole) {
                found.push((idx + 1, format!("`{word}` {reproach}")));
            }
        }
    }
    found
}

fn lines_without_tests(path: &Path, text: &str) -> usize {
    let is_test = path
        .iter()
        .any(|part| part == "tests" || part == "tests.rs");
    if is_test {
        return 0;
    }
    let code = text.split("\n#[cfg(test)]\nmod tests {").next();
    code.unwrap_or(text).lines().count()
}
