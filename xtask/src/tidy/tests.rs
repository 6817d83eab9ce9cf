use tempfile::TempDir;

use super::*;
use crate::{root, sha256};

#[test]
fn this_workspace_is_tidy() {
    assert_eq!(problems(&root()), [""; 0]);
}

fn problems(root: &Path) -> Vec<String> {
    let problems = check(root).unwrap();
    problems.iter().map(Problem::to_string).collect()
}

/// A small workspace in which everything is as it should be.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Tree(tempfile::tempdir().unwrap());
        tree.write("Cargo.toml", "[workspace]\nmembers = ['crates/llm-te*']\n");
        tree.write("LICENSE-APACHE", "");
        tree.write("LICENSE-MIT", "");
        tree.write("ARCHITECTURE.md", "`llm-tensor` and `llm-text`\n");
        tree.write(".gitignore", "/ignored\n");
        tree.write("ignored/mod.rs", "not Rust");
        tree.write("crates/llm-tensor/Cargo.toml", &manifest("llm-tensor", ""));
        tree.write("crates/llm-tensor/src/lib.rs", HARMLESS);
        tree.write("crates/llm-tensor/src/lib/tests.rs", &"\n".repeat(900));
        let dev = "[dev-dependencies]\nllm-tensor = { path = '../llm-tensor' }\n";
        tree.write("crates/llm-text/Cargo.toml", &manifest("llm-text", dev));
        tree.write("crates/llm-text/src/lib.rs", "");
        tree.write("crates/llm-cpu/src/kernel.rs", "unsafe fn f() {}");
        tree.write("tests/fixtures/a/b.bin", "\u{1}");
        tree.write("tests/fixtures/near/c.bin", "\u{2}");
        tree.write("tests/fixtures/near/SHA256SUMS", "");
        update_checksums(tree.0.path()).unwrap();
        tree
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn problems(&self) -> Vec<String> {
        problems(self.0.path())
    }
}

fn manifest(name: &str, more: &str) -> String {
    format!("[package]\nname = '{name}'\nversion = '0.1.0'\n{more}")
}

const HARMLESS: &str = r##"
//! Speaks of unsafe code, as do strings.
const A: &str = r#"unsafe { \' } "#; // unsafe { " }
/* unsafe /* unsafe */ unsafe */
fn unsafe_code<'unsafety>(todo: &'unsafety str) -> bool { todo != "'" }
"##;

#[test]
fn a_tidy_tree_has_no_problems() {
    assert_eq!(Tree::new().problems(), [""; 0]);
}

#[test]
fn each_violation_is_found_where_it_is() {
    struct Case {
        file: &'static str,
        text: String,
        /// All that is said, sorted.
        says: &'static [&'static str],
    }
    let case = |file, text: &str, says| Case {
        file,
        text: text.to_owned(),
        says,
    };
    let text_crate = "llm-text = { path = '../llm-text' }\n";
    let private = concat!("see ..", "/../", "shared/x");
    let place = concat!("cd \"/", "work/main\"");
    let cases = [
        case(
            "crates/llm-tensor/Cargo.toml",
            &manifest("llm-tensor", &format!("[dependencies]\n{text_crate}")),
            &["crates/llm-tensor/Cargo.toml:5: `llm-tensor` may not use `llm-text`"],
        ),
        case(
            "crates/llm-tensor/Cargo.toml",
            &manifest("llm-tensor", &format!("[build-dependencies]\n{text_crate}")),
            &["crates/llm-tensor/Cargo.toml:5: `llm-tensor` may not use `llm-text`"],
        ),
        case(
            "crates/llm-text/Cargo.toml",
            &manifest("llm-new", ""),
            &[
                "ARCHITECTURE.md:1: crate `llm-new` is not mentioned",
                "crates/llm-text/Cargo.toml:1: crate `llm-new` has no place in the table of layers",
            ],
        ),
        case(
            "ARCHITECTURE.md",
            "`llm-text`",
            &["ARCHITECTURE.md:1: crate `llm-tensor` is not mentioned"],
        ),
        case(
            "crates/llm-text/src/lib.rs",
            "\nfn f() { macro! { unsafe { g() } } }",
            &[
                "crates/llm-text/src/lib.rs:2: `unsafe` outside crates/llm-cpu/src, crates/llm-cuda/src/driver, \
                 crates/llm-cuda/src/driver.rs, crates/llm-cuda/src/steps.rs, crates/llm-checkpoint/src/map.rs, \
                 tests/cuda-emulator",
            ],
        ),
        case(
            "crates/llm-text/src/lib.rs",
            concat!("fn f() {\n dbg", "!(1);\n unimplemented", "!()\n}"),
            &[
                concat!(
                    "crates/llm-text/src/lib.rs:2: `dbg",
                    "!` has no place in finished code"
                ),
                concat!(
                    "crates/llm-text/src/lib.rs:3: `unimplemented",
                    "!` has no place in finished code"
                ),
            ],
        ),
        case(
            "crates/llm-text/src/lib.rs",
            concat!("// TO", "DO: more\n// FIX", "MES are no word"),
            &[concat!(
                "crates/llm-text/src/lib.rs:1: `TO",
                "DO` has no place in finished code"
            )],
        ),
        case(
            "crates/llm-text/src/lib.rs",
            "fn f( {",
            &["crates/llm-text/src/lib.rs:1: the file is not Rust"],
        ),
        case(
            "crates/llm-text/src/chat/mod.rs",
            "",
            &["crates/llm-text/src/chat/mod.rs:1: name the file after its module"],
        ),
        case(
            "crates/llm-text/src/long.rs",
            &"\n".repeat(801),
            &["crates/llm-text/src/long.rs:800: 801 lines without tests, 800 are allowed"],
        ),
        case(
            "crates/llm-text/src/long.rs",
            &format!("{}#[cfg(test)]\nmod tests {{\n}}\n", "\n".repeat(799)),
            &[],
        ),
        case("xtask/src/a.rs", &"\n".repeat(800), &[]),
        case(
            "docs/setup.md",
            &format!("# Setup\n{private}\nhome/work/x, https://x.org/a/workshop\n{place}\n"),
            &[
                concat!(
                    "docs/setup.md:2: `../",
                    "shared` is a place that others do not have"
                ),
                concat!(
                    "docs/setup.md:4: `/",
                    "work` is a place that others do not have"
                ),
            ],
        ),
        case(
            "tests/fixtures/a/b.bin",
            "\u{2}",
            &[
                "tests/fixtures/SHA256SUMS:1: `a/b.bin` has the checksum dbc1b4c900ffe48d575b5da5c638040125f65db0fe3e24494b76ea986457d986",
            ],
        ),
        case(
            "tests/fixtures/near/new.bin",
            "",
            &["tests/fixtures/near/new.bin:1: not listed in SHA256SUMS"],
        ),
        case(
            "tests/fixtures/a/SHA256SUMS",
            "nothing\n",
            &[
                "tests/fixtures/SHA256SUMS:1: `a/b.bin` is not there, was listed before, or has a nearer SHA256SUMS",
                "tests/fixtures/a/SHA256SUMS:1: not a checksum, two blanks and a name",
                "tests/fixtures/a/b.bin:1: not listed in SHA256SUMS",
            ],
        ),
    ];
    for Case { file, text, says } in cases {
        let tree = Tree::new();
        tree.write(file, &text);
        assert_eq!(tree.problems(), says, "{file}: {text}");
    }
}

#[test]
fn what_is_missing_is_found() {
    let cases = [
        ("LICENSE-MIT", "LICENSE-MIT:1: the file is missing"),
        (
            "tests/fixtures/SHA256SUMS",
            "tests/fixtures/SHA256SUMS:1: No such file or directory (os error 2)",
        ),
        (
            "tests/fixtures/near/c.bin",
            "tests/fixtures/near/SHA256SUMS:1: `c.bin` is not there, was listed before, or has a nearer SHA256SUMS",
        ),
    ];
    for (file, says) in cases {
        let tree = Tree::new();
        fs::remove_file(tree.0.path().join(file)).unwrap();
        assert_eq!(tree.problems(), [says]);
    }
}

#[test]
fn files_do_not_lead_in_a_circle() {
    let tree = Tree::new();
    tree.write("crates/llm-json/src/lib.rs", "mod a;\nmod b;\n");
    tree.write("crates/llm-json/src/a.rs", "use crate::b::B;\nstruct A;\n");
    tree.write("crates/llm-json/src/b.rs", "struct B;\n");
    assert_eq!(tree.problems(), [""; 0]);
    tree.write("crates/llm-json/src/b.rs", "\nstruct B(super::a::A);\n");
    let says = "crates/llm-json/src/a.rs:1: 2 files lead in a circle: \
                a.rs:1 `crate::b::B` → b.rs:2 `super::a::A` → a.rs";
    assert_eq!(tree.problems(), [says]);
}

#[test]
fn this_program_is_limited_as_a_whole() {
    let tree = Tree::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        tree.write(&format!("xtask/src/{name}.rs"), &"\n".repeat(800));
    }
    tree.write("xtask/src/g.rs", &"\n".repeat(451));
    let says = "xtask:1: 5251 lines without tests, 5250 are allowed in all";
    assert_eq!(tree.problems(), [says]);
}

#[test]
fn updated_checksums_are_what_sha256sum_would_write() {
    let tree = Tree::new();
    tree.write("tests/fixtures/a/b.bin", "abc");
    assert_eq!(tree.problems().len(), 1);
    update_checksums(tree.0.path()).unwrap();
    assert_eq!(tree.problems(), [""; 0]);
    let sums = fs::read_to_string(tree.0.path().join("tests/fixtures/SHA256SUMS")).unwrap();
    assert_eq!(sums, format!("{}  a/b.bin\n", sha256(b"abc")));
    assert!(
        sums.starts_with("ba7816bf8f01cfea414140de5dae2223"),
        "{sums}"
    );
}
