//! Computing on a GPU, an emulated one; and what is said where there is none, or a driver that does not work.

mod beside;
mod seeds;

use std::process::Command;

use cuda_emulator::harness::{Library, Machine, Run};
use serde_json::Value;

use crate::support::{self, fixture};

/// Room for the context that a plan counts, for the demo, and a little.
const MEMORY: u64 = 1 << 30;

fn machine() -> Machine {
    // Counting takes time, and nobody asks.
    Machine::new().memory(MEMORY).counts(false)
}

/// Runs the program with a cache folder of its own.
fn run_on(machine: &Machine, args: &[&str]) -> Run {
    let caches = tempfile::tempdir().unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_llm-run"));
    program.args(args).env("XDG_CACHE_HOME", caches.path());
    machine.run(&mut program)
}

fn stdout(run: &Run) -> String {
    String::from_utf8(run.output.stdout.clone()).unwrap()
}

fn stderr(run: &Run) -> String {
    String::from_utf8(run.output.stderr.clone()).unwrap()
}

/// JSON object that a command prints which succeeds on the machine.
fn json_on(machine: &Machine, args: &[&str]) -> Value {
    let run = run_on(machine, args);
    assert_eq!(
        run.output.status.code(),
        Some(0),
        "{args:?}: {}",
        stderr(&run)
    );
    serde_json::from_str(&stdout(&run)).unwrap()
}

const GENERATE: [&str; 7] = [
    "generate",
    "demo",
    "Once upon a time",
    "--max-new-tokens",
    "6",
    "--dtype",
    "f32",
];

fn generate(machine: &Machine, flags: &[&str]) -> Value {
    json_on(machine, &[&GENERATE, flags, &["--json"]].concat())
}

/// Terms of a memory as `-v` prints them, planned and allocated.
fn terms(stderr: &str, memory: &str) -> Vec<(String, String, String)> {
    let lines = stderr.lines().skip_while(|line| !line.starts_with(memory));
    let lines = lines
        .skip(1)
        .take_while(|line| !line.starts_with("planned"));
    let cells = lines.map(|line| {
        let cells = line
            .split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty());
        cells.map(str::to_owned).collect::<Vec<_>>()
    });
    let both = cells.filter_map(|cells| <[String; 3]>::try_from(cells).ok());
    both.map(|[term, planned, allocated]| (term, planned, allocated))
        .collect()
}

#[test]
fn a_gpu_continues_as_the_cpu_does_and_takes_what_was_planned() {
    let expected = support::json(&[&GENERATE[..], &["--json"]].concat());
    for compute in [75, 80] {
        let machine = machine().compute(compute);
        // Where there is a GPU it need not be asked for.
        for flags in [&["--device", "cuda:0"][..], &[]] {
            let found = generate(&machine, flags);
            assert_eq!(found["generated_ids"], expected["generated_ids"]);
            let device = found["device"].as_str().unwrap();
            assert!(device.starts_with("cuda:0"), "{device}");
        }
        let found = generate(&machine, &["--device", "cpu"]);
        assert_eq!(found["device"], expected["device"]);
    }
    let run = run_on(&machine(), &[&GENERATE[..], &["-v"]].concat());
    let said = stderr(&run);
    let terms = terms(&said, "GPU 0");
    assert!(terms.len() >= 4, "{said}");
    for (term, planned, allocated) in &terms {
        assert_eq!(planned, allocated, "{term}: {said}");
    }
    assert!(
        said.contains("less is free there than before, by its driver"),
        "{said}"
    );
    let report = run.report.unwrap();
    assert_eq!(report.devices[0].allocated, 0, "all is given back");
    assert_eq!(report.faults, [""; 0]);
}

/// 16 bits of a configuration are not followed, which is said, unless the user says what to compute in.
#[test]
fn a_gpu_is_more_exact_than_a_configuration_asks_for() {
    let model = fixture("quantized/llama-nf4-double");
    let args = [
        "generate",
        &model,
        "--token-ids",
        "1,2,3",
        "--max-new-tokens",
        "2",
    ];
    for (flags, is_said) in [
        (&[][..], true),
        (&["--compute-dtype", "f32"], false),
        (&["--compute-dtype", "bf16"], false),
        (&["--device", "cpu"], false),
    ] {
        let run = run_on(&machine(), &[&args, flags].concat());
        let said = stderr(&run);
        assert_eq!(run.output.status.code(), Some(0), "{said}");
        let n = said.matches("bnb_4bit_compute_dtype").count();
        assert_eq!(n, usize::from(is_said), "{flags:?}: {said}");
    }
}

/// Other kernels compute in 16 bits. What asks for f32, or for nothing, has none of them.
#[test]
fn a_gpu_computes_in_16_bits_where_it_is_asked_to() {
    let prompt = "Once upon a time there was a little girl who lived in a house by the sea";
    let is_half = |name: &str| name.contains("_half_") || name.contains("_f16_1_");
    for (flags, is_asked) in [
        (&["--compute-dtype", "f16", "--dtype", "f16"][..], true),
        (&["--compute-dtype", "bf16", "--load-in-4bit"], true),
        (&["--compute-dtype", "f32", "--dtype", "f16"], false),
        (&["--load-in-4bit"], false),
    ] {
        let args = ["generate", "demo", prompt, "--max-new-tokens", "3"];
        let run = run_on(&machine(), &[&args, flags].concat());
        assert_eq!(run.output.status.code(), Some(0), "{}", stderr(&run));
        let kernels = run.report.as_ref().unwrap().kernels.keys();
        let names: Vec<&String> = kernels.filter(|name| is_half(name)).collect();
        assert_eq!(!names.is_empty(), is_asked, "{flags:?}: {names:?}");
    }
    let args = ["generate", "demo", prompt, "--compute-dtype", "f8"];
    let run = run_on(&machine(), &args);
    assert_eq!(run.output.status.code(), Some(2));
    assert!(stderr(&run).contains("expected auto, f32, f16 or bf16"));
}

/// It would be of no effect.
#[test]
fn activations_are_not_rounded_where_gpus_compute_everything() {
    let run = run_on(&machine(), &[&GENERATE[..], &["--activations", "q8"]].concat());
    assert_eq!(run.output.status.code(), Some(2));
    let said = "--activations q8 is for what the CPU multiplies, and here GPUs compute everything";
    assert!(stderr(&run).contains(said), "{}", stderr(&run));
}

#[test]
fn a_gpu_scores_as_the_cpu_does() {
    for (model, flags) in [
        ("models/llama", &["--dtype", "f32"][..]),
        ("quantized/llama-nf4-double", &["--dtype", "f32"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let model = fixture(model);
        let logits = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let args = |out: &str| {
            let args = [
                "score",
                &model,
                "--token-ids",
                "5,6,7,8,9,10",
                "--logits",
                out,
            ];
            [
                args.map(str::to_owned).to_vec(),
                flags.iter().map(|s| (*s).to_owned()).collect(),
            ]
            .concat()
        };
        let (on_gpu, on_cpu) = (logits("gpu"), logits("cpu"));
        let given = args(&on_gpu);
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        let run = run_on(&machine(), &given);
        assert_eq!(run.output.status.code(), Some(0), "{}", stderr(&run));
        assert!(run.report.unwrap().devices[0].peak > 0);
        let given = args(&on_cpu);
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        assert_eq!(support::run(&given).code, 0);
        let [found, expected] = [on_gpu, on_cpu].map(|path| values(&path));
        let norm = |values: &[f32]| values.iter().map(|v| v * v).sum::<f32>().sqrt();
        let difference: Vec<f32> = found.iter().zip(&expected).map(|(a, b)| a - b).collect();
        let error = norm(&difference) / norm(&expected);
        assert!(error <= 2e-3, "{model} is off by {error:.1e}");
    }
}

fn values(path: &str) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let logits = file.tensor("logits").unwrap();
    let values = logits.data().as_chunks().0.iter();
    values.map(|b| f32::from_le_bytes(*b)).collect()
}

/// The context that a plan counts takes more than there is.
#[test]
fn a_gpu_without_room_is_told_of() {
    let run = run_on(&machine().memory(64 << 20), &GENERATE);
    assert_eq!(run.output.status.code(), Some(0), "{}", stderr(&run));
    let note = "note: the CPU computes alone: GPU 0 has no room for any part of the model\n";
    assert!(stderr(&run).starts_with(note), "{}", stderr(&run));
}

#[test]
fn another_gpu_is_asked_for_by_its_number() {
    let machine = machine().devices(2);
    let args = [&GENERATE[..], &["--device", "cuda:1"]].concat();
    let run = run_on(&machine, &args);
    assert_eq!(run.output.status.code(), Some(0), "{}", stderr(&run));
    let peaks: Vec<u64> = run.report.unwrap().devices.iter().map(|d| d.peak).collect();
    assert!(peaks[0] == 0 && peaks[1] > 0, "{peaks:?}");
}

/// Two GPUs that load unlike kernels.
fn two_gpus() -> Machine {
    machine().devices(2).computes(&[80, 75])
}

/// A budget for each GPU that holds a part of the demo alone, short by so many bytes.
fn short(by: u64, numbers: &[u32]) -> String {
    let args = [
        "plan",
        "demo",
        "--dtype",
        "f32",
        "--context",
        "11",
        "--json",
    ];
    let whole = json_on(&machine(), &args);
    let all = whole["memories"]["0"]["needed"].as_u64();
    let all = all.unwrap_or_else(|| panic!("{}", whole["memories"]));
    let budgets = numbers
        .iter()
        .map(|number| format!("{number}={}", all - by));
    budgets.collect::<Vec<_>>().join(",")
}

/// Each unit's home in the plan for a machine.
fn homes(machine: &Machine, flags: &[&str]) -> Vec<String> {
    let args = [
        "plan",
        "demo",
        "--dtype",
        "f32",
        "--context",
        "11",
        "--json",
    ];
    let plan = json_on(machine, &[&args, flags].concat());
    let units = plan["units"].as_array().unwrap();
    let homes = units.iter().map(|unit| unit["home"].as_str().unwrap());
    homes.map(str::to_owned).collect()
}

#[test]
fn two_gpus_compute_together_and_take_what_was_planned() {
    let expected = support::json(&[&GENERATE[..], &["--json"]].concat());
    let budgets = short(500_000, &[0, 1]);
    let flags = ["--max-memory", &budgets];
    let found = generate(&two_gpus(), &flags);
    assert_eq!(found["generated_ids"], expected["generated_ids"]);
    let device = found["device"].as_str().unwrap();
    let names = ["cuda:0 (", " and cuda:1 ("].map(|name| device.contains(name));
    assert_eq!(names, [true; 2], "{device}");
    let run = run_on(&two_gpus(), &[&GENERATE[..], &["-v"], &flags].concat());
    let said = stderr(&run);
    for gpu in ["GPU 0", "GPU 1"] {
        let terms = terms(&said, gpu);
        assert!(terms.len() >= 4, "{gpu}: {said}");
        for (term, planned, allocated) in &terms {
            assert_eq!(planned, allocated, "{gpu}, {term}: {said}");
        }
    }
    let report = run.report.unwrap();
    assert!(report.bytes_between_devices > 0 && report.bytes_staged == 0);
    assert!(report.devices.iter().all(|device| device.peak > 0));
    assert!(report.devices.iter().all(|device| device.allocated == 0));
    assert_eq!(report.faults, [""; 0]);
}

#[test]
fn two_gpus_and_the_cpu_compute_together() {
    let expected = support::json(&[&GENERATE[..], &["--json"]].concat());
    let budgets = short(2_500_000, &[0, 1]);
    let flags = ["--max-memory", &budgets];
    let homes = homes(&two_gpus(), &flags);
    for home in ["0", "1", "cpu"] {
        assert!(homes.iter().any(|of| of == home), "{home} in {homes:?}");
    }
    let found = generate(&two_gpus(), &flags);
    assert_eq!(found["generated_ids"], expected["generated_ids"]);
}

/// What fits one GPU needs no hand-over: only maps that balance spread it.
#[test]
fn one_gpu_computes_alone_what_it_holds() {
    let machine = two_gpus();
    let is_on = |homes: &[String], gpu: &str| homes.iter().any(|home| home == gpu);
    let auto = homes(&machine, &[]);
    assert!(is_on(&auto, "0") && !is_on(&auto, "1"), "{auto:?}");
    let balanced = homes(&machine, &["--device-map", "balanced"]);
    assert!(
        is_on(&balanced, "0") && is_on(&balanced, "1"),
        "{balanced:?}"
    );
    let run = run_on(
        &machine,
        &[&GENERATE[..], &["--device-map", "balanced"]].concat(),
    );
    assert_eq!(run.output.status.code(), Some(0), "{}", stderr(&run));
    let report = run.report.unwrap();
    assert!(report.devices.iter().all(|device| device.peak > 0));
}

#[test]
fn gpus_are_filled_in_the_order_in_which_they_are_named() {
    let machine = two_gpus();
    let [budgets, other] = [[0, 1], [1, 0]].map(|numbers| short(500_000, &numbers));
    for (device, budgets, order) in [
        ("cuda:0,cuda:1", &budgets, ["0", "1"]),
        ("cuda:1,cuda:0", &budgets, ["1", "0"]),
        // Budgets are no order.
        ("auto", &other, ["0", "1"]),
    ] {
        let homes = homes(&machine, &["--device", device, "--max-memory", budgets]);
        assert_eq!(homes[0], order[0], "{device}: {homes:?}");
        assert!(
            homes.iter().any(|home| home == order[1]),
            "{device}: {homes:?}"
        );
    }
    // What has no budget has what is free.
    let budget = short(500_000, &[0]);
    let homes = homes(
        &machine,
        &["--device", "cuda:0,cuda:1", "--max-memory", &budget],
    );
    assert!(homes.iter().any(|home| home == "1"), "{homes:?}");
}

#[test]
fn a_plan_and_doctor_tell_of_two_gpus() {
    let machine = two_gpus().memories(&[MEMORY, 2 * MEMORY]);
    let run = run_on(&machine, &["plan", "demo"]);
    let plan = stdout(&run);
    assert!(!plan.contains("hypothetical"), "{plan}");
    for gpu in ["GPU 0 may hold", "GPU 1 may hold"] {
        assert!(plan.contains(gpu), "{gpu} in {plan}");
    }
    let report = json_on(&machine, &["doctor", "--quick", "--json"]);
    let gpus = report["gpus"].as_array().unwrap();
    let of = |field: &str| {
        gpus.iter()
            .map(|gpu| gpu[field].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("number"), [0, 1]);
    assert_eq!(of("compute_capability"), ["8.0", "7.5"]);
    assert_eq!(of("total_bytes"), [MEMORY, 2 * MEMORY]);
    assert_eq!(report["bandwidth"]["gpus"].as_array().unwrap().len(), 2);
    for (machine, is_straight, words) in [
        (&machine, true, " from GPU 0 to GPU 1, straight, "),
        (
            &machine.clone().peers(false),
            false,
            " from GPU 0 to GPU 1, through the host, ",
        ),
    ] {
        let report = json_on(machine, &["doctor", "--quick", "--json"]);
        let links = &report["bandwidth"]["gpu_links"];
        let [link, back] = links.as_array().unwrap().as_slice() else {
            panic!("{links}");
        };
        assert_eq!((&link["from"], &link["to"]), (&0.into(), &1.into()));
        assert_eq!((&back["from"], &back["to"]), (&1.into(), &0.into()));
        assert!(link["hand_over_seconds"].as_f64().unwrap() > 0.0);
        assert_eq!(link["is_straight"], is_straight);
        assert!(link["bytes_per_second"].as_f64().unwrap() > 0.0);
        let table = stdout(&run_on(machine, &["doctor", "--quick"]));
        let row = table.lines().find(|line| line.starts_with("GPU to GPU"));
        let says = |row: &str| row.contains(words) && row.ends_with(", measured");
        assert!(row.is_some_and(says), "{table}");
    }
}

/// Another program may have a GPU to itself.
#[test]
fn a_gpu_that_cannot_be_opened_is_left_out() {
    let machine = two_gpus().busy(&[0]);
    let run = run_on(&machine, &GENERATE);
    assert_eq!(run.output.status.code(), Some(0), "{}", stderr(&run));
    let note = "note: GPU 0 is left out: the CUDA driver fails at opening device 0: CUDA_ERROR_DEVICE_UNAVAILABLE (code 46)\n";
    assert!(stderr(&run).contains(note), "{}", stderr(&run));
    let peaks: Vec<u64> = run.report.unwrap().devices.iter().map(|d| d.peak).collect();
    assert!(peaks[0] == 0 && peaks[1] > 0, "{peaks:?}");
    let run = run_on(&machine, &[&GENERATE[..], &["--device", "cuda:1"]].concat());
    assert_eq!(run.output.status.code(), Some(0), "{}", stderr(&run));
    assert!(!stderr(&run).contains("left out"), "{}", stderr(&run));
    let run = run_on(&machine, &[&GENERATE[..], &["--device", "cuda:0"]].concat());
    assert_eq!(run.output.status.code(), Some(2));
    assert!(
        stderr(&run).contains("GPU 0 is left out: "),
        "{}",
        stderr(&run)
    );
    let report = json_on(&machine, &["doctor", "--quick", "--json"]);
    assert_eq!(report["gpus"][0]["number"], 1);
    assert_eq!(report["gpus_left_out"][0]["number"], 0);
    // One that is too old is nothing to be told of.
    let run = run_on(&two_gpus().computes(&[70, 80]), &GENERATE);
    assert_eq!(run.output.status.code(), Some(0), "{}", stderr(&run));
    assert!(!stderr(&run).contains("note: "), "{}", stderr(&run));
}

#[test]
fn no_gpu_has_room() {
    let run = run_on(&two_gpus().memory(64 << 20), &GENERATE);
    assert_eq!(run.output.status.code(), Some(0), "{}", stderr(&run));
    let note = "note: the CPU computes alone: no GPU has room for any part of the model\n";
    assert!(stderr(&run).starts_with(note), "{}", stderr(&run));
}

#[test]
fn wishes_that_cannot_be_met_are_refused() {
    let cases: [(&Machine, &[&str], &[&str]); 8] = [
        (
            &machine(),
            &["--device", "cuda:1"],
            &["this machine has no GPU 1, only GPU 0"],
        ),
        (
            &machine().devices(2),
            &["--device", "cuda:0,cuda:2"],
            &["this machine has no GPU 2, only GPU 0 to 1"],
        ),
        (
            &machine().devices(2),
            &["--device", "cuda:1,cuda:1"],
            &["cuda:1 is named twice"],
        ),
        (
            &machine().devices(3),
            &["--device", "cuda:0,cuda:1", "--max-memory", "2=700MB"],
            &["--device cuda:0,cuda:1 does not use GPU 2", "leave out one"],
        ),
        (
            &machine(),
            &["--device", "cpu", "--max-memory", "0=700MB"],
            &["--device cpu does not use GPU 0", "leave out one"],
        ),
        (
            &machine(),
            &["--device", "cuda:0", "--device-map", "cpu"],
            &["exclude each other"],
        ),
        (
            &machine().devices(0),
            &["--device", "cuda:0"],
            &["this machine has no GPU 0", "finds no GPU"],
        ),
        (
            &machine(),
            &["--device", "gpu"],
            &["expected auto, cpu, or a GPU as cuda:0"],
        ),
    ];
    for (machine, flags, words) in cases {
        let run = run_on(machine, &[&GENERATE[..], flags].concat());
        let said = stderr(&run);
        assert_eq!(run.output.status.code(), Some(2), "{flags:?}: {said}");
        assert_eq!(stdout(&run), "", "{flags:?}");
        for word in words {
            assert!(said.contains(word), "{flags:?}: {word} in {said}");
        }
    }
}

/// A driver that does not work is told of; that there is none, only to who asks.
#[test]
fn without_a_gpu_the_cpu_computes_and_says_why() {
    struct Case {
        machine: Machine,
        why: &'static str,
        is_broken: bool,
    }
    let cases = [
        Case {
            machine: machine().devices(0),
            why: "the CUDA driver finds no GPU",
            is_broken: false,
        },
        Case {
            machine: machine().library(Library::Foreign),
            why: "the CUDA driver lacks",
            is_broken: true,
        },
        Case {
            machine: machine().driver(11080),
            why: "the CUDA driver is for CUDA 11.8; the kernels need 12.0 or later",
            is_broken: true,
        },
        Case {
            machine: machine().compute(70),
            why: "has compute capability 7.0, and 7.5 is the least",
            is_broken: true,
        },
    ];
    for Case {
        machine,
        why,
        is_broken,
    } in cases
    {
        let run = run_on(&machine, &GENERATE);
        let said = stderr(&run);
        assert_eq!(run.output.status.code(), Some(0), "{said}");
        assert_eq!(said.contains(why), is_broken, "{why}: {said}");
        let note = said
            .lines()
            .find(|line| line.starts_with("note: the CPU computes alone: "));
        assert_eq!(note.is_some(), is_broken, "{said}");
        let run = run_on(&machine, &[&GENERATE[..], &["-v"]].concat());
        let said = stderr(&run);
        let line = said
            .lines()
            .find(|line| line.starts_with("no GPU computes: "));
        assert!(line.is_some_and(|line| line.contains(why)), "{why}: {said}");
        let run = run_on(&machine, &[&GENERATE[..], &["--device", "cuda:0"]].concat());
        assert_eq!(run.output.status.code(), Some(2));
        assert!(stderr(&run).contains(why), "{}", stderr(&run));
        // Who asks for the CPU has the driver left alone.
        let run = run_on(
            &machine,
            &[&GENERATE[..], &["--device", "cpu", "-v"]].concat(),
        );
        assert!(!stderr(&run).contains("GPU"), "{}", stderr(&run));
    }
}

#[test]
fn doctor_tells_of_a_gpu_and_measures_it_for_plans() {
    const CONTEXT: u64 = 123 << 20;
    let machine = machine().context(CONTEXT);
    let caches = tempfile::tempdir().unwrap();
    let on_machine = |args: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_llm-run"));
        program.args(args).env("XDG_CACHE_HOME", caches.path());
        let run = machine.run(&mut program);
        assert_eq!(run.output.status.code(), Some(0), "{}", stderr(&run));
        stdout(&run)
    };
    let table = on_machine(&["doctor", "--quick"]);
    let rows = [
        "GPU driver ",
        "GPU  ",
        "GPU bandwidth ",
        "PCIe bandwidth ",
        "GPU launches ",
        "GPU context ",
    ];
    for row in rows {
        let is_there = table.lines().any(|line| line.starts_with(row));
        assert!(is_there, "{row} in: {table}");
    }
    assert!(table.contains("compute capability 8.0"), "{table}");
    assert!(!table.contains("plans for GPUs"), "{table}");
    let report: Value =
        serde_json::from_str(&on_machine(&["doctor", "--quick", "--json"])).unwrap();
    assert_eq!(report["no_gpu_reason"], Value::Null);
    assert_eq!(report["cuda_version"], "12.2");
    assert_eq!(report["gpus"][0]["total_bytes"], MEMORY);
    assert_eq!(report["assumed"]["gpu_bytes_per_second"], Value::Null);
    let measured = &report["bandwidth"]["gpus"][0];
    for rate in [
        "copy",
        "to_gpu_pinned",
        "to_gpu_pageable",
        "from_gpu_pinned",
        "from_gpu_pageable",
    ] {
        let rate = measured[format!("{rate}_bytes_per_second")].as_f64();
        assert!(rate.is_some_and(|rate| rate > 0.0), "{report}");
    }
    for time in ["launch", "launch_in_graph", "hand_over"] {
        let seconds = measured[format!("{time}_seconds")].as_f64();
        assert!(seconds.is_some_and(|seconds| seconds > 0.0), "{report}");
    }
    // What a second process takes, as the first one sees it.
    assert_eq!(measured["context_bytes"], CONTEXT);
    let known: Value = serde_json::from_str(&on_machine(&["plan", "demo", "--json"])).unwrap();
    assert_eq!(known["memories"]["0"]["gpu_context"], CONTEXT);
    assert_eq!(known["gpu_contexts"]["0"]["is_measured"], true);
    let speeds = &known["tokens_per_second"]["gpus"]["0"];
    assert_eq!(
        speeds["launch_seconds"],
        measured["launch_in_graph_seconds"]
    );
    assert_eq!(speeds["hand_over_seconds"], measured["hand_over_seconds"]);
    assert_eq!(speeds["memory"], measured["copy_bytes_per_second"]);
    let plan = on_machine(&["plan", "demo", "-v"]);
    let context = "of GPU 0 the driver and the kernels take 129.0 MB (123.0 MiB), as `llm-run doctor` has measured";
    assert!(plan.contains(context), "{plan}");
    let plan = on_machine(&["plan", "demo"]);
    assert!(
        plan.contains("of GPU memory (measured on this machine"),
        "{plan}"
    );
    assert!(plan.contains("GPU 0 may hold"), "{plan}");
    assert!(plan.contains("are free"), "{plan}");
}

/// Kernels of a step, which expected tokens a second count, are about as many as are started for one more token.
#[test]
fn planned_launches_are_those_of_a_step() {
    for model in ["demo", "models/qwen3-moe", "models/gpt2"] {
        let model = match model {
            "demo" => model.to_owned(),
            name => fixture(name),
        };
        let launches = |n_new: &str| {
            let args = ["generate", &model, "--token-ids", "5,6,7", "--ignore-eos"];
            let args = [&args[..], &["--max-new-tokens", n_new, "--dtype", "f32"]].concat();
            let run = run_on(&machine(), &args);
            assert_eq!(run.output.status.code(), Some(0), "{}", stderr(&run));
            let kernels = run.report.unwrap().kernels.into_values();
            kernels.map(|kernel| kernel.launches).sum::<u64>()
        };
        let counted = (launches("8") - launches("4")) as f64 / 4.0;
        let plan = json_on(&machine(), &["plan", &model, "--dtype", "f32", "--json"]);
        let planned = plan["tokens_per_second"]["launches"].as_f64().unwrap();
        let share = planned / counted;
        assert!(
            (0.75..1.34).contains(&share),
            "{model}: {planned} of {counted}"
        );
    }
}

/// What the GPU has no room for computes where that is faster by what was measured, in a plan and in the run.
#[test]
fn weights_beside_a_gpu_compute_where_that_is_faster() {
    let machine = machine();
    let caches = tempfile::tempdir().unwrap();
    let on_machine = |args: &[&str]| -> Value {
        let mut program = Command::new(env!("CARGO_BIN_EXE_llm-run"));
        program.args(args).env("XDG_CACHE_HOME", caches.path());
        let run = machine.run(&mut program);
        assert_eq!(run.output.status.code(), Some(0), "{}", stderr(&run));
        serde_json::from_str(&stdout(&run)).unwrap()
    };
    let measured = on_machine(&["doctor", "--quick", "--json"]);
    let plan = |flags: &[&str]| {
        let args = [
            "plan",
            "demo",
            "--dtype",
            "f32",
            "--context",
            "11",
            "--json",
        ];
        on_machine(&[&args[..], flags].concat())
    };
    let all = plan(&[])["memories"]["0"]["needed"].as_u64().unwrap();
    let budget = ["--max-memory", &format!("0={}", all - 500_000)];
    let expected = support::json(&[&GENERATE[..], &["--json"]].concat());
    for (ram, products, computes) in [(1e9, 1e3, "0"), (1e15, 1e15, "cpu")] {
        let mut kept = measured.clone();
        kept["bandwidth"]["ram_bytes_per_second"] = ram.into();
        kept["bandwidth"]["cpu_products_per_second"] = products.into();
        let path = caches.path().join("llm-run/doctor.json");
        std::fs::write(path, kept.to_string()).unwrap();
        let plan = plan(&budget);
        let units = plan["units"].as_array().unwrap().iter();
        let mut beside = units.filter(|unit| unit["home"] == "cpu").peekable();
        assert!(beside.peek().is_some(), "{plan}");
        assert!(beside.all(|unit| unit["computes_on"] == computes), "{plan}");
        let found = on_machine(&[&GENERATE[..], &budget, &["--json"]].concat());
        assert_eq!(found["generated_ids"], expected["generated_ids"]);
        let device = found["device"].as_str().unwrap();
        assert!(device.starts_with("cuda:0"), "{device}");
        assert_eq!(device.contains(" and "), computes == "cpu", "{device}");
    }
}
