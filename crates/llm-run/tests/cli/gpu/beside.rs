//! What a GPU has beside it: cuBLAS, another process's memory, RAM whose pages are not locked, and a disk.

use std::path::Path;
use std::process::Command;

use cuda_emulator::harness::BlasLibrary;
use serde_json::{Value, json};

use super::seeds::write_model;
use super::{GENERATE, MEMORY, json_on, machine, run_on, stderr, stdout};
use crate::support;

/// A model of one layer.
fn one_layer(folder: &Path, width: u64, vocab: u64) -> String {
    let config = json!({"model_type": "llama", "hidden_size": 256, "intermediate_size": width, "vocab_size": vocab,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": false});
    let path = folder.join("original.json");
    std::fs::write(&path, config.to_string()).unwrap();
    write_model(folder, &path, &json!({}));
    folder.to_str().unwrap().to_owned()
}

fn long_prompt(model: &str) -> Vec<String> {
    let ids: Vec<String> = (0..128).map(|i| (i % 60).to_string()).collect();
    let ids = ids.join(",");
    let args = ["generate", model, "--token-ids", &ids, "--max-new-tokens"];
    let more = ["1", "--dtype", "f32", "--context", "136", "--greedy", "-v"];
    args.into_iter().chain(more).map(str::to_owned).collect()
}

#[test]
fn cublas_multiplies_a_long_prompt_as_planned_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = one_layer(folder.path(), 6144, 64);
    let machine = machine().memory(2 * MEMORY).blas(BlasLibrary::Emulated);
    let args = long_prompt(&model);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let run = run_on(&machine, &args);
    let said = stderr(&run);
    assert_eq!(run.output.status.code(), Some(0), "{said}");
    let line = "products of many rows on cuda:0 (";
    let line = said.lines().find(|said| said.starts_with(line));
    // Gate, up and down are large enough, projections of attention are not.
    let by = ": 3 by cuBLAS 12.4.5, 4 by own kernels";
    assert!(line.is_some_and(|line| line.ends_with(by)), "{said}");
    let on_cpu = support::run(&[&args[..], &["--device", "cpu"]].concat());
    assert_eq!(stdout(&run), on_cpu.stdout);

    // The plan has its memory, and that of the run is as planned.
    let with = json_on(&machine, &[&args[..args.len() - 1], &["--json"]].concat());
    let gpu = &with["memory"]["gpus"]["0"];
    let term = |of: &str| gpu[of]["workspace"].as_u64().unwrap();
    assert_eq!(term("planned"), term("allocated"));
    assert!(term("planned") > 32 << 20, "{gpu}");
    let plan = |machine| {
        let args = [
            "plan",
            &model,
            "--dtype",
            "f32",
            "--context",
            "136",
            "--json",
        ];
        json_on(machine, &args)
    };
    let [with, without] = [&machine, &machine.clone().blas(BlasLibrary::Missing)].map(plan);
    let more = |memory: &str, term: &str| {
        let of = |plan: &Value| plan["memories"][memory][term].as_u64().unwrap();
        of(&with) - of(&without)
    };
    assert_eq!(more("0", "workspace"), 32 << 20);
    assert_eq!(more("0", "gpu_context"), 256 << 20);
    assert_eq!(more("cpu", "program"), 176 << 20);
    assert_eq!(with["gpu_contexts"]["0"]["cublas_bytes"], 256 << 20);
}

#[test]
fn who_has_no_cublas_is_told_so_where_it_would_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let model = one_layer(folder.path(), 256, 24_000);
    let args = long_prompt(&model);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let run = run_on(&machine(), &args);
    let said = stderr(&run);
    assert_eq!(run.output.status.code(), Some(0), "{said}");
    let by = ": 7 by own kernels: cuBLAS is not installed\n";
    assert!(said.contains(by), "{said}");
}

/// What a second process takes of a GPU, with cuBLAS and without, is counted by plans, those of headers alone among them.
#[test]
fn what_doctor_measures_of_a_process_is_planned_with() {
    const CONTEXT: u64 = 77 << 20;
    const POOL: u64 = 8 << 20;
    let machine = machine().context(CONTEXT).blas(BlasLibrary::Emulated);
    let caches = tempfile::tempdir().unwrap();
    let on_machine = |args: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_llm-run"));
        program.args(args).env("XDG_CACHE_HOME", caches.path());
        let run = machine.run(&mut program);
        assert_eq!(run.output.status.code(), Some(0), "{}", stderr(&run));
        serde_json::from_str::<Value>(&stdout(&run)).unwrap()
    };
    let report = on_machine(&["doctor", "--quick", "--json"]);
    let measured = &report["bandwidth"]["gpus"][0];
    assert_eq!(measured["context_bytes"], CONTEXT);
    assert_eq!(measured["cublas_bytes"], POOL);
    let plan = on_machine(&["plan", "demo", "--json"]);
    assert_eq!(plan["memories"]["0"]["gpu_context"], CONTEXT + POOL);

    // Of a model that cannot be run.
    let folder = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string(support::asset("config.json")).unwrap();
    let config = config.replace("\"llama\"", "\"unheard_of\"");
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let weights = support::asset("model.safetensors");
    std::fs::copy(weights, folder.path().join("model.safetensors")).unwrap();
    let plan = on_machine(&["plan", folder.path().to_str().unwrap(), "--json"]);
    let needed = plan["needed"]["0"].as_u64().unwrap();
    assert!(
        needed > CONTEXT && needed < CONTEXT + (32 << 20),
        "{needed}"
    );
}

/// Quantized layers in RAM and on disk make the tokens of those on the GPU, and pages that are not locked are told of.
#[test]
fn a_map_over_gpu_ram_and_disk_makes_the_tokens_of_the_gpu() {
    let map = json!({"model.embed_tokens": 0, "model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": 0,
        "model.layers.3": "disk", "model.layers.4": "cpu", "model.norm": 0});
    let map = map.to_string();
    let folder = tempfile::tempdir().unwrap();
    let offload = folder.path().to_str().unwrap();
    let pageable = machine().registers(false);
    let note = "note: the driver does not lock ";
    for quant in ["--load-in-4bit", "--load-in-8bit"] {
        let args = [&GENERATE[..5], &[quant, "--greedy", "--json"]].concat();
        let args = |more: &[&'static str]| [&args[..], more].concat();
        let whole = json_on(&machine(), &args(&["--device", "cuda:0"]));
        for (machine, is_told) in [(&machine(), false), (&pageable, true)] {
            let place = ["--device-map", &map, "--offload-folder", offload];
            let run = run_on(machine, &[&args(&[])[..], &place].concat());
            assert_eq!(run.output.status.code(), Some(0), "{}", stderr(&run));
            let found: Value = serde_json::from_str(&stdout(&run)).unwrap();
            assert_eq!(found["generated_ids"], whole["generated_ids"], "{quant}");
            assert_eq!(stderr(&run).contains(note), is_told, "{}", stderr(&run));
            let gpu = &found["memory"]["gpus"]["0"];
            let both = ["planned", "allocated"].map(|of| gpu[of]["staging"].as_u64());
            assert_eq!(both[0], both[1], "{gpu}");
            assert!(both[0] > Some(0), "{gpu}");
        }
    }
}
