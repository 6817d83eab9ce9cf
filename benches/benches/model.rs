//! A whole model: decoding beside a plain read of as many bytes, a prompt at once beside token by token, and loading.
//!
//! `cargo bench -p llm-benches --bench model [-- FOLDER]` takes SmolLM2 (`cargo xtask fetch-model smollm2`) unless a
//! model's folder is given. Its weights are loaded in their own element type, quantized ones as bf16.

#![allow(clippy::print_stdout, reason = "a benchmark prints what it finds")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use llm_arch::Role;
use llm_benches::{cpu, interleaved, weights};
use llm_plan::WeightDType;
use llm_runtime::{BoundModel, Limits, LoadOptions, Session, load};

const PROMPT: usize = 512;

fn main() -> Result<()> {
    // Cargo adds `--bench` to what it passes on.
    let given = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = given.map_or_else(|| root.join("models/smollm2"), |path| root.join(path));
    let cpu = cpu(None);

    let limits = Limits {
        n_sequences: 1,
        context: 2 * PROMPT,
        n_tokens: PROMPT,
        n_logits: 1,
    };
    let open = || -> Result<(BoundModel, Session)> {
        let model = BoundModel::open(&folder)?;
        let options = LoadOptions {
            dtype: WeightDType::Auto,
            quant: None,
            encoder: &*cpu,
            limits,
            offload: None,
        };
        let session = load(&model, &Arc::clone(&cpu), &options, &mut |_| ())?;
        Ok((model, session))
    };
    let (model, mut session) = open().with_context(|| folder.display().to_string())?;
    let mut seconds = (0..5).map(|_| {
        let begin = Instant::now();
        open().map(|_| begin.elapsed().as_secs_f64())
    });
    let fastest = seconds.try_fold(f64::INFINITY, |fastest, time| {
        time.map(|time| fastest.min(time))
    })?;
    println!(
        "{}, {}: opened and loaded in {fastest:.3} s",
        folder.display(),
        session.dtype()
    );

    // What a token multiplies with: every matrix, of the tables only one that also makes the logits.
    let is_matrix = |role| !matches!(role, Role::TokenTable | Role::PositionTable);
    let mut shapes: Vec<(usize, usize)> = Vec::new();
    for slot in &model.skeleton().slots {
        if let (true, &[rows, cols]) = (is_matrix(slot.role), slot.shape.as_slice()) {
            shapes.push((rows, cols));
        }
    }
    if model.spec().head.matrix == llm_arch::HeadMatrix::Tied {
        shapes.push((model.spec().vocab, model.spec().hidden));
    }
    let (_, bytes) = weights(session.dtype(), &shapes);

    let ids: Vec<u32> = (0..PROMPT as u32)
        .map(|i| 3 + i % 997 % (model.spec().vocab as u32 - 3))
        .collect();
    for n_held in [16, PROMPT] {
        session.truncate(0, 0);
        session.prefill(0, &ids[..n_held])?;
        let mut read = || cpu.read_through(&bytes);
        let mut step = || {
            session
                .step(&[(0, ids[0])])
                .expect("a step of a loaded model");
            session.truncate(0, n_held);
        };
        let seconds = interleaved(25, &mut [&mut read, &mut step]);
        let speed = |seconds: f64| bytes.len() as f64 / seconds / 1e9;
        println!(
            "after {n_held:3} tokens: read {:5.1} GB/s | decode {:6.1} tokens/s, {:5.1} GB/s of weights | {:3.0}% of read",
            speed(seconds[0]),
            1.0 / seconds[1],
            speed(seconds[1]),
            100.0 * seconds[0] / seconds[1],
        );
    }

    let session = std::cell::RefCell::new(session);
    let mut at_once = || {
        let mut session = session.borrow_mut();
        session.truncate(0, 0);
        session
            .prefill(0, &ids)
            .expect("a prompt of a loaded model");
    };
    let mut one_by_one = || {
        let mut session = session.borrow_mut();
        session.truncate(0, 0);
        for &id in &ids {
            session.step(&[(0, id)]).expect("a step of a loaded model");
        }
    };
    let seconds = interleaved(3, &mut [&mut at_once, &mut one_by_one]);
    println!(
        "prompt of {PROMPT}: at once {:.3} s, {:.0} tokens/s | token by token {:.2} s | {:.1} times faster",
        seconds[0],
        PROMPT as f64 / seconds[0],
        seconds[1],
        seconds[1] / seconds[0],
    );
    Ok(())
}
