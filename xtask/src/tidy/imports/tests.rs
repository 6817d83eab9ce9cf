use std::fs;

use super::*;

/// A small crate and what is found in it.
struct Case {
    is: &'static str,
    files: &'static [(&'static str, &'static str)],
    /// The files of each circle.
    circles: &'static [&'static [&'static str]],
}

const fn case(
    is: &'static str,
    files: &'static [(&'static str, &'static str)],
    circles: &'static [&'static [&'static str]],
) -> Case {
    Case { is, files, circles }
}

fn imports(files: &[(&str, &str)]) -> Imports {
    let folder = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (name, text) in files {
        let path = Path::new("crates/a/src").join(name);
        fs::create_dir_all(folder.path().join(&path).parent().unwrap()).unwrap();
        fs::write(folder.path().join(&path), text).unwrap();
        paths.push(path);
    }
    Imports::read(folder.path(), &paths).unwrap().remove(0)
}

#[test]
fn circles_of_files_are_found() {
    for Case { is, files, circles } in CIRCLES.iter().chain(NO_CIRCLES) {
        let imports = imports(files);
        let found = imports.circles();
        let names = |circle: &Vec<usize>| {
            let names = circle
                .iter()
                .map(|file| imports.files[*file].to_str().unwrap());
            names.collect::<Vec<_>>()
        };
        let found: Vec<_> = found.iter().map(names).collect();
        assert_eq!(found, *circles, "{is}");
    }
}

/// One for each crate that had a circle when there was no check.
const CIRCLES: &[Case] = &[
    case(
        "llm-runtime: what makes a type and what the type asks, over files between",
        &[
            (
                "lib.rs",
                "mod device; mod session; mod stage; pub use stage::Stage;",
            ),
            (
                "device.rs",
                "use crate::stage::Options; pub struct Device(Options);",
            ),
            (
                "session.rs",
                "use crate::device::Device; pub struct Pass; fn f(d: Device) {}",
            ),
            (
                "stage.rs",
                "use crate::session::Pass; pub struct Options; pub trait Stage { fn pass(&self, p: Pass); }",
            ),
        ],
        &[&["device.rs", "session.rs", "stage.rs"]],
    ),
    case(
        "llm-cpu: a constant and a length, by paths in code",
        &[
            ("lib.rs", "mod gemm; mod workspace;"),
            (
                "gemm.rs",
                "pub fn scratch_len() -> usize { 2 * crate::workspace::TOKENS }",
            ),
            (
                "workspace.rs",
                "use crate::gemm; pub const TOKENS: usize = 64; fn len() -> usize { gemm::scratch_len() }",
            ),
        ],
        &[&["gemm.rs", "workspace.rs"]],
    ),
    case(
        "llm-checkpoint: an error that imports what fails with it, through a re-export",
        &[
            (
                "lib.rs",
                "mod error; mod tensor; pub use error::Error; pub use tensor::Encoding;",
            ),
            (
                "error.rs",
                "use crate::Encoding; pub enum Error { Wrong(Encoding) }",
            ),
            (
                "tensor.rs",
                "use crate::Error; pub enum Encoding { A } fn f() -> Result<(), Error> { Ok(()) }",
            ),
        ],
        &[&["error.rs", "tensor.rs"]],
    ),
    case(
        "llm-run: two faces of one command, by a path in a macro's arguments",
        &[
            ("main.rs", "mod plan; mod verify;"),
            ("plan.rs", "mod print; mod text;"),
            (
                "plan/print.rs",
                "pub fn flag() { println!(\"{}\", [super::text::RATE]) }",
            ),
            (
                "plan/text.rs",
                "use super::print; pub const RATE: u8 = 1; fn f() { print::flag() }",
            ),
            ("verify.rs", "use crate::plan; fn f() {}"),
        ],
        &[&["plan/print.rs", "plan/text.rs"]],
    ),
    case(
        "xtask: a list that another list's names are put to; a file's folder leads out of it",
        &[
            ("main.rs", "mod bench;"),
            ("bench.rs", "mod models; mod tiers; pub struct Precision;"),
            (
                "bench/models.rs",
                "use super::tiers; pub struct Folder; fn f() { tiers::names() }",
            ),
            ("bench/tiers.rs", "mod run; pub fn names() { run::all() }"),
            (
                "bench/tiers/run.rs",
                "use super::super::{Precision, models::Folder}; pub fn all() {}",
            ),
        ],
        &[&["bench/models.rs", "bench/tiers.rs", "bench/tiers/run.rs"]],
    ),
    case(
        "llm-quant: functions that two files lend each other",
        &[
            ("lib.rs", "pub mod double; pub mod scheme;"),
            (
                "double.rs",
                "use crate::scheme::{self, Block}; pub const NESTED: Block = scheme::block();",
            ),
            (
                "scheme.rs",
                "pub struct Block; pub const fn block() -> Block { Block } type A = [u8; super::double::NESTED.0];",
            ),
        ],
        &[&["double.rs", "scheme.rs"]],
    ),
    case(
        "llm-text: all of a file, and another name for it",
        &[
            ("lib.rs", "mod lexer; mod literal;"),
            (
                "lexer.rs",
                "use crate::literal as spelled; pub enum Token { Int } fn f() { spelled::skip() }",
            ),
            (
                "literal.rs",
                "use super::lexer::*; pub fn skip() -> Token { Token::Int }",
            ),
        ],
        &[&["lexer.rs", "literal.rs"]],
    ),
    case(
        "what a message says, in an attribute",
        &[
            ("lib.rs", "mod error; mod tensor;"),
            (
                "error.rs",
                "use crate::tensor; pub enum Error { #[error(\"{a}\", a = tensor::known())] Wrong }",
            ),
            (
                "tensor.rs",
                "pub fn known() -> Result<(), crate::error::Error> { Ok(()) }",
            ),
        ],
        &[&["error.rs", "tensor.rs"]],
    ),
    case(
        "two circles beside each other",
        &[
            ("lib.rs", "mod a; mod b; mod c; mod d;"),
            ("a.rs", "use crate::b::B; pub struct A;"),
            ("b.rs", "use crate::a::A; pub struct B;"),
            ("c.rs", "use crate::{a::A, d::D}; pub struct C;"),
            ("d.rs", "fn f() { use crate::c::C; } pub struct D;"),
        ],
        &[&["a.rs", "b.rs"], &["c.rs", "d.rs"]],
    ),
];

const NO_CIRCLES: &[Case] = &[
    case(
        "files that only declare and pass on",
        &[
            ("lib.rs", "mod a; mod b; pub use a::A; pub use b::make;"),
            (
                "a.rs",
                "mod parts; pub use parts::*; pub(crate) use self::parts::A;",
            ),
            ("a/parts.rs", "pub struct A; pub struct Part;"),
            (
                "b.rs",
                "use crate::{A, a::Part}; pub fn make() -> (A, Part) { (A, Part) }",
            ),
        ],
        &[],
    ),
    case(
        "a module and those below it",
        &[
            ("lib.rs", "mod a; pub struct Root; fn f() { a::f() }"),
            (
                "a.rs",
                "use self::b::B; mod b; pub struct A(B); pub fn f() {}",
            ),
            (
                "a/b.rs",
                "use super::A; use crate::Root; pub struct B; fn f(a: A) { crate::a::f() }",
            ),
        ],
        &[],
    ),
    case(
        "what only tests use, comments, strings, crates and fields of the same name",
        &[
            ("lib.rs", "mod a; mod b; #[cfg(test)] mod testing;"),
            (
                "a.rs",
                "use crate::b::B; #[cfg(test)] use crate::b::C; pub struct A;",
            ),
            (
                "b.rs",
                "use std::a::A; // use crate::a::A;
                 pub struct B { #[cfg(test)] a: crate::a::A, b: u8 }
                 const TEXT: &str = \"crate::a::A\"; fn f(b: B) { b.a::<A>(); ::a::f() }
                 #[cfg(test)] fn g<T, U>() -> crate::a::A {}
                 #[cfg(test)] mod tests { use crate::a::A; }",
            ),
        ],
        &[],
    ),
];

#[test]
fn a_circle_is_drawn_at_its_shortest() {
    let imports = imports(&[
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "\nuse crate::b::B;\npub struct A;"),
        (
            "b.rs",
            "use crate::{a::A, c};\npub struct B; fn f() { c::C }",
        ),
        ("c.rs", "use crate::a::A; pub struct C;"),
    ]);
    let circles = imports.circles();
    assert_eq!(circles.len(), 1);
    assert_eq!(
        imports.drawn(&circles[0]).to_string(),
        "crates/a/src/a.rs:2: 3 files lead in a circle: a.rs:2 `crate::b::B` → b.rs:1 `crate::a::A` → a.rs"
    );
}

/// The paths of a class in a picture, each by its numbers.
fn paths(svg: &str, class: &str) -> Vec<Vec<i64>> {
    let start = format!("<path class=\"{class}");
    let numbers = |path: &str| {
        let drawn = path
            .split("d=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        let words = drawn.split(|c: char| !c.is_ascii_digit() && c != '-');
        words.filter_map(|word| word.parse().ok()).collect()
    };
    svg.split(&start).skip(1).map(numbers).collect()
}

#[test]
fn arrows_run_down_but_for_those_that_close_a_circle() {
    for Case { is, files, .. } in CIRCLES.iter().chain(NO_CIRCLES) {
        let imports = imports(files);
        let (n_arrows, has_circles) = (imports.arrows.len(), !imports.circles().is_empty());
        let Drawing { svg, back } = Drawing::of(&[imports]);
        assert_eq!(!back.is_empty(), has_circles, "{is}");
        let red = paths(&svg, "back");
        let others = [paths(&svg, "down"), paths(&svg, "implied")].concat();
        assert_eq!(
            (red.len(), others.len() + red.len()),
            (back.len(), n_arrows),
            "{is}"
        );
        // From the lower edge of a box to the upper edge of one further down, or the other way round.
        assert!(
            others.iter().all(|path| path[1] < path[7]),
            "{is}: {others:?}"
        );
        assert!(red.iter().all(|path| path[1] > path[7]), "{is}: {red:?}");
        let said = format!(
            "0 arrows between crates, {n_arrows} between files; {} run",
            back.len()
        );
        assert!(svg.contains(&said), "{is}: {svg}");
        assert_eq!(svg.matches("class=\"box\"").count(), files.len(), "{is}");
    }
}

#[test]
fn an_arrow_to_a_higher_crate_runs_back_up() {
    let crates = |names: [&str; 2]| {
        names.map(|name| {
            let other = if name == "llm-plan" {
                "llm_tensor"
            } else {
                "serde"
            };
            Imports {
                name: Path::new("crates").join(name),
                outside: [other.to_owned()].into(),
                ..imports(&[("lib.rs", "")])
            }
        })
    };
    let down = Drawing::of(&crates(["llm-plan", "llm-tensor"]));
    assert_eq!(down.back, [""; 0]);
    assert_eq!(paths(&down.svg, "down crate").len(), 1);
    let up = Drawing::of(&crates(["llm-tensor", "llm-plan"]));
    assert_eq!(up.back, ["llm-plan → llm-tensor"]);
    assert_eq!(paths(&up.svg, "back crate").len(), 1);
    assert!(up.svg.contains("; 1 run back up<"));
}

#[test]
fn arrows_of_this_workspace_run_down() {
    let root = crate::root();
    let (svg, back) = draw(&root, &crate::tidy::files(&root).unwrap()).unwrap();
    assert_eq!(back, [""; 0]);
    assert_eq!(paths(&svg, "back").len(), 0);
    assert!(svg.contains(">llm-cpu</text>") && svg.contains(">tidy/imports</text>"));
}
