//! What people write in other words, and what they are told.

use crate::chat::talkative;
use crate::support::{fixture, json, run, run_with_stdin};

#[test]
fn short_flags_and_repeated_ones_are_understood() {
    let expected = json(&[
        "generate",
        "demo",
        "Once upon",
        "--max-new-tokens",
        "5",
        "--json",
    ]);
    let others: [&[&str]; 5] = [
        &["generate", "-p", "Once upon", "-n", "5", "--json"],
        &[
            "generate",
            "demo",
            "-p",
            "Once upon",
            "-n",
            "5",
            "--json",
            "-t",
            "1",
        ],
        &[
            "generate",
            "demo",
            "Once upon",
            "-n",
            "9",
            "-n",
            "5",
            "--json",
            "--json",
        ],
        &[
            "generate",
            "demo",
            "Once upon",
            "-n5",
            "--json",
            "-c",
            "64",
            "--greedy",
            "--greedy",
        ],
        &[
            "generate",
            "demo",
            "Once upon",
            "-n",
            "5",
            "--json",
            "--dtype",
            "f16",
            "--dtype",
            "auto",
        ],
    ];
    for args in others {
        let found = json(args);
        assert_eq!(
            found["generated_ids"], expected["generated_ids"],
            "{args:?}"
        );
    }
}

#[test]
fn element_types_and_sizes_are_understood_in_the_usual_words() {
    for (name, dtype) in [
        ("fp16", "f16"),
        ("float16", "f16"),
        ("half", "f16"),
        ("FP16", "f16"),
        ("bfloat16", "bf16"),
        ("fp32", "f32"),
        ("float", "f32"),
        ("float32", "f32"),
        ("torch.float32", "f32"),
    ] {
        let args = [
            "generate", "demo", "One", "-n", "1", "--json", "--dtype", name,
        ];
        assert_eq!(json(&args)["dtype"], dtype, "{name}");
    }
    for size in ["4G", "4g", "4 GB", "4GiB", "4096M", "4gb", "4294967296"] {
        let budget = format!("cpu={size}");
        let output = run(&["plan", "demo", "--max-memory", &budget, "--json"]);
        assert_eq!(output.code, 0, "{size}: {}", output.stderr);
        let out = tempfile::tempdir().unwrap();
        let out = out.path().join("out");
        let model = fixture("models/llama");
        let args = [
            "shard",
            &model,
            out.to_str().unwrap(),
            "--max-shard-size",
            size,
        ];
        let output = run(&args);
        assert_eq!(output.code, 0, "{size}: {}", output.stderr);
    }
}

#[test]
fn counts_of_threads_are_bounded() {
    for count in [
        "0",
        "-1",
        "100000",
        "65536",
        "18446744073709551615",
        "99999999999999999999",
        "two",
    ] {
        for command in [
            &["generate", "demo", "One", "-n", "1"][..],
            &["plan", "demo"],
        ] {
            let args = [command, &["--threads", count]].concat();
            let output = run(&args);
            assert_eq!(output.code, 2, "{args:?}: {}", output.stderr);
            let names = output.stderr.contains("threads");
            assert!(
                names && !output.stderr.contains("panicked"),
                "{}",
                output.stderr
            );
        }
    }
    let expected = json(&["generate", "demo", "One", "-n", "3", "--json"]);
    for count in ["1", "3", "7"] {
        let found = json(&["generate", "demo", "One", "-n", "3", "--json", "-t", count]);
        assert_eq!(found["generated_ids"], expected["generated_ids"]);
    }
}

#[test]
fn a_context_that_ended_an_answer_is_said() {
    let flags = ["--ignore-eos", "-n", "1000"];
    let output = run(&[&["generate", "-c", "16"], &flags[..]].concat());
    assert_eq!(output.code, 0);
    let said = "the context of 16 positions is full; --context gives more, up to the 512";
    assert!(output.stderr.contains(said), "{}", output.stderr);
    let output = run(&[&["generate"], &flags[..]].concat());
    let said = "the context of 512 positions, all that the model has, is full";
    assert!(output.stderr.contains(said), "{}", output.stderr);
    let output = run(&["generate", "-n", "3"]);
    assert!(!output.stderr.contains("full"), "{}", output.stderr);

    let folder = talkative();
    let model = folder.path().to_str().unwrap();
    let args = ["chat", model, "-c", "24", "--ignore-eos"];
    let output = run_with_stdin(&args, "Once upon a time\n");
    assert!(
        output
            .stderr
            .contains("the context of 24 positions is full"),
        "{}",
        output.stderr
    );
}

#[test]
fn a_prompt_in_the_place_of_something_else_is_told_so() {
    let output = run(&["generate", "Once upon a time"]);
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("with -p"), "{}", output.stderr);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.txt");
    std::fs::write(&file, "Once").unwrap();
    let output = run(&["generate", "demo", file.to_str().unwrap(), "-n", "1"]);
    assert_eq!(output.code, 0);
    assert!(
        output.stderr.contains("--prompt-file reads the file"),
        "{}",
        output.stderr
    );
    // An empty text is no system message, but no mistake either.
    let folder = talkative();
    let model = folder.path().to_str().unwrap();
    let args = [
        "generate", model, "Once", "--chat", "--system", "", "-n", "1",
    ];
    assert_eq!(run(&args).code, 0);
}

#[test]
fn a_disk_that_fails_is_not_the_users_fault() {
    // The kernel answers reads at the beginning of this file with an I/O error.
    let output = run(&["generate", "demo", "--prompt-file", "/proc/self/mem"]);
    assert_eq!(output.code, 1, "{}", output.stderr);
    assert!(
        output.stderr.contains("/proc/self/mem"),
        "{}",
        output.stderr
    );
    let output = run(&["generate", "demo", "--prompt-file", "/"]);
    assert_eq!(output.code, 2, "{}", output.stderr);
}

#[test]
fn a_model_asked_for_the_json_of_a_failure_prints_no_half_an_object() {
    let output = run(&["generate", "demo", "--token-ids", "5000", "--json"]);
    assert_eq!((output.code, &output.stdout[..]), (2, ""));
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
}
