//! Completions and manual pages.

use std::fs;

use crate::support::run;

#[test]
fn shells_complete_commands_and_flags() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert_eq!(output.code, 0, "{}", output.stderr);
        for word in ["generate", "max-memory", "load-in-4bit", "quantize"] {
            assert!(output.stdout.contains(word), "{shell}: {word}");
        }
    }
    assert_eq!(run(&["completions", "cmd.exe"]).code, 2);
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    let output = run(&["man", "--out", pages.to_str().unwrap()]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    let page = |name: &str| fs::read_to_string(pages.join(name)).unwrap();
    assert!(page("llm-run-plan.1").contains(r"org/name \-\-max\-memory"));
    assert!(page("llm-run-cache-clear.1").contains("stale"));
    assert_eq!(run(&["man"]).stdout, page("llm-run.1"));
    let help = run(&["--help"]).stdout;
    let commands = help.lines().filter_map(|line| {
        let name = line.strip_prefix("  ")?.split(' ').next()?;
        name.starts_with(|c: char| c.is_ascii_lowercase())
            .then(|| name.to_owned())
    });
    let commands: Vec<_> = commands.filter(|name| name != "help").collect();
    assert!(commands.len() >= 16, "{commands:?}");
    for name in commands {
        assert!(!page(&format!("llm-run-{name}.1")).is_empty());
    }
}
