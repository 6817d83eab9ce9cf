//! Plans as their users read them, programs too.
//!
//! `UPDATE_SNAPSHOTS=1 cargo test -p llm-run` writes the texts in `plans/` anew.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Output, fixture, program, run};

mod advice;
mod headers;
mod seeds;

/// Runs `plan` for a machine that is always the same: what is not given with `--max-memory` is not asked for, and
/// nobody has measured anything.
fn plan(args: &[&str]) -> Output {
    let cache = tempfile::tempdir().unwrap();
    plan_of_user("/", cache.path().to_str().unwrap(), args)
}

/// The same for a user with this home and this cache folder.
fn plan_of_user(home: &str, cache: &str, args: &[&str]) -> Output {
    let output = program()
        .arg("plan")
        .args(args)
        .args(["--threads", "8", "--isa", "portable"])
        .env("HOME", home)
        .env("XDG_CACHE_HOME", cache)
        .output()
        .unwrap();
    Output {
        code: output.status.code().expect("no signal"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The folder of a real model's configuration.
fn config(model: &str) -> String {
    fixture(&format!("configs/{}", model.replace('/', "--")))
}

fn plan_json(args: &[&str]) -> Value {
    let output = plan(&[args, &["--json"]].concat());
    assert_eq!(output.stdout.lines().count(), 1, "{}", output.stderr);
    serde_json::from_str(&output.stdout).unwrap()
}

/// A plan without what it says of the machine that it is made on, which need not have what it is made for.
fn of_any_machine(text: &str) -> String {
    let lines = text.split_inclusive('\n');
    let is_of_this = |line: &&str| !line.starts_with("hypothetical: this machine has only");
    lines.filter(is_of_this).collect()
}

struct Snapshot {
    /// The file's name without its extension.
    name: &'static str,
    model: &'static str,
    args: &'static [&'static str],
    fits: bool,
}

const SNAPSHOTS: [Snapshot; 11] = [
    Snapshot {
        name: "bloomz-7b1-mt-gpu",
        model: "bigscience/bloomz-7b1-mt",
        args: &["--max-memory", "0=15GB,cpu=12.7GB,disk=100GB"],
        fits: true,
    },
    Snapshot {
        name: "bloomz-7b1-mt-cpu",
        model: "bigscience/bloomz-7b1-mt",
        args: &["--max-memory", "cpu=12.7GB,disk=100GB"],
        fits: true,
    },
    Snapshot {
        name: "bloomz-7b1-mt-small",
        model: "bigscience/bloomz-7b1-mt",
        args: &["--max-memory", "cpu=1.2GB,disk=100GB"],
        fits: false,
    },
    Snapshot {
        name: "falcon-7b-instruct-gpu",
        model: "tiiuae/falcon-7b-instruct",
        args: &["--max-memory", "0=15GB,cpu=12.7GB,disk=100GB"],
        fits: true,
    },
    Snapshot {
        name: "falcon-7b-instruct-cpu",
        model: "tiiuae/falcon-7b-instruct",
        args: &["--max-memory", "cpu=12.7GB,disk=100GB"],
        fits: true,
    },
    Snapshot {
        name: "falcon-7b-instruct-cpu-int8",
        model: "tiiuae/falcon-7b-instruct",
        args: &["--max-memory", "cpu=12.7GB,disk=100GB", "--load-in-8bit"],
        fits: true,
    },
    Snapshot {
        name: "gemma-7b",
        model: "google/gemma-7b",
        args: &["--max-memory", "0=24GB,cpu=12.7GB,disk=100GB"],
        fits: true,
    },
    Snapshot {
        name: "gpt-j-6B",
        model: "EleutherAI/gpt-j-6B",
        args: &["--max-memory", "0=15.7GiB,cpu=12.7GB,disk=100GB"],
        fits: true,
    },
    Snapshot {
        name: "bloomz-7b1-mt-detail",
        model: "bigscience/bloomz-7b1-mt",
        args: &["--max-memory", "cpu=12.7GB,disk=100GB", "-v"],
        fits: true,
    },
    Snapshot {
        name: "bloomz-7b1-mt-nf4",
        model: "bigscience/bloomz-7b1-mt",
        args: &["--max-memory", "0=8GB,cpu=12.7GB,disk=100GB"],
        fits: true,
    },
    Snapshot {
        name: "flan-t5-xxl",
        model: "google/flan-t5-xxl",
        args: &[
            "--dtype",
            "f32",
            "--max-memory",
            "0=15GB,cpu=12.7GB,disk=100GB",
        ],
        fits: true,
    },
];

#[test]
fn real_models_on_small_machines() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/plans");
    for Snapshot {
        name,
        model,
        args,
        fits,
    } in SNAPSHOTS
    {
        let folder_args = ["--offload-folder", "/offload"];
        let found = plan(&[&[config(model).as_str()], args, &folder_args].concat());
        assert_eq!(found.stderr, "", "{name}");
        assert_eq!(found.code, if fits { 0 } else { 2 }, "{name}");
        let found = of_any_machine(&found.stdout);
        let path = folder.join(format!("{name}.txt"));
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(&path, &found).unwrap();
            continue;
        }
        let expected = std::fs::read_to_string(&path).unwrap();
        assert!(
            found == expected,
            "{name} is now\n{found}\nand was\n{expected}"
        );
    }
}

#[test]
fn programs_read_one_object() {
    let model = config("gpt2");
    let found = plan_json(&[
        &model,
        "--dtype",
        "f16",
        "--load-in-8bit",
        "--max-memory",
        "0=100MB,7=15GB,cpu=12.7GB",
    ]);
    let totals = &found["totals"];
    let total = |term: &str| totals[term].as_u64().unwrap();
    assert_eq!(
        total("weights"),
        163_944_960,
        "matrices in int8, the rest in f16"
    );
    let statistics = total("quantization_statistics");
    // A scale a row: of q, k, v, output, up and down in each of 12 layers.
    assert_eq!(statistics, 12 * (3 + 1 + 4 + 1) * 768 * 4);
    assert!(total("kv_cache") >= 12 * 2 * 768 * 2 * 1024);
    for term in [
        "activations",
        "workspace",
        "staging",
        "load_transient",
        "program",
    ] {
        assert!(totals[term].is_u64(), "{term}");
    }
    assert_eq!(found["fits"], true);
    assert!(found["verdict"].as_str().unwrap().starts_with("fits, with"));
    assert_eq!(found["hypothetical_gpus"], json!([0, 7]));
    assert_eq!(found["assumed_dtype"], "bf16");
    assert_eq!(found["budgets"]["cpu"]["bytes"], 12_700_000_000u64);
    assert_eq!(found["context"], 1024);
    assert_eq!(found["device_map"], json!({"": 7}));
    let units = found["units"].as_array().unwrap();
    assert_eq!(units.len(), 1 + 12 + 2);
    let of_units: u64 = units.iter().map(|u| u["weights"].as_u64().unwrap()).sum();
    assert_eq!(of_units, total("weights"));
    assert_eq!(units[1]["home"], "7");
    assert_eq!(found["memories"]["7"]["weights"], totals["weights"]);
    assert!(found["tokens_per_second"]["empty_context"].as_f64() > Some(0.0));
    assert_eq!(found["tokens_per_second"]["are_measured"], false);
    assert_eq!(found["alternatives"].as_array().unwrap().len(), 6);
    assert_eq!(found["advice"], json!([]));
    let files = &found["load_peak"]["ram_of_a_reader_of_whole_files"];
    assert_eq!(files[0]["n_files"], 1);
}

#[test]
fn programs_read_why_it_does_not_fit() {
    let model = config("bigscience/bloomz-7b1-mt");
    let found = plan_json(&[&model, "--max-memory", "cpu=1.2GB,disk=100GB"]);
    assert_eq!(found["fits"], false);
    assert_eq!(found["totals"]["weights"], 14_138_032_128u64);
    assert_eq!(found["device_map"], Value::Null);
    assert_eq!(found["shortfalls"][0]["device"], "cpu");
    assert_eq!(found["shortfalls"][0]["largest_term"], "kv_cache");
    let advice = found["advice"][0].as_str().unwrap();
    assert!(advice.starts_with("shorten the context to 1792 positions"));
    assert_eq!(found["tokens_per_second"], Value::Null);
}

/// Whatever form a model comes in, its plan counts what its loader allocates.
#[test]
fn checkpoints_of_every_form_are_planned() {
    let models = [
        "demo".to_owned(),
        fixture("demo/demo.gguf"),
        fixture("models/mixtral"),
        fixture("quantized/llama-nf4-double"),
    ];
    for model in &models {
        let found = plan_json(&[model, "--max-memory", "cpu=4GB"]);
        assert_eq!(found["fits"], true, "{model}");
        assert_eq!(found["assumed_dtype"], Value::Null, "{model}");
        assert!(found["totals"]["weights"].as_u64() > Some(0), "{model}");
        let files = &found["load_peak"]["ram_of_a_reader_of_whole_files"];
        assert!(files[0]["largest_file"].as_u64() > Some(0), "{model}");
    }
    let quantized = plan(&[&models[3], "--max-memory", "cpu=4GB"]);
    assert!(quantized.stdout.contains("in nf4 double stays so"));
    let twice = plan(&[&models[3], "--load-in-8bit", "--max-memory", "cpu=4GB"]);
    assert_eq!(twice.code, 2);
    assert!(
        twice.stderr.contains("quantized already"),
        "{}",
        twice.stderr
    );
}

#[test]
fn a_map_in_a_file_is_kept_and_completed() {
    let folder = tempfile::tempdir().unwrap();
    let map = r#"{"transformer.wte": 0, "transformer.wpe": 0, "transformer.h": "disk", "transformer.ln_f": "cpu"}"#;
    let path = folder.path().join("map.json");
    std::fs::write(&path, map).unwrap();
    let args = [
        &config("gpt2"),
        "--device-map",
        path.to_str().unwrap(),
        "--max-memory",
        "0=1GB,cpu=1GB,disk=1GB",
    ];
    let found = plan_json(&args);
    let map = found["device_map"].as_object().unwrap();
    assert_eq!(map["transformer.h"], "disk");
    assert_eq!(map["transformer.ln_f"], "cpu");
    assert_eq!(map["lm_head"], 0, "with the table that it is tied to");
    let text = plan(&args).stdout;
    assert!(text.contains("GPU + RAM + disk"), "{text}");
}

#[test]
fn a_disk_is_there_unless_nobody_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().to_str().unwrap();
    let map = folder.path().join("map.json");
    std::fs::write(&map, r#"{"": "disk"}"#).unwrap();
    let gpt2 = config("gpt2");
    let on_disk = [
        gpt2.as_str(),
        "--device-map",
        map.to_str().unwrap(),
        "--max-memory",
    ];
    let args = |budgets| [&on_disk[..], &[budgets, "--json"]].concat();
    let offload = |output: Output| {
        assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
        let found: Value = serde_json::from_str(&output.stdout).unwrap();
        let bytes = |key: &str| found["offload"][key].as_u64().unwrap();
        let of_disk = &found["memories"]["disk"];
        assert_eq!(of_disk["needed"], bytes("written"));
        assert_eq!(of_disk["in_place"], bytes("read_in_place"));
        (
            bytes("read_in_place"),
            bytes("written"),
            found["offload"]["folder"].as_str().map(str::to_owned),
        )
    };
    let default = plan_of_user("/", cache, &args("cpu=1GB,disk=1GB"));
    let (read_in_place, written, found) = offload(default);
    assert_eq!(found, Some(format!("{cache}/llm-run/offload")));
    assert!(
        !Path::new(cache).join("llm-run").exists(),
        "nothing is made"
    );
    // Its projections are stored the other way round.
    let projections = 12 * (3 + 1 + 4 + 4) * 768 * 768 * 2;
    assert_eq!(written, projections);
    assert_eq!(read_in_place + written, 2 * 124_439_808);

    let nowhere = |args: &[&str]| plan_of_user("home", "", args);
    let output = nowhere(&args("cpu=1GB"));
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.contains("name an offload folder"),
        "{}",
        output.stderr
    );
    let given = [&args("cpu=1GB,disk=1GB")[..], &["--offload-folder", cache]].concat();
    assert_eq!(offload(nowhere(&given)).2.as_deref(), Some(cache));
    assert_eq!(offload(nowhere(&args("cpu=1GB,disk=1GB"))).2, None);
}

/// What is read in place needs no room, and a budget of none allows it.
#[test]
fn what_the_checkpoint_holds_as_needed_is_read_in_place() {
    let model = config("bigscience/bloomz-7b1-mt");
    let budgets = ["--max-memory", "cpu=12.7GB,disk=0"];
    let output = plan(&[&[model.as_str()], &budgets[..]].concat());
    assert_eq!(output.code, 0, "{}", output.stdout);
    let line = "of weights on disk are read in place from the checkpoint; nothing is written.";
    assert!(output.stdout.contains(line), "{}", output.stdout);
    // In another type there is nothing to be read in place.
    let f32 = [&[model.as_str(), "--dtype", "f32"], &budgets[..]].concat();
    let output = plan(&f32);
    assert_eq!(output.code, 2);
    let advice = "on disk for weights to rest in: --offload-folder DIR, --max-memory disk=SIZE";
    assert!(output.stdout.contains(advice), "{}", output.stdout);
}

/// The example of the README is what it says that it is.
#[test]
fn the_readme_shows_a_plan_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("bloomz-7b1-mt");
    std::fs::create_dir(&model).unwrap();
    let from = PathBuf::from(config("bigscience/bloomz-7b1-mt")).join("config.json");
    std::fs::copy(from, model.join("config.json")).unwrap();
    let args = ["--max-memory", "cpu=12.7GB,disk=20GB"];
    let output = program()
        .args(["plan", model.to_str().unwrap()])
        .args(args)
        .env("XDG_CACHE_HOME", folder.path())
        .output()
        .unwrap();
    let found = of_any_machine(std::str::from_utf8(&output.stdout).unwrap());
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    // Workspaces are not of one size on all processors: enough to tip a tenth of a GiB.
    let in_gb = |text: &str| {
        let parts = text.split(" (").enumerate();
        let parts = parts.map(|(i, part)| match part.split_once(" GiB)") {
            Some((_, rest)) => rest.to_owned(),
            None if i == 0 => part.to_owned(),
            None => format!(" ({part}"),
        });
        parts.collect::<String>()
    };
    let (found, readme) = (in_gb(&found), in_gb(&readme));
    assert!(
        readme.contains(&format!("```text\n{found}```\n")),
        "README.md does not have\n{found}"
    );
}

/// Weights that are read in place rest on the disk, though they take nothing of its budget.
#[test]
fn a_disk_that_weights_are_read_from_is_not_drawn_empty() {
    let folder = tempfile::tempdir().unwrap();
    let svg = folder.path().join("plan.svg");
    let model = config("bigscience/bloomz-7b1-mt");
    for budgets in ["cpu=6GB,disk=0", "cpu=6GB,disk=100GB", "0=5GB,cpu=5GB"] {
        let args = [
            &model,
            "--max-memory",
            budgets,
            "--svg",
            svg.to_str().unwrap(),
        ];
        let found = plan_json(&args);
        let memory = &found["memories"]["disk"];
        assert_eq!(memory["needed"], 0, "{budgets}");
        let in_place = memory["in_place"].as_u64().unwrap();
        assert_eq!(memory["weights"], in_place, "{budgets}");
        let xml = std::fs::read_to_string(&svg).unwrap();
        let disk = xml.split(">disk: ").nth(1).unwrap();
        let pieces = disk
            .split("<rect ")
            .filter(|piece| piece.contains("read in place</title>"));
        let width = |piece: &str| -> f64 {
            let width = piece.split("width=\"").nth(1).unwrap();
            width.split('"').next().unwrap().parse().unwrap()
        };
        let widths: f64 = pieces.map(width).sum();
        let budget = found["budgets"]["disk"]["bytes"].as_u64().unwrap();
        let expected = 852.0 * in_place as f64 / (in_place + budget) as f64;
        assert!(
            (widths - expected).abs() < 0.1,
            "{budgets}: {widths} {expected}"
        );
        let text = plan(&args[..3]).stdout;
        let bar = text
            .lines()
            .find(|line| line.starts_with("disk   "))
            .unwrap();
        let n_cells = bar.matches('░').count() as f64;
        assert!((n_cells - widths * 60.0 / 852.0).abs() <= 1.0, "{bar}");
        assert!(
            bar.contains("in the checkpoint's files; written: 0 B of"),
            "{bar}"
        );
        // What is written beside it is told apart.
        let f32 = plan_json(&[&args[..3], &["--load-in-8bit"]].concat());
        let disk = &f32["memories"]["disk"];
        if disk.is_object() {
            assert!(
                f32["verdict"].as_str().unwrap().contains("on disk"),
                "{f32}"
            );
        }
    }
}

/// More than this machine has is planned for, and said to be another machine's.
#[test]
fn budgets_beyond_this_machine_are_hypothetical() {
    let args = [&config("gpt2"), "--max-memory", "cpu=999TB,disk=9999TB"];
    let output = plan(&args);
    assert_eq!(output.code, 0, "{}", output.stderr);
    for memory in ["RAM", "disk"] {
        let mut lines = output.stdout.lines();
        let of_memory = format!(" of {memory} free (");
        let said = lines.any(|line| {
            line.starts_with("hypothetical: this machine has only ") && line.contains(&of_memory)
        });
        assert!(said, "{memory}: {}", output.stdout);
    }
    let found = plan_json(&args);
    let free = found["beyond_this_machine"]["cpu"]["free"].as_u64();
    assert!(free > Some(0), "{found}");
    let within = plan_json(&[&config("gpt2"), "--max-memory", "cpu=1GB"]);
    assert_eq!(within["beyond_this_machine"], json!({}));
    assert_eq!(within["budgets"]["cpu"]["bytes"], 1_000_000_000u64);
}

/// A run believes no budget that the machine does not have.
#[test]
fn a_run_is_bounded_by_what_is_free() {
    for command in [
        &["generate", "demo", "Once", "--max-new-tokens", "2"][..],
        &["score", "demo", "--token-ids", "1,2,3"],
    ] {
        let output = run(&[command, &["--max-memory", "cpu=999TB"]].concat());
        assert_eq!(output.code, 0, "{}", output.stderr);
        let notice = output.stderr.lines().next().unwrap();
        assert!(
            notice.starts_with("note: --max-memory cpu: 999.0 TB")
                && notice.contains("is more than the")
                && notice.contains("used at most"),
            "{notice}"
        );
    }
}

/// Every element is closed, and nothing but the five entities stands for itself.
fn check_xml(xml: &str) {
    let mut open = Vec::new();
    let mut rest = xml;
    while let Some(start) = rest.find('<') {
        let (text, tag) = rest.split_at(start);
        for entity in text.split('&').skip(1) {
            let name = entity.split(';').next().unwrap();
            assert!(["amp", "lt", "gt", "quot"].contains(&name), "&{name}");
        }
        let end = tag.find('>').expect("a tag ends");
        let inner = &tag[1..end];
        assert_eq!(inner.matches('"').count() % 2, 0, "<{inner}>");
        let name = inner.trim_matches('/').split_whitespace().next().unwrap();
        if inner.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !inner.ends_with('/') {
            open.push(name);
        }
        rest = &tag[end + 1..];
    }
    assert!(open.is_empty() && !rest.contains('&'), "{open:?}");
}

#[test]
fn a_picture_is_valid_xml_whatever_the_model_is_called() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("a <b> & \"c\"");
    std::fs::create_dir(&model).unwrap();
    let from = PathBuf::from(config("bigscience/bloomz-7b1-mt")).join("config.json");
    std::fs::copy(from, model.join("config.json")).unwrap();
    let svg = folder.path().join("plan.svg");
    for (budgets, words) in [
        ("0=15GB,cpu=12.7GB", ["GPU 0:", "layers 0 to"]),
        ("cpu=1.2GB,disk=0", ["too much", "stroke-dasharray"]),
        ("0=6GB,cpu=3.5GB,disk=100GB", ["disk:", "staging"]),
    ] {
        plan(&[
            model.to_str().unwrap(),
            "--max-memory",
            budgets,
            "--svg",
            svg.to_str().unwrap(),
        ]);
        let xml = std::fs::read_to_string(&svg).unwrap();
        check_xml(&xml);
        assert!(xml.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""));
        for word in words {
            assert!(xml.contains(word), "{word} in {xml}");
        }
        assert!(xml.contains("a &lt;b&gt; &amp; &quot;c&quot;"), "{xml}");
    }
}

#[test]
fn bad_input_is_said_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let map = |name: &str, json: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, json).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let gap = map("gap.json", r#"{"transformer.wte": "cpu"}"#);
    let overlap = map(
        "overlap.json",
        r#"{"transformer": "cpu", "transformer.h": "cpu"}"#,
    );
    let unknown = map("unknown.json", r#"{"": "cpu", "transformer.x": "cpu"}"#);
    let no_gpu = map("gpu.json", r#"{"": 3}"#);
    let no_json = map("text.json", "cpu");
    let file = map("file.txt", "");
    let model = config("gpt2");
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["--max-memory", "0=15 gigs"],
            &["15 gigs", "is not a size"],
        ),
        (
            &["--max-memory", "tpu=15GB"],
            &["`tpu` is no device", "GPU's number, `cpu` or `disk`"],
        ),
        (&["--max-memory", "15GB"], &["not a budget", "`0=15GB`"]),
        (
            &["--max-memory", "cpu=1GB,cpu=2GB"],
            &["`cpu` has two budgets"],
        ),
        (
            &["--device-map", "fastest"],
            &["`fastest` is no device map", "balanced_low_0"],
        ),
        (
            &["--device-map", "none.json"],
            &["none.json", "cannot read"],
        ),
        (&["--device-map", &no_json], &["text.json", "not JSON"]),
        (&["--device-map", &gap], &["says nothing of", "add it"]),
        (&["--device-map", &overlap], &["keep one of them"]),
        (&["--device-map", &unknown], &["transformer.x"]),
        (&["--device-map", &no_gpu], &["GPU 3", "there is no GPU"]),
        (&["--offload-folder", &file], &["file.txt", "give a folder"]),
        (&["--context", "1025"], &["--context 1025", "1024"]),
        (&["--batch", "0"], &["--batch"]),
        (
            &["--batch", "99999999"],
            &["99999999 sequences", "give a number from 1"],
        ),
        (&["--skip-modules", "x"], &["--load-in-8bit"]),
        (
            &["--llm-int8-enable-fp32-cpu-offload"],
            &[
                "--llm-int8-enable-fp32-cpu-offload: nothing is quantized",
                "--load-in-8bit",
            ],
        ),
    ];
    for (args, words) in cases {
        let output = plan(&[&[model.as_str()], *args].concat());
        assert_eq!(output.code, 2, "{args:?}: {}", output.stderr);
        assert_eq!(output.stdout, "", "{args:?}");
        for word in *words {
            let said = output.stderr.contains(word);
            assert!(said, "{args:?} does not name {word}: {}", output.stderr);
        }
    }
    let nothing = folder.path().to_str().unwrap();
    let output = plan(&[nothing]);
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.contains("contains no .safetensors"),
        "{}",
        output.stderr
    );
}

/// Too little even for what one streamed layer needs.
#[test]
fn budgets_without_room_for_staging_say_what_would_do() {
    let output = plan(&[
        &config("gpt2"),
        "--max-memory",
        "0=1MB,cpu=1MB,disk=10GB",
        "-v",
    ]);
    assert_eq!(output.code, 2);
    let mut lines = output.stdout.lines();
    let recommended = lines.next().unwrap();
    assert!(
        recommended.starts_with("Recommended: give"),
        "{recommended}"
    );
    let verdict = lines.next().unwrap();
    assert!(verdict.starts_with("gpt2 does not fit: GPU 0 would have to hold"));
    assert!(output.stdout.contains("staging"), "{}", output.stdout);
    assert!(
        output.stdout.contains("would make it fit:\n  give"),
        "{}",
        output.stdout
    );
}

#[test]
fn what_does_not_fit_is_not_loaded() {
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["--max-memory", "cpu=1MB"],
            &[
                "does not fit: RAM would have to hold",
                "to make it fit",
                "of RAM",
            ],
        ),
        (
            &["--max-memory", "0=15GB"],
            &["this machine has no GPU 0", "llm-run plan"],
        ),
        (
            // The program and a little more, but not what streaming takes.
            &["--context", "8", "--max-memory", "cpu=27MB,disk=1GB"],
            &["does not fit: RAM would have to hold", "to make it fit"],
        ),
        (&["--device-map", "/none.json"], &["/none.json"]),
    ];
    for (args, words) in cases {
        for command in [
            &["generate", "demo", "x"][..],
            &["score", "demo", "--token-ids", "1,2"],
        ] {
            let output = run(&[command, *args].concat());
            assert_eq!(output.code, 2, "{args:?}: {}", output.stderr);
            assert_eq!(output.stdout, "", "{args:?}");
            for word in *words {
                let said = output.stderr.contains(word);
                assert!(said, "{args:?} does not name {word}: {}", output.stderr);
            }
        }
    }
}

#[test]
fn what_was_planned_is_printed_beside_what_was_used() {
    let commands: [&[&str]; 2] = [
        &["generate", "demo", "Once", "--max-new-tokens", "4", "-v"],
        &["score", "demo", "--token-ids", "1,2,3", "--verbose"],
    ];
    for args in commands {
        let output = run(&[args, &["--device-map", "cpu", "--load-in-8bit"]].concat());
        assert_eq!(output.code, 0, "{}", output.stderr);
        let mut lines = output.stderr.lines();
        lines.find(|line| line.starts_with("RAM ")).unwrap();
        let mut n_terms = 0;
        for line in lines
            .by_ref()
            .take_while(|line| !line.starts_with("planned"))
        {
            let cells: Vec<_> = line.split("  ").filter(|cell| !cell.is_empty()).collect();
            if let [term, planned, allocated] = cells[..] {
                assert_eq!(planned.trim(), allocated.trim(), "{term}");
                n_terms += 1;
            }
        }
        assert_eq!(n_terms, 5, "{}", output.stderr);
        assert!(output.stderr.contains("peak resident"), "{}", output.stderr);
    }
}
