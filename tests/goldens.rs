//! Every golden model on every backend: the reference library's logits, ids, and the ways to reach them.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails where it meets the unexpected, and says what it skips"
)]

use std::cell::Cell;
use std::fs;
use std::num::NonZeroUsize;

use llm_arch::MlpSpec;
use llm_backend::Reference;
use llm_checkpoint::Checkpoint;
use llm_conformance::Deferred;
use llm_cpu::{Cpu, CpuOptions, Isa};
use llm_runtime::BoundModel;
use llm_tensor::{DType, Gate};
use llm_tests::{
    GOLDEN_TOLERANCE, check_goldens, device, fixture, golden, relative_error, score, session,
};

/// Whatever a queue puts off, and in whichever order it is done that queues and events allow.
#[test]
fn deferred_queues_compute_the_same() {
    let seed = Cell::new(0);
    check_goldens(&|| {
        seed.set(seed.get() + 1);
        device(Deferred::new(seed.get()))
    });
}

/// As GGUF: what its metadata cannot say of the fixture is set right.
#[test]
fn gguf_holds_the_same_models() {
    let names = fs::read_dir(fixture("gguf-models"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files: Vec<_> = names
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "gguf"))
        .collect();
    assert_eq!(files.len(), 74);
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let (folder, expected) = golden(name);
        let original = BoundModel::open(&folder).unwrap();
        let model = BoundModel::open(&path).unwrap_or_else(|e| panic!("{e}"));
        let mut skeleton = model.skeleton().clone();
        if ["gemma2", "gemma3", "smollm3", "cohere2", "starcoder2"].contains(&name) {
            // Scores' scale, which of so few layers slide, and which turn queries and keys.
            let attentions = skeleton.spec.decoder.attentions_mut();
            for (attention, original) in attentions.zip(original.spec().decoder.attentions()) {
                (attention.scale, attention.window, attention.rotary_idx) =
                    (original.scale, original.window, original.rotary_idx);
            }
        }
        if name.starts_with("llama4") {
            // Chunks, norms, layers without positions, and how queries grow, which all published models share.
            let attentions = skeleton.spec.decoder.attentions_mut();
            for (attention, original) in attentions.zip(original.spec().decoder.attentions()) {
                (attention.window, attention.chunked) = (original.window, original.chunked);
                (attention.rotary_idx, attention.growth_idx) =
                    (original.rotary_idx, original.growth_idx);
                attention.turned_norm = original.turned_norm;
            }
            let grown = original.spec().decoder.positions.rotary()[1].clone();
            skeleton.spec.decoder.positions.rotary_mut()[1] = grown;
        }
        if name == "gpt-oss" {
            // The bound of gates, which all published models share.
            let layers = skeleton.spec.decoder.layers.iter_mut();
            for (layer, original) in layers.zip(&original.spec().decoder.layers) {
                if let (MlpSpec::Experts(experts), Some(original)) =
                    (&mut layer.mlp, original.mlp.experts())
                    && let (Gate::Clamped(gate), Gate::Clamped(original)) =
                        (&mut experts.gate, original.gate)
                {
                    gate.limit = original.limit;
                }
            }
        }
        let model = BoundModel::bind(Checkpoint::open(&path).unwrap(), skeleton).unwrap();
        let mut session = session(Reference::new(), &model, DType::F32, 1, 64);
        let error = relative_error(
            &score(&mut session, 0, &expected.input_ids),
            &expected.logits,
        );
        assert!(
            error <= GOLDEN_TOLERANCE,
            "{name}: as GGUF it is off by {error:.1e}"
        );
    }
}

#[test]
fn reference_computes_what_the_goldens_say() {
    check_goldens(&|| device(Reference::new()));
}

#[test]
fn the_cpu_computes_what_the_goldens_say() {
    for isa in Isa::ALL {
        for threads in [1, 2] {
            let options = CpuOptions {
                isa: Some(isa),
                threads: NonZeroUsize::new(threads),
                ..CpuOptions::default()
            };
            match Cpu::new(options) {
                Ok(_) => check_goldens(&|| device(Cpu::new(options).unwrap())),
                Err(error) => println!("skipped: {error}"),
            }
        }
    }
}
