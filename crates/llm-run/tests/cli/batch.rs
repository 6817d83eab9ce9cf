//! Many prompts from a file, several at a time.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::chat::talkative;
use crate::support::{Output, fixture, json, program, run_with_stdin};

/// Runs `generate` with `lines` as its prompts.
fn generate(args: &[&str], lines: &str) -> Output {
    run_with_stdin(&[&["generate", "--prompts", "-"], args].concat(), lines)
}

/// The results by line of a run that ends with `code`.
fn results(args: &[&str], lines: &str, code: i32) -> Vec<Value> {
    let output = generate(args, lines);
    assert_eq!(output.code, code, "{args:?}: {}", output.stderr);
    let results = output.stdout.lines();
    let mut results: Vec<Value> = results
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    results.sort_by_key(|result| result["line"].as_u64());
    results
}

fn assert_same(found: &Value, expected: &Value) {
    for key in ["generated_ids", "text", "end"] {
        assert_eq!(found[key], expected[key], "{key} of {found}");
    }
}

/// Prompts of several lengths, and how many tokens each is to get.
const PROMPTS: [(&str, usize); 7] = [
    ("Once upon a time", 24),
    ("The little dog was very", 3),
    ("One", 40),
    (
        "Once upon a time there was a fox. The fox lived in a deep forest and had no friends. One day",
        12,
    ),
    ("A bird", 1),
    ("The old man went to the", 18),
    ("Mia and Tom", 9),
];

#[test]
fn each_prompt_is_answered_as_it_is_alone_however_many_share_a_pass() {
    let lines: Vec<String> = PROMPTS
        .iter()
        .map(|(prompt, n)| json!({"prompt": prompt, "max_new_tokens": n}).to_string())
        .collect();
    let alone = PROMPTS.map(|(prompt, n)| {
        let n = n.to_string();
        json(&["generate", "demo", prompt, "--max-new-tokens", &n, "--json"])
    });
    for batch in ["1", "3", "8"] {
        let found = results(&["demo", "--batch", batch], &lines.join("\n"), 0);
        assert_eq!(found.len(), PROMPTS.len());
        for (i, (found, alone)) in found.iter().zip(&alone).enumerate() {
            assert_eq!(found["line"], i + 1);
            let n_prompt_tokens = alone["prompt_ids"].as_array().unwrap().len();
            assert_eq!(found["n_prompt_tokens"], n_prompt_tokens);
            assert_eq!(found["seed"], Value::Null, "nothing is random");
            assert_same(found, alone);
        }
    }
}

/// Two long prompts come when one sequence decodes: together they are more than a pass.
#[test]
fn long_prompts_are_read_in_pieces_beside_what_decodes() {
    let tale = json(&["generate", "--max-new-tokens", "120", "--json"]);
    let tale = tale["generated_ids"].as_array().unwrap();
    let long = |skip: usize| -> Vec<&Value> { tale.iter().cycle().skip(skip).take(400).collect() };
    let lines = [
        json!({"token_ids": [1, 456, 455, 261, 457], "max_new_tokens": 30}),
        json!({"token_ids": [1], "max_new_tokens": 2}),
        json!({"token_ids": [1, 456], "max_new_tokens": 2}),
        json!({"token_ids": long(0), "max_new_tokens": 12}),
        json!({"token_ids": long(50), "max_new_tokens": 12}),
    ];
    let lines = lines.map(|line| format!("{line}\n")).concat();
    let together = results(&["--batch", "3"], &lines, 0);
    assert_eq!(together, results(&["--batch", "1"], &lines, 0));
}

#[test]
fn results_are_printed_in_the_order_in_which_they_end() {
    let lines = r#"
        {"prompt": "Once upon a time", "max_new_tokens": 9}
        {"prompt": "One", "max_new_tokens": 2}
        {"prompt": "The", "max_new_tokens": 3}
        {"prompt": "A", "max_new_tokens": 8}
    "#;
    // From a file: what a pipe brings may come too late to begin together.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, lines).unwrap();
    let path = file.path().to_str().unwrap();
    let order = |batch| {
        let args = ["generate", "--prompts", path, "--batch", batch];
        let output = run_with_stdin(&args, "");
        let line = |line| serde_json::from_str::<Value>(line).unwrap()["line"].clone();
        Value::from(output.stdout.lines().map(line).collect::<Vec<_>>())
    };
    assert_eq!(order("1"), json!([2, 3, 4, 5]));
    // The third takes the place of the second after two tokens, the fourth its after five.
    assert_eq!(order("2"), json!([3, 4, 2, 5]));
    assert_eq!(order("4"), json!([3, 4, 5, 2]));
}

#[test]
fn a_seed_makes_the_same_choices_in_every_batch() {
    let lines = "\"Once upon a time\"\n".repeat(5);
    let sampled = |batch, seed| {
        let args = ["--temperature", "1.3", "--max-new-tokens", "16"];
        let args = [&args[..], &["--batch", batch, "--seed", seed]].concat();
        results(&args, &lines, 0)
    };
    let found = sampled("1", "5");
    assert_eq!(found, sampled("3", "5"));
    let others = sampled("3", "6");
    for (i, result) in found.iter().enumerate() {
        let ids = &result["generated_ids"];
        let rest = found[i + 1..].iter().chain(&others);
        assert!(
            rest.clone().all(|other| other["generated_ids"] != *ids),
            "the same prompt is answered otherwise each time"
        );
    }
    let seed = found[3]["seed"].to_string();
    let alone = json(&[
        "generate",
        "--temperature",
        "1.3",
        "--max-new-tokens",
        "16",
        "--seed",
        &seed,
        "--json",
    ]);
    assert_same(&found[3], &alone);
}

#[test]
fn stop_strings_and_the_context_end_answers() {
    let lines = r#""Once upon a time"
        "Once upon a""#;
    let stopped = results(&["--stop", "named", "--max-new-tokens", "40"], lines, 0);
    for result in stopped {
        assert_eq!(result["end"], "stop");
        assert!(!result["text"].as_str().unwrap().contains("named"));
    }
    let full = results(&["--context", "16", "--ignore-eos"], lines, 0);
    for result in full {
        assert_eq!(result["end"], "context");
        let n = |key: &str| result[key].as_array().unwrap().len();
        let n_prompt_tokens = result["n_prompt_tokens"].as_u64().unwrap() as usize;
        // The last token's own position is never needed.
        assert_eq!(n("generated_ids"), 16 - n_prompt_tokens + 1);
    }
}

#[test]
fn prompts_that_cannot_be_continued_leave_the_others_alone() {
    let lines = [
        json!({"prompt": "Once upon a time", "id": "a"}),
        json!({"prompt": "", "id": 7}),
        json!({"token_ids": vec![1; 20], "id": null}),
        json!({"token_ids": [1, 1024], "id": [1, {"b": 2.5}]}),
        json!({"token_ids": vec![1; 601]}),
        json!({"token_ids": [1, 456, 455, 261, 457], "id": {"c": true}}),
    ];
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    let args = [
        "demo",
        "--max-new-tokens",
        "6",
        "--context",
        "16",
        "--batch",
        "2",
    ];
    // Lines that are blank do not count as prompts, but as lines.
    let found = results(&args, &lines.join("\n\n"), 2);
    let numbers: Vec<_> = found.iter().map(|result| result["line"].clone()).collect();
    assert_eq!(Value::from(numbers), json!([1, 3, 5, 7, 9, 11]));
    let ids = [json!("a"), json!(7), json!(null), json!([1, {"b": 2.5}])];
    for (result, id) in found.iter().zip(ids) {
        assert_eq!(result.get("id"), Some(&id));
    }
    assert_eq!(found[4].get("id"), None);
    let errors = [
        (1, "the prompt is empty"),
        (
            2,
            "20 tokens do not fit the context of 16; --context gives more, up to the 512 that the model has",
        ),
        (3, "token id 1024 is out of range"),
        (
            4,
            "601 tokens do not fit the context of 512 that the model has",
        ),
    ];
    for (i, words) in errors {
        let error = found[i]["error"].as_str().unwrap();
        assert!(error.contains(words), "{error}");
        assert_eq!(found[i].get("generated_ids"), None);
    }
    assert_same(&found[5], &found[0]);
    assert_eq!(found[0]["text"].as_str().unwrap().chars().next(), Some(','));
}

#[test]
fn messages_go_through_the_models_template() {
    let folder = talkative();
    let model = folder.path().to_str().unwrap();
    let short = ["--max-new-tokens", "8"];
    let lines = r#"
        {"messages": [{"role": "system", "content": "A story."}, {"role": "user", "content": "Once upon a time"}]}
        {"prompt": "Once upon a time"}
    "#;
    let asked = ["--chat", "--system", "A story."];
    let found = results(&[&[model][..], &short, &asked].concat(), lines, 0);
    let alone = ["generate", model, "Once upon a time", "--json"];
    let alone = json(&[&alone[..], &short, &asked].concat());
    assert_same(&found[0], &alone);
    assert_same(&found[1], &alone);
}

#[test]
fn tools_calls_documents_and_variables_reach_the_template() {
    let folder = talkative();
    let template = "{% if messages[-1].tool_calls %}{{ messages[-1].tool_calls[0].name }} {{ tools[0].name }} \
        {{ documents[0].text }} {{ tone }}{% else %}{{ messages[-1].content }}{% endif %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let tools = folder.path().join("tools.json");
    std::fs::write(&tools, r#"[{"name": "upon"}]"#).unwrap();
    let (model, tools) = (folder.path().to_str().unwrap(), tools.to_str().unwrap());
    let message = r#"{"role": "assistant", "content": null, "tool_calls": [{"name": "Once"}]}"#;
    let lines = format!(
        r#"
        {{"messages": [{message}], "tools": [{{"name": "upon"}}], "documents": [{{"text": "a"}}], "chat_template_kwargs": {{"tone": "time"}}}}
        {{"messages": [{message}], "documents": [{{"text": "a"}}]}}
        {{"messages": [{{"role": "user", "content": "Once upon a time"}}]}}
    "#
    );
    let args = [model, "--max-new-tokens", "8"];
    let given = ["--tools", tools, "--template-arg", "tone=\"time\""];
    let found = results(&[&args[..], &given].concat(), &lines, 0);
    assert_same(&found[1], &found[0]);
    assert_same(&found[2], &found[0]);
}

#[test]
fn encoders_read_one_prompt_after_the_other() {
    let model = fixture("models/t5-flan-style");
    let prompts = ["5,6,7,8,9,10", "11", "30,2,40", "7,7,7,7"];
    let lines = prompts.map(|ids| format!("{{\"token_ids\": [{ids}]}}\n"));
    let usual = [&model, "--max-new-tokens", "7", "--ignore-eos"];
    for batch in ["1", "3"] {
        let args = [&usual[..], &["--batch", batch]].concat();
        let found = results(&args, &lines.concat(), 0);
        for (found, ids) in found.iter().zip(prompts) {
            let alone = [&["generate", "--json", "--token-ids", ids], &usual[..]].concat();
            assert_same(found, &json(&alone));
            assert_eq!(found["text"], Value::Null, "there is no tokenizer");
        }
    }
}

#[test]
fn what_is_wrong_with_a_line_is_its_own_error() {
    struct Case<'a> {
        line: &'a str,
        words: &'a [&'a str],
    }
    let cases = [
        Case {
            line: r#"{"prompt": "x""#,
            words: &["column 14", "EOF"],
        },
        Case {
            line: "Once upon a time",
            words: &["column 1", "expected value", "in quotes"],
        },
        Case {
            line: "17",
            words: &["expected an object or a string", "17"],
        },
        Case {
            line: r#"["x", null, null, null, null]"#,
            words: &["expected an object or a string", "array"],
        },
        Case {
            line: r#"{"prompt": 5}"#,
            words: &["expected a string", "`5`"],
        },
        Case {
            line: r#"{"prompt": "x", "max_tokens": 5}"#,
            words: &["`max_tokens`", "`max_new_tokens`"],
        },
        Case {
            line: r#"{"prompt": "x", "max_new_tokens": 0}"#,
            words: &["`0`", "nonzero"],
        },
        Case {
            line: r#"{"prompt": "x", "token_ids": [1]}"#,
            words: &[
                "one of `prompt`, `token_ids` and `messages`",
                "more than one",
            ],
        },
        Case {
            line: r#"{"id": 1}"#,
            words: &["one of `prompt`, `token_ids` and `messages`", "none"],
        },
        Case {
            line: r#"{"token_ids": [-1]}"#,
            words: &["`-1`", "u32"],
        },
        Case {
            line: r#"{"messages": [{"role": 5, "content": "x"}]}"#,
            words: &["message", "`role`"],
        },
        Case {
            line: r#"{"messages": [{"role": "user", "content": "x"}]}"#,
            words: &["no chat template"],
        },
    ];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompts.jsonl");
    let path = file.to_str().unwrap();
    for Case { line, words } in cases {
        let lines = format!("\"Once\"\n\n{line}\n\"The\"\n");
        std::fs::write(&file, &lines).unwrap();
        let args = ["demo", "--max-new-tokens", "2"];
        let found = results(&args, &lines, 2);
        let from_file = [&["generate", "--prompts", path], &args[..]].concat();
        let from_file = run_with_stdin(&from_file, "");
        assert_eq!(from_file.code, 2, "{line}");
        assert_eq!(from_file.stdout.lines().count(), 3, "{line}");
        let error = found[1]["error"].as_str().unwrap();
        for word in words {
            assert!(error.contains(word), "{word} in {error}");
        }
        for (i, line) in [(0, 1), (1, 3), (2, 4)] {
            assert_eq!(found[i]["line"], line);
            assert_eq!(found[i].get("generated_ids").is_some(), i != 1);
        }
    }
    // What a line calls itself is repeated though the rest is wrong.
    let found = results(&["demo"], r#"{"id": [5], "prompt": 5}"#, 2);
    assert_eq!(found[0]["id"], json!([5]));
}

/// A running `generate --prompts -` that is fed line by line.
#[test]
fn lines_are_answered_as_they_come() {
    let mut child = program()
        .args(["generate", "--prompts", "-", "-n", "3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let lines: [&[u8]; 4] = [b"\"Once\"\n", b"\xff\n", b"\"The\"\n", b"\"One day\""];
    for (i, line) in lines.into_iter().enumerate() {
        input.as_mut().unwrap().write_all(line).unwrap();
        if i == 3 {
            // The end of the input ends the last line.
            input = None;
        }
        let mut found = String::new();
        output.read_line(&mut found).unwrap();
        let found: Value = serde_json::from_str(&found).unwrap();
        assert_eq!(found["line"], i + 1);
        let error = found["error"].as_str().unwrap_or_default();
        assert_eq!(error.contains("not UTF-8"), i == 1, "{found}");
    }
    assert_eq!(child.wait().unwrap().code(), Some(2));
}

#[test]
fn a_prompt_that_is_not_known_beforehand_gets_the_usual_context() {
    let model = fixture("models/llama");
    let line = json!({"token_ids": vec![1; 257], "id": "long"});
    let found = results(&[&model, "-n", "2", "-c", "20"], &format!("{line}\n"), 2);
    let error = found[0]["error"].as_str().unwrap();
    assert!(error.contains("context of 256"), "{error}");
    let line = json!({"token_ids": vec![1; 21]});
    let found = results(&[&model, "-n", "2", "-c", "20"], &line.to_string(), 2);
    let error = found[0]["error"].as_str().unwrap();
    assert!(error.contains("context of 20; --context"), "{error}");
}

#[test]
fn beams_take_one_prompt_after_the_other() {
    let lines = ["Once upon a time", "The little dog was", "One day"];
    let flags = ["--num-beams", "3", "--max-new-tokens", "9"];
    let quoted = lines.map(|line| format!("\"{line}\"\n")).concat();
    let found = results(&[&["demo"], &flags[..]].concat(), &quoted, 0);
    for (found, line) in found.iter().zip(lines) {
        let alone = json(&[&["generate", "demo", line, "--json"], &flags[..]].concat());
        assert_same(found, &alone);
    }
    let output = generate(&[&["--batch", "2"], &flags[..]].concat(), &quoted);
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.contains("--batch: with --num-beams"),
        "{}",
        output.stderr
    );
}

#[test]
fn what_no_line_could_mend_is_said_once() {
    let output = generate(&["demo", "--chat"], "\"Once\"\n\"The\"\n");
    assert_eq!((output.code, &output.stdout[..]), (2, ""));
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    assert!(
        output.stderr.contains("no chat template"),
        "{}",
        output.stderr
    );
}

#[test]
fn files_as_windows_writes_them_are_read() {
    let lines = "\u{feff}\"Once upon a time\"\r\n\r\n{\"prompt\": \"The dog\"}\r\n";
    let found = results(&["demo", "--max-new-tokens", "3"], lines, 0);
    let numbers: Vec<_> = found.iter().map(|result| &result["line"]).collect();
    assert_eq!(numbers, [1, 3]);
    let alone = ["Once upon a time", "--max-new-tokens", "3", "--json"];
    let alone = json(&[&["generate", "demo"], &alone[..]].concat());
    assert_same(&found[0], &alone);
}

#[test]
fn what_does_not_go_with_prompts_is_refused() {
    let cases: [(&[&str], &[&str]); 6] = [
        (&["demo", "Once"], &["--prompts", "[PROMPT]"]),
        (&["--json"], &["--prompts", "--json"]),
        (&["--token-ids", "1"], &["--prompts", "--token-ids"]),
        (&["--prompt-file", "x"], &["--prompts", "--prompt-file"]),
        (&["--batch", "0"], &["--batch"]),
        (&["demo"], &["no prompts in standard input"]),
    ];
    for (args, words) in cases {
        let output = generate(args, "\n");
        assert_eq!((output.code, &output.stdout[..]), (2, ""), "{args:?}");
        for word in words {
            assert!(output.stderr.contains(word), "{word} in {}", output.stderr);
        }
    }
    // A single prompt, however it is given, has no batch, and ids have no conversation.
    let ids = ["--token-ids", "1"];
    for (args, word) in [
        (&["--batch", "2"][..], "--prompts"),
        (&["demo", "Once", "--batch", "2"], "--batch"),
        (&[&["--batch", "2"], &ids[..]].concat(), "--batch"),
        (&[&["--system", "x"], &ids[..]].concat(), "--system"),
    ] {
        let output = run_with_stdin(&[&["generate"], args].concat(), "");
        assert_eq!((output.code, &output.stdout[..]), (2, ""), "{args:?}");
        assert!(output.stderr.contains(word), "{word} in {}", output.stderr);
    }
}
