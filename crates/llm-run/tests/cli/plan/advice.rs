//! What a plan recommends, and how it knows how fast machines are.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{config, plan, plan_json};
use crate::support::program;

#[test]
fn a_recommendation_comes_first() {
    struct Case {
        model: &'static str,
        args: &'static [&'static str],
        code: i32,
        flags: Value,
        line: &'static str,
    }
    let cases = [
        Case {
            model: "bigscience/bloomz-7b1-mt",
            args: &["--max-memory", "0=8GB,cpu=12.7GB,disk=100GB"],
            code: 0,
            flags: json!("--load-in-4bit"),
            line: "Recommended: use --load-in-4bit: wholly on the GPU, 53.0 tokens/s (as it is: on GPU + RAM, 2.5); \
                the most exact precision that makes 10 or more there.",
        },
        // Ten tokens a second are there without, but not on the GPU alone.
        Case {
            model: "bigscience/bloomz-7b1-mt",
            args: &["--max-memory", "0=15GB,cpu=12.7GB,disk=100GB"],
            code: 0,
            flags: json!("--load-in-8bit"),
            line: "Recommended: use --load-in-8bit: wholly on the GPU, 36.1 tokens/s (as it is: on GPU + RAM, 11.4); \
                the most exact precision that makes 10 or more there.",
        },
        Case {
            model: "tiiuae/falcon-7b-instruct",
            args: &["--max-memory", "0=15GB,cpu=12.7GB", "--load-in-4bit"],
            code: 0,
            flags: json!(""),
            line: "Recommended: do not quantize: wholly on the GPU, 21.3 tokens/s (as it is: wholly on the GPU, 66.1); \
                the most exact precision that makes 10 or more there.",
        },
        Case {
            model: "gpt2",
            args: &["--max-memory", "cpu=12.7GB"],
            code: 0,
            flags: json!(""),
            line: "Recommended: as it is: wholly in RAM, 80.9 tokens/s; the most exact precision that makes 10 or more there.",
        },
        Case {
            model: "bigscience/bloomz-7b1-mt",
            args: &["--max-memory", "cpu=3.5GB,disk=9GB", "--dtype", "f32"],
            code: 2,
            flags: json!("--dtype bf16"),
            line: "Recommended: use --dtype bf16: on RAM + disk, 0.08 tokens/s (as it is it does not fit); \
                the most exact precision that is at least half as fast as the fastest.",
        },
        Case {
            model: "bigscience/bloomz-7b1-mt",
            args: &["--max-memory", "cpu=100MB,disk=1GB"],
            code: 2,
            flags: Value::Null,
            line: "Recommended: give 1.4 GB (1.3 GiB) of RAM (instead of 100.0 MB (95.4 MiB)) \
                (the only single change that makes it fit).",
        },
    ];
    for Case {
        model,
        args,
        code,
        flags,
        line,
    } in cases
    {
        let model = config(model);
        let args = [&[model.as_str()], args].concat();
        let output = plan(&args);
        assert_eq!(output.code, code, "{}", output.stderr);
        assert_eq!(output.stdout.lines().next(), Some(line));
        let found = plan_json(&args);
        assert_eq!(found["recommendation"]["flags"], flags);
        let text = found["recommendation"]["text"].as_str().unwrap();
        assert_eq!(format!("Recommended: {text}."), line);
    }
}

/// What a bandwidth was measured on, or that it was not, stands beside it.
#[test]
fn each_rate_says_how_it_is_known() {
    let caches = tempfile::tempdir().unwrap();
    let cache = caches.path().to_str().unwrap();
    let doctor = program()
        .args(["doctor", "--quick", "--json"])
        .env("XDG_CACHE_HOME", cache)
        .output()
        .unwrap();
    let measured: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let kept = caches.path().join("llm-run/doctor.json");
    let date = measured["measured_at"].as_str().unwrap()[..10].to_owned();
    let here = format!("measured on this machine on {date}");
    let model = caches.path().join("model");
    std::fs::create_dir(&model).unwrap();
    let from = PathBuf::from(config("bigscience/bloomz-7b1-mt")).join("config.json");
    std::fs::copy(from, model.join("config.json")).unwrap();
    let args = [
        model.to_str().unwrap(),
        "--max-memory",
        "cpu=12.7GB,disk=20GB",
    ];
    // The plan itself is another's to look at: threads and instructions are as they were measured.
    let planned = |changed: Option<(&str, Value)>| {
        let mut json = measured.clone();
        if let Some((path, value)) = changed {
            *json.pointer_mut(path).expect(path) = value;
        }
        std::fs::write(&kept, json.to_string()).unwrap();
        let run = |args: &[&str]| {
            let output = program()
                .arg("plan")
                .args(args)
                .env("XDG_CACHE_HOME", cache)
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let text = run(&args);
        let line = text.lines().find(|line| line.starts_with("Expected: "));
        let json: Value = serde_json::from_str(&run(&[&args[..], &["--json"]].concat())).unwrap();
        (line.unwrap().to_owned(), json["tokens_per_second"].clone())
    };
    let disk_of = |path: &str| measured.pointer(path).unwrap().clone();
    let folder = disk_of("/bandwidth/disk_folder");
    let on_disk = format!(
        "measured on this machine in {} on {date}",
        folder.as_str().unwrap()
    );
    let (line, json) = planned(None);
    assert!(line.contains(&format!("GB/s of RAM ({here})")), "{line}");
    assert!(
        line.contains(&format!("GB/s of disk ({on_disk})")),
        "{line}"
    );
    assert!(!line.contains("llm-run doctor"), "{line}");
    assert_eq!(json["are_measured"], true);
    assert_eq!(json["sources"]["ram"]["origin"], "measured");
    assert_eq!(json["sources"]["gpu"]["origin"], "assumed");
    let cases = [
        (
            "/bandwidth/disk_bytes_per_second",
            Value::Null,
            "no disk could be measured",
        ),
        (
            "/bandwidth/disk_volume/file_system",
            json!(12345),
            "was another disk",
        ),
    ];
    for (path, value, reason) in cases {
        let (line, json) = planned(Some((path, value)));
        assert!(line.contains(&format!("GB/s of RAM ({here})")), "{line}");
        assert!(line.contains("1.0 GB/s of disk (assumed: "), "{line}");
        assert!(line.contains(reason), "{line}");
        assert!(line.contains("`llm-run doctor` measures"), "{line}");
        assert_eq!(json["are_measured"], false);
        assert_eq!(json["bandwidths"]["disk"], 1e9);
        assert_eq!(json["sources"]["disk"]["origin"], "assumed");
    }
    let (line, json) = planned(Some(("/machine/identity", json!("another"))));
    assert!(line.contains("20.0 GB/s of RAM (assumed: "), "{line}");
    assert!(line.contains("was another machine"), "{line}");
    assert_eq!(json["bandwidths"]["ram"], 20e9);
}
