//! A whole model in 8 and 4 bits: quantizing it while it is loaded, and decoding, beside the same model as it is.
//!
//! `cargo bench -p llm-benches --bench quantized [-- FOLDER]` takes SmolLM2 (`cargo xtask fetch-model smollm2`) unless a
//! model's folder is given.

#![allow(clippy::print_stdout, reason = "a benchmark prints what it finds")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use llm_benches::{cpu, interleaved};
use llm_cpu::Cpu;
use llm_plan::{RunOn, WeightDType};
use llm_quant::{Code, LoadIn, QuantConfig, StoredBytes};
use llm_runtime::{BoundModel, Limits, LoadOptions, Session, load};
use llm_tensor::Bytes;

const N_HELD: usize = 16;

fn main() -> Result<()> {
    // Cargo adds `--bench` to what it passes on.
    let given = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = given.map_or_else(|| root.join("models/smollm2"), |path| root.join(path));
    let model = BoundModel::open(&folder).with_context(|| folder.display().to_string())?;
    let cpu = cpu(None);
    let source: Bytes = model
        .tensors()
        .map(|bound| bound.tensor.stored_bytes())
        .sum();
    println!("{}, {source}", folder.display());

    // Once, so that the files are in memory.
    open(&model, &cpu, None)?;
    let mut sessions = Vec::new();
    for (name, quant) in schemes() {
        let mut fastest = f64::INFINITY;
        for _ in 0..3 {
            let begin = Instant::now();
            open(&model, &cpu, quant.as_ref())?;
            fastest = fastest.min(begin.elapsed().as_secs_f64());
        }
        let before = anonymous();
        let session = open(&model, &cpu, quant.as_ref())?;
        let kept = kept(&model, quant.as_ref())?;
        println!(
            "  {name:10} loaded in {fastest:6.3} s, {:5.1} GB/s of the source | {} kept | {} anonymous more than before",
            source.get() as f64 / fastest / 1e9,
            kept.total(),
            anonymous().saturating_sub(before),
        );
        sessions.push((name, session));
    }
    let ids: Vec<u32> = (3..3 + N_HELD as u32).collect();
    for (_, session) in &mut sessions {
        session.prefill(0, &ids)?;
    }
    let mut steps: Vec<_> = sessions
        .iter_mut()
        .map(|(_, session)| {
            move || {
                session.step(&[(0, 5)]).expect("a step of a loaded model");
                session.truncate(0, N_HELD);
            }
        })
        .collect();
    let mut runs: Vec<&mut dyn FnMut()> = steps.iter_mut().map(|step| step as _).collect();
    let seconds = interleaved(25, &mut runs);
    drop(steps);
    for ((name, _), time) in sessions.iter().zip(&seconds) {
        println!(
            "  {name:10} decode {:6.1} tokens/s, {:.2} times that of dense weights",
            1.0 / time,
            seconds[0] / time
        );
    }
    Ok(())
}

fn schemes() -> Vec<(&'static str, Option<QuantConfig>)> {
    let four_bit = |code, double_quant| {
        Some(QuantConfig {
            bnb_4bit_quant_type: code,
            bnb_4bit_use_double_quant: double_quant,
            ..QuantConfig::new(LoadIn::FourBit)
        })
    };
    vec![
        ("dense", None),
        ("int8", Some(QuantConfig::new(LoadIn::EightBit))),
        ("nf4", four_bit(Code::Nf4, false)),
        ("nf4 double", four_bit(Code::Nf4, true)),
        ("fp4", four_bit(Code::Fp4, false)),
    ]
}

fn open(model: &BoundModel, cpu: &Arc<Cpu>, quant: Option<&QuantConfig>) -> Result<Session> {
    let limits = Limits {
        n_sequences: 1,
        context: 2 * N_HELD,
        n_tokens: N_HELD,
        n_logits: 1,
    };
    let options = LoadOptions {
        dtype: WeightDType::Auto,
        quant,
        encoder: &**cpu,
        limits,
        offload: None,
    };
    Ok(load(model, cpu, &options, &mut |_| ())?)
}

/// Bytes of the weights once they are loaded.
fn kept(model: &BoundModel, quant: Option<&QuantConfig>) -> Result<StoredBytes> {
    let encodings = model.encodings(WeightDType::Auto, quant)?;
    let mut sum = StoredBytes::default();
    for bound in model.tensors() {
        let (rows, cols) = bound.slot.matrix();
        let scheme = encodings.scheme(bound.slot, bound.stored(), RunOn::Cpu);
        let stored = scheme.stored_bytes(rows as u64, cols as u64);
        sum.elements += stored.elements;
        sum.statistics += stored.statistics;
    }
    Ok(sum)
}

/// Anonymous memory of the process, as the kernel counts it.
fn anonymous() -> Bytes {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
    Bytes::new(kib.unwrap_or(0u64) * 1024)
}
