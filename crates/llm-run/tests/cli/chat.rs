//! Conversations, typed into a pipe.

use crate::support::{asset, run_with_stdin};

/// The bundled model with a template that it was never trained on: what matters is what it is fed.
pub(crate) fn talkative() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        std::fs::copy(asset(name), folder.path().join(name)).unwrap();
    }
    let template = "{% for m in messages %}{{ m.content }} {% endfor %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    folder
}

fn chat(args: &[&str], lines: &str) -> (Vec<String>, String) {
    let folder = talkative();
    let output = run_with_stdin(
        &[&["chat", folder.path().to_str().unwrap()], args].concat(),
        lines,
    );
    assert_eq!(output.code, 0, "{}", output.stderr);
    (
        output.stdout.lines().map(str::to_owned).collect(),
        output.stderr,
    )
}

#[test]
fn each_answer_follows_from_all_that_was_said() {
    let short = ["--max-new-tokens", "12"];
    let (answers, said) = chat(
        &short,
        "Once upon a time\nOnce upon a time\n/reset\nOnce upon a time\n/nonsense\n/exit\nx\n",
    );
    assert_eq!(answers.len(), 3, "{answers:?}");
    assert_eq!(answers[0], answers[2], "the same after a reset");
    assert_ne!(answers[0], answers[1], "another with a past");
    assert!(
        said.contains("no command is /nonsense; /help lists"),
        "{said}"
    );
    // The first turn takes 5 tokens and makes 12, the last of which is never fed. The second turn's 23 tokens begin
    // with those 16: only the other 7 are computed.
    let turns: Vec<_> = said
        .lines()
        .filter(|line| line.contains("prompt"))
        .collect();
    for (turn, [prompt, context]) in [
        (0, ["prompt 5 ", "context 16 of"]),
        (1, ["prompt 7 ", "context 34 of"]),
    ] {
        assert!(
            turns[turn].contains(prompt) && turns[turn].contains(context),
            "{}",
            turns[turn]
        );
    }
}

#[test]
fn the_oldest_exchanges_are_forgotten_when_the_context_is_full() {
    let turns = "Once upon a time there was a brave mouse\n".repeat(8);
    let (answers, said) = chat(&["--context", "64", "--max-new-tokens", "12"], &turns);
    assert_eq!(answers.len(), 8, "{said}");
    assert!(said.contains("no longer fit the context"), "{said}");
}

#[test]
fn a_message_that_cannot_fit_is_refused_and_the_conversation_goes_on() {
    let long = "mouse ".repeat(100);
    let (answers, said) = chat(
        &["--context", "64", "--max-new-tokens", "8"],
        &format!("{long}\nhello\n"),
    );
    assert_eq!(answers.len(), 1, "{said}");
    assert!(
        said.contains("does not fit the context of 64 tokens"),
        "{said}"
    );
}

#[test]
fn a_conversation_is_saved_and_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("talk.json");
    let other = folder.path().join("other.txt");
    std::fs::write(&other, "a letter").unwrap();
    let (file, other) = (file.display(), other.display());
    let short = ["--max-new-tokens", "12"];
    let (answers, said) = chat(
        &short,
        &format!("/system Tell.\nOnce upon a time\n/save {file}\n/save {other}\n/save\nA bird\n"),
    );
    assert_eq!(answers.len(), 2, "{said}");
    for words in [
        "saved 1 question and its answer",
        "other.txt is no conversation, and is not replaced",
        "a file has to be named",
    ] {
        assert!(said.contains(words), "{words} in {said}");
    }
    let lines = format!("/load {other}\n/load {file}\n/system\nA bird\n/stats\n");
    let (again, said) = chat(&short, &lines);
    assert_eq!(again[..], answers[1..], "{said}");
    for words in [
        "loaded 1 question",
        "Tell.",
        "2 questions and answers · context",
    ] {
        assert!(said.contains(words), "{words} in {said}");
    }
    // What is saved is a line of prompts.
    let output = run_with_stdin(&["generate", "demo", "--prompts", &file.to_string()], "");
    assert!(output.stdout.contains("chat template"), "{}", output.stdout);
}

#[test]
fn an_answer_is_made_anew_where_it_may_differ() {
    let (answers, said) = chat(
        &["--temperature", "1", "--seed", "3", "-n", "12"],
        "/regenerate\nOnce upon a time\n/regenerate\n/regenerate\n",
    );
    assert!(said.contains("there is no answer yet"), "{said}");
    assert_eq!(answers.len(), 3, "{said}");
    assert!(
        answers[0] != answers[1] && answers[1] != answers[2],
        "{answers:?}"
    );
    let (answers, said) = chat(&["-n", "12"], "Once upon a time\n/regenerate\n");
    assert!(said.contains("the same would come"), "{said}");
    assert_eq!(answers.len(), 1);
}

#[test]
fn messages_may_have_several_lines() {
    let short = ["--max-new-tokens", "12"];
    // The template parts messages as a space does.
    let (answers, said) = chat(
        &short,
        "Once upon\\\na time\n/reset\n\"\"\"\nOnce upon\na time\n\"\"\"\n/reset\nOnce upon a time\n",
    );
    assert_eq!(answers.len(), 3, "{said}");
    assert_eq!(answers[0], answers[1], "{said}");
    assert_ne!(answers[0], answers[2], "a line's end is not a space");
}
