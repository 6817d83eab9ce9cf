//! Models of 7 to 11 billion parameters on a GPU of 15 GB beside 12.7 GB of RAM, in 16, 8 and 4 bits.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use super::{config, plan_json};

const MODELS: [&str; 4] = [
    "tiiuae/falcon-7b-instruct",
    "bigscience/bloomz-7b1-mt",
    "google/flan-t5-xxl",
    "EleutherAI/gpt-j-6B",
];
const PRECISIONS: [(&str, &[&str]); 3] = [
    ("16 bits", &[]),
    ("int8", &["--load-in-8bit"]),
    ("nf4", &["--load-in-4bit"]),
];
const BUDGETS: [(&str, u64); 2] = [("0", 15_000_000_000), ("cpu", 12_700_000_000)];

#[test]
fn on_a_gpu_of_15_gb() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/plans/seeds-on-a-gpu.txt");
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let (mut text, mut rows) = (String::new(), Vec::new());
    for model in MODELS {
        let name = model.split('/').next_back().unwrap();
        let mut row = format!("| {name} |");
        for (precision, flags) in PRECISIONS {
            let args = [
                &config(model),
                "--max-memory",
                "0=15GB,cpu=12.7GB,disk=100GB",
            ];
            let args = [&args[..], flags, &["--offload-folder", "/offload"]].concat();
            let plan = plan_json(&args);
            assert_eq!(plan["fits"], true, "{model} in {precision}");
            nothing_spills_that_need_not(&plan, &format!("{model} in {precision}"));
            let _ = writeln!(text, "{model} in {precision}");
            for line in lines(&plan) {
                let _ = writeln!(text, "  {line}");
            }
            let _ = write!(row, " {}, {:.1} |", tiers(&plan), rate(&plan));
        }
        rows.push(row);
    }
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, &text).unwrap();
        return;
    }
    for row in rows {
        assert!(readme.contains(&row), "README.md does not have {row}");
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(text == expected, "it is now\n{text}\nand was\n{expected}");
}

/// Each memory's bytes, runs of units in one place, and tokens a second.
fn lines(plan: &Value) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (memory, of) in plan["memories"].as_object().unwrap() {
        if of["needed"] != 0 {
            lines.push(format!("{memory}: {} bytes", of["needed"]));
        }
    }
    let mut runs: Vec<(String, String, String)> = Vec::new();
    for unit in plan["units"].as_array().unwrap() {
        let text = |key: &str| unit[key].as_str().unwrap().to_owned();
        let (name, place) = (
            text("unit"),
            format!("{} on {}", text("home"), text("computes_on")),
        );
        match runs.last_mut() {
            Some((_, last, of)) if *of == place => *last = name,
            _ => runs.push((name.clone(), name, place)),
        }
    }
    for (first, last, place) in runs {
        lines.push(match first == last {
            true => format!("{first}: {place}"),
            false => format!("{first} to {last}: {place}"),
        });
    }
    lines.push(format!("{:.1} tokens/s in a full context", rate(plan)));
    lines
}

fn rate(plan: &Value) -> f64 {
    plan["tokens_per_second"]["full_context"].as_f64().unwrap()
}

/// `GPU + RAM`: memories of weights, as the verdict has them.
fn tiers(plan: &Value) -> String {
    let verdict = plan["verdict"].as_str().unwrap();
    let tiers = verdict.strip_prefix("fits, with weights on ").unwrap();
    tiers.split(':').next().unwrap().to_owned()
}

/// No unit is in a slower memory than it has room in. What a GPU does not hold it has no room for, and the disk holds what
/// fits neither.
fn nothing_spills_that_need_not(plan: &Value, name: &str) {
    let rank = |home: &Value| match home.as_str().unwrap() {
        "0" => 0,
        "cpu" => 1,
        _ => 2,
    };
    let units = plan["units"].as_array().unwrap();
    for (i, (memory, budget)) in BUDGETS.into_iter().enumerate() {
        let needed = plan["memories"][memory]["needed"].as_u64().unwrap();
        assert!(needed <= budget, "{name}");
        // A layer takes at least its weights and its keys and values; norms are small.
        let spilled = units.iter().filter(|unit| rank(&unit["home"]) > i);
        let is_decoder = |unit: &&Value| unit["unit"].as_str().unwrap().starts_with("layer");
        // An encoder comes after all that every token reads.
        let comes_first = spilled.clone().any(|unit| is_decoder(&unit));
        let bytes = |unit: &Value, keys: [&str; 3]| -> u64 {
            keys.iter().map(|key| unit[key].as_u64().unwrap()).sum()
        };
        let keys = ["weights", "quantization_statistics", "kv_cache"];
        let is_layer = |unit: &&Value| unit["unit"].as_str().unwrap().contains("layer");
        let layers = spilled.filter(|unit| is_layer(unit) && (is_decoder(unit) || !comes_first));
        if let Some(least) = layers.map(|unit| bytes(unit, keys)).min() {
            assert!(
                needed + least > budget,
                "{name}: {memory} has room for a layer"
            );
        }
    }
}
